"""python -m lovecraft_jax.sweep: a run for every combination of some settings' values, with several seeds."""
