"""Fixtures of the studies' tests."""

import sys
from collections.abc import Callable
from types import ModuleType

import pytest

Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Main:
    """Runs a module's main() with flags; returns its exit code, standard output and standard error."""

    def run(module: ModuleType, *flags: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["it", *flags])
        try:
            code = module.main() or 0
        except SystemExit as error:  # argparse's, after a line on usage
            code = int(str(error.code))
        return code, *capsys.readouterr()

    return run
