"""Fixtures of several test modules."""

import pytest
from command import Command, runner


@pytest.fixture
def onnxfit_command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process."""
    return runner(capsys)
