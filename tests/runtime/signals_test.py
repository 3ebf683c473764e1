"""Collecting signals: in every nested block, SIGINT and SIGTERM only the first time, in the main thread alone."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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


@pytest.mark.parametrize(("before", "collected"), [(signal.SIG_DFL, 2), (signal.SIG_IGN, 0)])
def test_every_hangup_is_collected_but_none_under_nohup(before: signal.Handlers, collected: int) -> None:
    earlier = signal.signal(signal.SIGHUP, before)
    try:
        with collect_signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
        assert signals == [signal.SIGHUP] * collected
        assert signal.getsignal(signal.SIGHUP) is before
    finally:
        signal.signal(signal.SIGHUP, earlier)


def test_a_block_in_another_thread_leaves_signals_to_the_main_thread() -> None:
    def handler_within() -> object:
        with collect_signals():
            return signal.getsignal(signal.SIGTERM)

    assert ThreadPoolExecutor(1).submit(handler_within).result() is signal.getsignal(signal.SIGTERM)


@pytest.fixture
def default_sigint() -> Iterator[None]:
    """Python's own handler, also where a shell has started the tests in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
