"""Fixtures of several test modules."""

import os

import pytest
from command import Command, runner

# Small networks gain nothing from threads, which wait for each other on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def onnxfit_command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process."""
    return runner(capsys)
