"""Keeps libraries from printing what users cannot act on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from absl import flags, logging

_FAKE_TPU = {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_LOG_DIR": "disabled"}


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hides what libraries log within the block; what users need, we log. Enter it before JAX looks for devices."""
    # Where libtpu is installed but JAX found no TPU (and has set this variable), libtpu prints five lines of warnings
    # at every start, and keeps logs of them, unless it is given a type.
    if os.environ.get("TPU_SKIP_MDS_QUERY") == "1":
        for name, value in _FAKE_TPU.items():
            os.environ.setdefault(name, value)
    verbosity = flags.FLAGS["verbosity"]  # of absl's logging, which Orbax uses
    before = verbosity.value
    if verbosity.using_default_value:
        verbosity.value = logging.FATAL
    try:
        yield
    finally:
        verbosity.value = before
