"""The process, the machine and its files: errors, console, signals, devices, distributed processes."""
