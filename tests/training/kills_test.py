"""A few of the fifty kills that tests/helpers/kills.py does."""

from pathlib import Path

from tests.helpers.kills import kill_and_resume


def test_runs_killed_at_random_moments_resume_exactly(tmp_path: Path) -> None:
    assert len(kill_and_resume(tmp_path, count=5, seed=3)) == 5


def test_runs_of_two_processes_of_which_one_is_killed_resume_exactly(tmp_path: Path) -> None:
    assert len(kill_and_resume(tmp_path, count=2, seed=4, processes=2)) == 2
