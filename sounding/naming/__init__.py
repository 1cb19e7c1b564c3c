"""What is it? Names of what a mask shows."""
