"""Sound: mel spectrograms, loudness, sampling rates, tracks and files."""
