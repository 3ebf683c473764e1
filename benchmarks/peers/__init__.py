"""The systems that are measured. Each module gives functions `(config) -> step(count)`, which trains `count` steps to
their very end, feeding data included; it runs in a process of its own."""
