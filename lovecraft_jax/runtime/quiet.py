"""Keeps libraries from printing what users cannot act on."""

import os

from absl import flags, logging

_FAKE_TPU = {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_LOG_DIR": "disabled"}


def silence_libraries() -> None:
    """Hides what libraries log in this process: libtpu, if JAX has not looked for devices yet, and users of absl's
    logging, as Orbax is, unless a verbosity was chosen. What users need, we log."""
    # Where libtpu is installed but JAX found no TPU (and has set this variable), libtpu prints five lines of warnings
    # at every start, and keeps logs of them, unless it is given a type.
    if os.environ.get("TPU_SKIP_MDS_QUERY") == "1":
        for name, value in _FAKE_TPU.items():
            os.environ.setdefault(name, value)
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.FATAL)
