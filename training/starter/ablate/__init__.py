"""The paper's ablations at a scale that a small computer can run: short trainings from a common start."""
