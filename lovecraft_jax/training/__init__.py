"""Training: optimizer, step, compiled programs, checkpoints, logging, the loop."""
