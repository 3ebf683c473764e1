"""python -m lovecraft_jax.report: one HTML page about a run, or about several side by side."""
