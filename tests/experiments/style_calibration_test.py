"""style_calibration on the bundled tales: real prose, in the shortest pieces that can be tested."""

import pytest

from experiments import style_calibration
from tests.experiments.conftest import Main


@pytest.mark.slow
def test_excerpts_of_tales_left_out_are_accepted_and_imitations_are_not(run_main: Main) -> None:
    _, out, _ = run_main(style_calibration, "--corpus=bundled", "--rounds=1", "--out=8", "--lengths", "2000")
    rows = [line.strip("| ").split(" | ") for line in out.splitlines()[2:]]
    accepted = {kind: (int(count), int(tested)) for _, kind, count, tested, _ in rows}
    assert {tested for _, tested in accepted.values()} == {48}
    own, *imitations = (count for count, _ in accepted.values())
    assert own >= 42  # 45.6 are expected
    assert imitations == [0, 0, 0]


def test_too_few_remaining_tales_are_an_error(run_main: Main) -> None:
    code, _, errors = run_main(style_calibration, "--corpus=bundled", "--out=10", "--lengths", "2000")
    assert code == 2
    assert "too few tales are left to test 2,000 characters: use a lower --out" in errors
