"""Scripts that start training on this machine and on clusters, and ahead-of-time compilation."""
