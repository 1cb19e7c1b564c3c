"""Audio-visual matching (appendix B.1): whether what is heard belongs to what is seen, as a probability."""
