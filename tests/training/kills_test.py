"""A few of the kills that `python -m tests.helpers.kills` does by the fifty."""

from pathlib import Path

import pytest

from tests.helpers.kills import kill_and_resume

pytestmark = pytest.mark.processes


@pytest.mark.slow
def test_runs_killed_at_random_moments_resume_to_the_same_result(tmp_path: Path) -> None:
    assert len(kill_and_resume(tmp_path, count=5, seed=3)) == 5


@pytest.mark.slow
def test_runs_of_two_processes_of_which_one_is_killed_resume_to_the_same_result(tmp_path: Path) -> None:
    assert len(kill_and_resume(tmp_path, count=2, seed=4, processes=2)) == 2
