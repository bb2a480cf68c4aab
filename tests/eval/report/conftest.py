"""Examples that reports compress are remembered by all tests of this folder."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _remembered(remembered):
    """For all tests of this folder."""
