"""Theorem 3.1 of the paper, measured: why a mask may take the place of attention weights."""
