"""Fixtures of the model's tests."""

import pytest


@pytest.fixture(params=["lstm", "gru"])
def cell_name(request: pytest.FixtureRequest) -> str:
    """Every cell that model.cell can name, one after the other."""
    return str(request.param)
