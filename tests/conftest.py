"""Fixtures of several test modules."""

import os
import shutil
from pathlib import Path

import pytest
from check_drivers import CUSTOM_OPS, Drivers
from command import Command, runner

# Small networks gain nothing from threads, which wait for each other on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def onnxfit_command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process."""
    return runner(capsys)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Return a copy of the C++ sources, to build in or to break."""
    return Path(shutil.copytree(CUSTOM_OPS, tmp_path / "custom_ops"))


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Drivers:
    """Return what builds and runs the programs that check the C++ sources."""
    return Drivers(tmp_path_factory.mktemp("objects"))
