"""Fine-tuning: a user's own objects, taught to a trained model."""
