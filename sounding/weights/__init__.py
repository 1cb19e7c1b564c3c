"""Other people's weights: downloads, and files read without unpickling."""
