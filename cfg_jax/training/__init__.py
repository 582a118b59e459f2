"""Training: from a config to checkpoints, in one loop."""
