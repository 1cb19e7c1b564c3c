"""Images: reading and writing files, resizing, drawing spectrograms and attention maps."""
