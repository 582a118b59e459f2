"""What data, trainer, sampler and planner all need: devices, processes, checkpoints, files."""
