"""The systems that are measured, each in its own process. `train(config)` returns `step(count)`, which runs `count`
training steps to their end, including their input data; `generate(config, streams)` does the same for characters."""
