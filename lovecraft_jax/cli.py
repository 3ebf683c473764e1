"""The flags that entry points share, and how errors become exit codes."""

import ast
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from lovecraft_jax.errors import UserError
from lovecraft_jax.loop import FAILED, INTERRUPTED, NotFinite
from lovecraft_jax.progress import say

WRONG_INPUT = 2
_EXTRAS = {"gpu": "pip install -r requirements.txt 'jax[cuda13]'", "tpu": "pip install -r requirements.txt 'jax[tpu]'"}


def define_train_flags() -> None:
    """--config, --workdir, --platform."""
    config_flags.DEFINE_config_file("config", None, "An experiment, as configs/c150.py or configs/c150.py:quick.")
    flags.DEFINE_string("workdir", None, "Where the run is kept; runs/<config>[-<variant>] by default.")
    _define_platform()


def define_run_flags() -> None:
    """--workdir, --checkpoint, --platform."""
    flags.DEFINE_string("workdir", None, "The folder of a run.")
    flags.DEFINE_string("checkpoint", "best", "best, latest, or a step.")
    _define_platform()


def default_workdir() -> str:
    """runs/<config>, or runs/<config>-<variant>, for the --config that was given."""
    name, _, variant = Path(config_flags.get_config_filename(flags.FLAGS["config"])).name.partition(":")
    return os.path.join("runs", name.removesuffix(".py") + (f"-{variant}" if variant else ""))


def required(name: str, example: str) -> str:
    """A flag's value. Raises UserError where it was not given."""
    value = flags.FLAGS[name].value
    if value is None:
        raise UserError(f"--{name} is missing; for example --{name}={example}")
    return value


def run(main: Callable[[], int]) -> None:
    """Parses flags, calls `main`, exits with its code.

    Wrong input, in a flag, a config or anything below that raises UserError, is one line on standard error and exit
    code 2.
    """
    app.run(lambda argv: sys.exit(_guarded(main)), flags_parser=_parse)


def _guarded(main: Callable[[], int]) -> int:
    try:
        _choose_platform(flags.FLAGS.platform)
        return main()
    except UserError as error:
        return _told(error, WRONG_INPUT)
    except NotFinite as error:
        return _told(error, FAILED)
    except KeyboardInterrupt:
        return _told("interrupted before there was anything to save: the same command starts again", INTERRUPTED)


def _told(what: object, code: int) -> int:
    text = str(what).strip().rpartition("earlier failure to load: ")[-1]
    if "Traceback" in text:  # what get_config raised, as ml_collections hands it on
        text = text.splitlines()[-1]
    if "Did you mean" in text and text[0] == text[-1] == "'":  # a misspelt key, as the repr of a message
        text = "no such setting in the config: " + ast.literal_eval(text)
    say(" ".join(text.split()))
    return code


def _parse(argv: Sequence[str]) -> Sequence[str]:
    """absl's parsing, where ml_collections loads the config; whatever either raises there is the user's to mend."""
    try:
        rest = _parsed(argv)
        verbosity = flags.FLAGS["verbosity"]
        if verbosity.using_default_value:  # libraries tell much; what a user should read, we say
            verbosity.value, verbosity.using_default_value = logging.ERROR, False
        if rest[1:]:
            raise UserError(f"unexpected arguments {' '.join(rest[1:])!r}: flags begin with --")
        if "config" in flags.FLAGS and flags.FLAGS.config is not None:
            flags.FLAGS.config.to_dict()  # a config that failed to load raises only when it is first read
        return rest
    except (UserError, flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        sys.exit(_told(error, WRONG_INPUT))


def _parsed(argv: Sequence[str]) -> Sequence[str]:
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # --help and its kin, which absl ends with 1
        sys.exit(0)


def _define_platform() -> None:
    flags.DEFINE_enum(
        "platform", "auto", ["auto", "cpu", "gpu", "tpu"], "Where to compute; auto takes the best there is."
    )


def _choose_platform(platform: str) -> None:
    if platform == "auto":
        return
    jax.config.update("jax_platforms", platform)
    try:
        jax.devices()
    except RuntimeError as error:
        raise UserError(f"--platform={platform}: none found here; {_EXTRAS.get(platform, '')} ({error})") from None
