"""What a run stands on: the device mesh, checkpoints, the log, and what is due when."""
