"""What is trained: grounded diffusion, VAE, vocoder, encoders, segmenter."""
