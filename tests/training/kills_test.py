"""A handful of the kills of kills.py; it does fifty."""

from pathlib import Path

from tests.helpers.kills import kill_and_resume


def test_runs_killed_at_random_moments_come_to_the_same_end(tmp_path: Path) -> None:
    assert len(kill_and_resume(tmp_path, count=5, seed=3)) == 5


def test_so_do_runs_of_two_processes_of_which_one_is_killed(tmp_path: Path) -> None:
    assert len(kill_and_resume(tmp_path, count=2, seed=4, processes=2)) == 2
