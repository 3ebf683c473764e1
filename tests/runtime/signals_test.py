"""Being told to stop: every block that is asked hears of it, and who insists is obeyed at once."""

import os
import signal
from collections.abc import Iterator

import pytest

from lovecraft_jax.runtime.signals import collect_signals


def test_a_block_in_another_leaves_nothing_unheard() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with collect_signals() as outer:
        with collect_signals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert outer == inner == [signal.SIGTERM]
        with collect_signals() as later:
            assert not later
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_signal_ends_it_as_always(listening: None) -> None:
    with collect_signals() as outer, collect_signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert outer == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def listening() -> Iterator[None]:
    """SIGINT as Python has it, also where a shell started us in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
