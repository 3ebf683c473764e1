"""The flags that entry points share, and exit codes for errors."""

import errno
import os
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from lovecraft_jax.config import RENAMED
from lovecraft_jax.runtime.console import log, prepare_streams
from lovecraft_jax.runtime.errors import FAILED, INTERRUPTED, WRONG_INPUT, RunError, UserError

try:
    import jax
except ValueError as error:
    log(f"JAX does not start ({error}): correct or unset that variable of the environment, JAX_...")
    sys.exit(WRONG_INPUT)

from lovecraft_jax.runtime import distributed
from lovecraft_jax.runtime.compile_cache import enable_compile_cache
from lovecraft_jax.runtime.files import expand_home
from lovecraft_jax.runtime.quiet import silence_libraries
from lovecraft_jax.training.checkpoint import hide_failed_tasks_of_orbax

_WRITE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EPIPE)  # of an open file
_PARSE_ERRORS = (UserError, flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)  # of flags, configs
_EXTRAS = {"gpu": "pip install -r requirements.txt 'jax[cuda13]'", "tpu": "pip install -r requirements.txt 'jax[tpu]'"}


def define_config_flag() -> None:
    """Defines --config, and with it a flag for each of its values."""
    meaning = "An experiment, as configs/c150.py:quick. Its settings are flags, as --config.train.steps=500."
    config_flags.DEFINE_config_file("config", None, meaning)
    flags.FLAGS["config"].parser = _ConfigFile()
    flags.FLAGS["config"].allow_overwrite = False  # a second --config is refused


def define_train_flags() -> None:
    """Defines --config, --workdir, --take_over, --profile, --platform, and those for processes."""
    define_config_flag()
    flags.DEFINE_string("workdir", None, "The run's folder; runs/<config>[-<variant>] by default.")
    _define_take_over()
    flags.DEFINE_integer("profile", 0, "Training steps to trace into WORKDIR/profile; 0: none.", lower_bound=0)
    flags.DEFINE_bool("distributed", False, "Train as one of many processes of a TPU pod, Slurm or Kubernetes.")
    flags.DEFINE_string("coordinator_address", None, "By hand: HOST:PORT, a free port on the host of process 0.")
    flags.DEFINE_integer("num_processes", None, "By hand: the number of processes.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "By hand: the number of this process, from 0.", lower_bound=0)
    flags.DEFINE_integer("start_timeout", 20, "Seconds to wait for the other processes at the start.", lower_bound=1)
    _define_platform()


def define_sweep_flags() -> None:
    """Defines --config, --workdir, --take_over and --platform."""
    define_config_flag()
    flags.DEFINE_string("workdir", None, "The sweep's folder; runs/sweeps/<config>[-<variant>] by default.")
    _define_take_over()
    _define_platform()


def define_run_flags(several: str) -> None:
    """Defines --workdir, which may be repeated (`several` says what that does), --checkpoint, --corpus, --platform."""
    flags.DEFINE_multi_string("workdir", None, f"The folder of a run; repeated for several, it {several}.")
    flags.DEFINE_string("checkpoint", "best", "best, latest, or a step.")
    flags.DEFINE_string("corpus", None, "Where the text that was trained on is now, if it was moved.")
    _define_platform()


def parse_config(file: str, overrides: Sequence[tuple[str, str]]) -> ConfigDict:
    """Returns what --config=FILE gives with these flags of its settings, as ("optimizer.lr", "0.002"). Raises
    UserError."""
    line = ["", f"--config={file}", *(f"--config.{name}={value}" for name, value in overrides)]
    parsed = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=parsed, sys_argv=line)
    parsed["config"].parser = _ConfigFile()
    try:
        parsed(line)
    except _PARSE_ERRORS as error:
        raise UserError(_one_line(error)) from None
    return parsed["config"].value


def config_file() -> str:
    """Returns the value of --config, as configs/c150.py:quick."""
    return config_flags.get_config_filename(flags.FLAGS["config"])


