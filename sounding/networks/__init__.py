"""U-Net, VAE and vocoder: built from their configuration, and run in windows and in a precision that holds."""
