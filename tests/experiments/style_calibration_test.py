"""The calibration of the verdict, on the bundled tales: real prose, as short as can be judged."""

import sys

import pytest

from experiments import style_calibration


def test_bundled_tales_left_out_are_accepted_and_imitations_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--corpus=bundled", "--rounds=1", "--out=8", "--lengths", "2000"]
    monkeypatch.setattr(sys, "argv", ["style_calibration", *arguments])
    style_calibration.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    accepted = {kind: (int(count), int(of)) for _, kind, count, of, _ in rows}
    assert {of for _, of in accepted.values()} == {48}
    own, *imitations = (count for count, _ in accepted.values())
    assert own >= 42  # 45.6 are to be expected
    assert imitations == [0, 0, 0]


def test_too_few_tales_to_judge_by_are_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["style_calibration", "--corpus=bundled", "--out=10", "--lengths", "2000"])
    with pytest.raises(SystemExit):
        style_calibration.main()
    assert "too few tales are left to judge 2,000 characters by; leave fewer --out" in capsys.readouterr().err
