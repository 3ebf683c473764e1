"""The flags that entry points share, and how errors become exit codes."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from lovecraft_jax.runtime import distributed
from lovecraft_jax.runtime.compile_cache import enable_compile_cache
from lovecraft_jax.runtime.console import log
from lovecraft_jax.runtime.errors import FAILED, INTERRUPTED, WRONG_INPUT, RunError, UserError

_NO_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")
_NO_TPU = {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_LOG_DIR": "disabled"}
_EXTRAS = {"gpu": "pip install -r requirements.txt 'jax[cuda13]'", "tpu": "pip install -r requirements.txt 'jax[tpu]'"}


def define_config_flag() -> None:
    """--config, and with it one for each of its values."""
    config_flags.DEFINE_config_file("config", None, "An experiment, as configs/c150.py or configs/c150.py:quick.")


def define_train_flags() -> None:
    """--config, --workdir, --platform, --num_cpu_devices, and those of many processes."""
    define_config_flag()
    flags.DEFINE_string("workdir", None, "Where the run is kept; runs/<config>[-<variant>] by default.")
    flags.DEFINE_integer(
        "num_cpu_devices", 0, "Cores of a CPU to train on as devices; 0: what is fastest.", lower_bound=0
    )
    flags.DEFINE_integer("profile", 0, "Training steps to trace into WORKDIR/profile; 0: none.", lower_bound=0)
    _define_platform()
    _define_processes()


def define_run_flags(several: bool = False) -> None:
    """--workdir, of `several` runs where it is given so often, --checkpoint, --platform."""
    define = flags.DEFINE_multi_string if several else flags.DEFINE_string
    define("workdir", None, "The folder of a run.")
    flags.DEFINE_string("checkpoint", "best", "best, latest, or a step.")
    _define_platform()


def default_workdir() -> str:
    """runs/<config>, or runs/<config>-<variant>, for the --config that was given."""
    name, _, variant = Path(config_flags.get_config_filename(flags.FLAGS["config"])).name.partition(":")
    return os.path.join("runs", name.removesuffix(".py") + (f"-{variant}" if variant else ""))


def required(name: str, example: str) -> Any:
    """A flag's value. Raises UserError where it was not given, or given without a value."""
    value = given(name)
    if value is None:
        raise UserError(f"--{name} is missing; for example --{name}={example}")
    return value


def given(name: str) -> Any:
    """A flag's value or None. Raises UserError where it is empty, as from a shell variable that was not set."""
    value = flags.FLAGS[name].value
    if value == "" or (isinstance(value, list) and "" in value):
        raise UserError(f"--{name}= is empty: give it a value or leave it out")
    return value


def cores() -> int:
    """How many cores of a CPU to train on as devices, 0 for as many as pay.

    Raises UserError where they are asked for and JAX has other devices.
    """
    asked, devices = flags.FLAGS.num_cpu_devices, jax.devices()
    if asked and distributed.count() > 1:
        raise UserError(
            f"--num_cpu_devices={asked} with {distributed.count()} processes: each is one device; leave it out"
        )
    if devices[0].platform != "cpu" and asked:
        raise UserError(f"--num_cpu_devices={asked}: training on {devices[0].platform}; add --platform=cpu")
    if devices[0].platform != "cpu" or len(devices) > 1:  # as JAX_NUM_CPU_DEVICES makes them
        return 1
    return asked


def run(main: Callable[[], int], devices: bool = True) -> None:
    """Parses flags, calls `main`, exits with its code. Without `devices`, `main` leaves the computing to others.

    Wrong input, in a flag, a config or anything below that raises UserError, is one line on standard error and exit
    code 2.
    """
    for flag in flags.FLAGS.get_flags_for_module(__name__):  # --help shows the flags of the module that was started
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(lambda argv: sys.exit(guarded(lambda: _with_devices(main) if devices else main())), flags_parser=_parse)


def guarded(main: Callable[[], int]) -> int:
    """The exit code of `main`, after a line on whatever the user is to know of."""
    try:
        _quiet_libtpu()
        return main()
    except UserError as error:
        return _report_error(error, WRONG_INPUT)
    except RunError as error:
        _report_error(error, FAILED)
        sys.stdout.flush()
        os._exit(FAILED)  # Orbax leaves threads behind that wait, for minutes, for parts of a save that has failed
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY)):
            raise
        return _report_error(
            f"out of memory ({str(error).splitlines()[0][:200]}): use a smaller model or batch, or write less",
            FAILED,
        )
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return _report_error("interrupted", INTERRUPTED)


