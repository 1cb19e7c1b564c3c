"""A person's own objects, taught to a trained model."""
