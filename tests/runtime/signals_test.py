"""Collecting SIGINT and SIGTERM: in every nested block, and only the first."""

import os
import signal
from collections.abc import Iterator

import pytest

from lovecraft_jax.runtime.signals import collect_signals


def test_nested_blocks_collect_every_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with collect_signals() as outer:
        with collect_signals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert outer == inner == [signal.SIGTERM]
        with collect_signals() as later:
            assert not later
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_signal_raises_as_usual(default_sigint: None) -> None:
    with collect_signals() as outer, collect_signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert outer == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def default_sigint() -> Iterator[None]:
    """Python's own handler, also where a shell has started the tests in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