def _with_devices(main: Callable[[], int]) -> int:
    enable_compile_cache()
    _find_devices(flags.FLAGS.platform)
    return main()


def _report_error(what: object, code: int) -> int:
    text = str(what).strip().rpartition("earlier failure to load: ")[-1]
    if "Traceback" in text:  # what get_config raised, as ml_collections hands it on
        text = text.splitlines()[-1]
    text = " ".join(text.split())
    if isinstance(what, KeyError | AttributeError) and text[:1] in "'\"":  # a missing key, as the repr of a message
        text = "no such setting in the config: " + text.strip("'\"").replace("\\'", "'").replace("\\n", " ")
    text = re.sub(r"Failed loading config file \S+ Attempted \[Relative path\]: ", "--config=", text)
    text = re.sub(r"\('(.*)', '.*'\)$", r"\1", text)  # a tuple for a message
    log(text)
    return code


def _parse(argv: Sequence[str]) -> Sequence[str]:
    """absl's parsing, where ml_collections loads the config; whatever either raises there is the user's to mend."""
    try:
        rest = _parsed(argv)
        verbosity = flags.FLAGS["verbosity"]
        if verbosity.using_default_value:  # libraries log much; what a user should read, we say
            verbosity.value, verbosity.using_default_value = logging.FATAL, False
        if rest[1:]:
            raise UserError(f"unexpected arguments {' '.join(rest[1:])!r}: flags begin with --")
        if "config" in flags.FLAGS and flags.FLAGS.config is not None:
            flags.FLAGS.config.to_dict()  # a config that failed to load raises only when it is first read
        return rest
    except (UserError, flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        sys.exit(_report_error(error, WRONG_INPUT))
    except Exception as error:  # a config is Python: it can raise anything
        sys.exit(_report_error(f"the config cannot be loaded: {type(error).__name__}: {error}", WRONG_INPUT))


def _parsed(argv: Sequence[str]) -> Sequence[str]:
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # --help and its kin, which absl ends with 1
        sys.exit(0)


def _define_platform() -> None:
    flags.DEFINE_enum(
        "platform", "auto", ["auto", "cpu", "gpu", "tpu"], "Where to compute; auto takes the best there is."
    )


def _quiet_libtpu() -> None:
    """A libtpu that is installed where JAX has found no TPU is told some kind of one: else it complains that it knows
    none, in five lines, at every start. It keeps no logs of that either."""
    if os.environ.get("TPU_SKIP_MDS_QUERY") == "1":  # as JAX sets it then
        for name, value in _NO_TPU.items():
            os.environ.setdefault(name, value)


def _find_devices(platform: str) -> None:
    if platform != "auto":
        jax.config.update("jax_platforms", platform)
    _join_processes()
    try:
        distributed.find_devices()
    except RuntimeError as error:
        if platform == "auto":
            raise
        raise UserError(f"--platform={platform}: none found here; {_EXTRAS.get(platform, '')} ({error})") from None


def _define_processes() -> None:
    flags.DEFINE_bool("distributed", False, "Train as one of many processes, as a TPU pod, Slurm or Kubernetes tell.")
    flags.DEFINE_string("coordinator_address", None, "By hand: HOST:PORT of process 0, a port that is free there.")
    flags.DEFINE_integer("num_processes", None, "By hand: how many there are.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "By hand: which of them this is, from 0.", lower_bound=0)
    flags.DEFINE_integer("start_timeout", 20, "Seconds to wait for the other processes at the start.", lower_bound=1)


def _join_processes() -> None:
    if "distributed" not in flags.FLAGS:
        return
    names = ("coordinator_address", "num_processes", "process_id")
    address, count, number = (given(name) for name in names)
    if any(value is not None for value in (address, count, number)):
        for name, value in zip(names, (address, count, number), strict=True):
            if value is None:
                raise UserError(
                    f"--{name} is missing: the flags {', '.join(f'--{name}' for name in names)} go together"
                )
        if number >= count:
            raise UserError(f"--process_id={number} with --num_processes={count}: expected 0 to {count - 1}")
        if not re.fullmatch(r".+:\d+", address):
            raise UserError(f"--coordinator_address={address}: expected HOST:PORT, as 10.0.0.1:1234")
    if flags.FLAGS.distributed or address:
        distributed.start(address, count, number, flags.FLAGS.start_timeout)