def default_workdir(parent: str = "runs") -> str:
    """Returns <parent>/<config>, or <parent>/<config>-<variant>, for the value of --config."""
    name, _, variant = Path(config_file()).name.partition(":")
    return os.path.join(parent, name.removesuffix(".py") + (f"-{variant}" if variant else ""))


def required_flag(name: str, example: str) -> Any:
    """Returns a flag's value. Raises UserError where it is missing or empty."""
    value = optional_flag(name)
    if value is None:
        raise UserError(f"--{name} is missing; for example --{name}={example}")
    return value


def optional_flag(name: str) -> Any:
    """Returns a flag's value or None. Raises UserError where it is empty, as from a shell variable that is not set."""
    value = flags.FLAGS[name].value
    if value == "" or (isinstance(value, list) and "" in value):
        raise UserError(f"--{name}= is empty: give it a value or leave it out")
    return value


def run(main: Callable[[], int], find_devices: Callable[[], None] | None = distributed.find_devices) -> None:
    """Parses flags, finds the devices (None: `main` needs none), calls `main` and exits with its code; with 2 and one
    line on standard error for wrong input, in a flag, a config or anything below that raises UserError."""

    def with_devices() -> int:
        if find_devices:
            _prepare_platform(flags.FLAGS.platform, find_devices)
        return main()

    for flag in flags.FLAGS.get_flags_for_module(__name__):  # --help shows the flags of the module that was started
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    prepare_streams()
    app.run(lambda argv: sys.exit(report_errors(with_devices)), flags_parser=_parse)


def report_errors(main: Callable[[], int]) -> int:
    """Returns the exit code of `main`. Errors that are meant for the user become one line on standard error."""
    try:
        hide_failed_tasks_of_orbax()
        silence_libraries()
        code = main()
        sys.stdout.flush()
        return code
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and not error.filename and error.errno not in _WRITE_ERRNOS:
            raise  # about nothing that the user named: a fault of ours
        return _report_error(error, WRONG_INPUT)
    except RunError as error:
        _report_error(error, FAILED)
        os._exit(FAILED)  # after a save has failed, threads of Orbax wait for parts of it for minutes
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        signs = ("RESOURCE_EXHAUSTED", "Out of memory")
        if not (isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)):
            raise
        reason = str(error).partition("\n")[0][:200]
        return _report_error(f"out of memory ({reason}): use a smaller model or batch, or generate less text", FAILED)
    except KeyboardInterrupt:
        return _report_error("interrupted", INTERRUPTED)


def _report_error(error: object, code: int) -> int:
    """Logs the message of `error` as one line and returns `code`."""
    if isinstance(error, OSError) and not error.filename and error.errno in _WRITE_ERRNOS:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its exit
        if isinstance(error, BrokenPipeError):  # whoever read our output has closed it, as `head` does
            return FAILED
        error, code = f"standard output: cannot be written ({error.strerror})", FAILED
    line = _one_line(error)
    argument = re.match(r"(\w+)=", line)  # of the Python API, as in "length=0: ...": here it is a flag
    log(f"--{line}" if argument and argument[1] in flags.FLAGS else line)
    return code


