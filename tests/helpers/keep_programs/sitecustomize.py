"""Lets every process of many keep its compiled programs, where the tests' child processes find this by PYTHONPATH.

JAX writes those of process 0 alone, for the sake of stores that all share. On CPUs the others' have names of their own:
they would be compiled again at each start, for seconds.
"""

import sys
from types import SimpleNamespace

if any(argument.startswith("--process_id=") for argument in sys.orig_argv):
    from jax._src import compiler

    compiler.distributed = SimpleNamespace(global_state=SimpleNamespace(process_id=0, client=None))
