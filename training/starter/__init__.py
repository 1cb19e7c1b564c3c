"""Everything that only the model in the box needs."""