def _one_line(error: object) -> str:
    """Returns the message of an error as one line."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError | AttributeError) and text[:1] in "'\"":  # the repr of a message about a missing key
        text = "no such setting in the config: " + text.strip("'\"").replace("\\'", "'").replace("\\n", " ")
        for (section, old), new in RENAMED.items():
            text += f"; it is now config.{section}.{new}" if re.search(rf"\b{old}\b", text) else ""
    text = re.sub(r"already defined as .*", "given a second time; give one", text)  # absl shows the whole config
    return re.sub(r"\('(.*)', '.*'\)$", r"\1", text)  # a message that is the repr of a tuple


def _parse(argv: Sequence[str]) -> Sequence[str]:
    """Parses the flags, which loads the config too. Exits with WRONG_INPUT where either raises."""
    try:
        rest = flags.FLAGS(argv)
        silence_libraries()  # here, because absl lowers the verbosity once the flags are parsed
        if rest[1:]:
            raise UserError(f"unexpected arguments {' '.join(rest[1:])!r}: flags begin with --")
        return rest
    except SystemExit:  # --help and the like, for which absl exits with 1
        sys.exit(report_errors(lambda: 0))
    except _PARSE_ERRORS as error:
        is_list = re.match(r"flag --config\.[^=]+=[^:]*,", str(error))
        hint = "; python -m lovecraft_jax.sweep takes several values" if is_list else ""
        sys.exit(_report_error(f"{_one_line(error)}{hint}", WRONG_INPUT))


class _ConfigFile(flags.ArgumentParser):
    """What --config takes: a Python file with a function get_config, and after a colon the function's argument."""

    def parse(self, argument: str) -> ConfigDict:
        """Returns the config, to which no setting can be added. Raises UserError, whatever the file raises."""
        if not argument:
            raise UserError("--config= is empty: give it a value or leave it out")
        try:
            path, *variant = expand_home(argument).split(":", 1)
            folder = os.path.dirname(os.path.realpath(path))
            if os.path.basename(folder) == "configs":  # so that `from configs import c150` finds those beside it
                sys.modules["configs"] = package = ModuleType("configs")
                package.__path__ = [folder]
            return runpy.run_path(path)["get_config"](*variant).lock()
        except FileNotFoundError as error:
            raise UserError(f"--config={argument}: no file {error.filename}; for example configs/c150.py") from None
        except (Exception, SystemExit) as error:
            why = f"{type(error).__name__}: {error}"
            raise UserError(f"--config={argument}: expected a get_config as in configs/c150.py ({why})") from None


def _define_take_over() -> None:
    meaning = "Start although the workdir has the lock file of another process, which was killed."
    flags.DEFINE_bool("take_over", False, meaning)


def _define_platform() -> None:
    meaning = "Where to compute; auto takes the best that is found."
    flags.DEFINE_enum("platform", "auto", ["auto", "cpu", "gpu", "tpu"], meaning)


def _prepare_platform(platform: str, find_devices: Callable[[], None]) -> None:
    enable_compile_cache()
    jax.config.update("jax_enable_x64", False)  # the types of numbers are the config's
    if platform != "auto":
        jax.config.update("jax_platforms", platform)
    _join_processes()
    try:
        find_devices()
    except RuntimeError as error:
        asked = f"--platform={platform}" if platform != "auto" else f"JAX_PLATFORMS={os.getenv('JAX_PLATFORMS')}"
        # JAX looks for an NVIDIA GPU before one of AMD's, and its error is only about the last.
        reason = "no NVIDIA GPU is visible" if platform == "gpu" and "'rocm'" in str(error) else error
        raise UserError(f"{asked}: none found here; {_EXTRAS.get(platform, '')} ({reason})") from None


def _join_processes() -> None:
    if "distributed" not in flags.FLAGS:
        return
    values = {f"--{name}": optional_flag(name) for name in ("coordinator_address", "num_processes", "process_id")}
    address, count, number = values.values()
    if missing := [name for name, value in values.items() if value is None]:
        if len(missing) < len(values):
            raise UserError(f"{missing[0]} is missing: the flags {', '.join(values)} go together")
    else:
        if number >= count:
            raise UserError(f"--process_id={number} with --num_processes={count}: expected 0 to {count - 1}")
        if not re.fullmatch(r".+:\d+", address):
            raise UserError(f"--coordinator_address={address}: expected HOST:PORT, for example 10.0.0.1:1234")
    if flags.FLAGS.distributed or address:
        distributed.initialize(address, count, number, flags.FLAGS.start_timeout)
