"""python -m lovecraft_jax.report: one HTML page about a run, or several side by side."""
