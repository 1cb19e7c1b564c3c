"""What the paper measures, for any folder of sounds."""
