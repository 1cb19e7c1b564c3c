"""Models that hear sounds, or sounds and images, for the metrics: each is read safely from its published file."""
