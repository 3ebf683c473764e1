"""style_calibration on the bundled tales: real prose, in the shortest pieces that can be tested."""

import sys

import pytest

from experiments import style_calibration


@pytest.mark.slow
def test_excerpts_of_tales_left_out_are_accepted_and_imitations_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    flags = ["--corpus=bundled", "--rounds=1", "--out=8", "--lengths", "2000"]
    monkeypatch.setattr(sys, "argv", ["style_calibration", *flags])
    style_calibration.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    accepted = {kind: (int(count), int(tested)) for _, kind, count, tested, _ in rows}
    assert {tested for _, tested in accepted.values()} == {48}
    own, *imitations = (count for count, _ in accepted.values())
    assert own >= 42  # 45.6 are expected
    assert imitations == [0, 0, 0]


def test_too_few_remaining_tales_are_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["style_calibration", "--corpus=bundled", "--out=10", "--lengths", "2000"])
    with pytest.raises(SystemExit):
        style_calibration.main()
    assert "too few tales are left to test 2,000 characters: use a lower --out" in capsys.readouterr().err
