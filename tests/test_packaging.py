"""The package as users get it: built from the sdist, installed, run without a compiler."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support import MODELS, ROOT

pytestmark = pytest.mark.slow

# Dependencies come from this environment; the package itself from the wheel.
PROGRAM = "from onnxfit.cli import main; main()"


def build(*arguments: object, **variables: str) -> None:
    """Run a build in an isolated environment of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | variables
    ran = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        check=False,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    build("build", "--sdist", "--outdir", folder)
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from the source distribution, with the compilers of this machine."""
    folder = tmp_path_factory.mktemp("wheel")
    # The CUDA part takes most of the time and has a test of its own.
    build("pip", "wheel", "--no-deps", "-w", folder, sdist, CMAKE_ARGS="-DONNXFIT_CUDA=OFF")
    return next(folder.glob("*.whl"))


def installed(wheel: Path, folder: Path) -> dict[str, str]:
    """Unpack a wheel and return an environment that runs it and has no compiler."""
    shutil.unpack_archive(wheel, folder, "zip")
    return {"PYTHONPATH": str(folder), "PATH": "/nonexistent", "HOME": str(folder)}


def onnxfit(environment: dict[str, str], *arguments: object) -> str:
    """Run the command line from the unpacked wheel."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        check=True,
        env=environment,
        cwd=environment["HOME"],
        capture_output=True,
        text=True,
    )
    assert ran.stderr == ""
    return ran.stdout


def test_the_sdist_holds_what_a_build_needs_and_no_more(sdist: Path) -> None:
    """Sources, licence, tests; nothing that a checkout merely has lying about."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "onnxfit/py.typed"} <= names
    assert {"custom_ops/CMakeLists.txt", "custom_ops/jump_relu.cu", "tests/test_op.py"} <= names
    assert not [name for name in names if name.startswith((".venv", "build/", ".git/"))]


def test_the_wheel_holds_package_library_and_licence(wheel: Path) -> None:
    """For any Python 3 on this platform."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    assert {"onnxfit/__init__.py", "onnxfit/py.typed", "onnxfit/libonnxfit_ops.so"} <= set(names)
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    tops = {name.partition("/")[0] for name in names}
    assert {"onnxfit", wheel.name.split("-py3")[0] + ".dist-info"} == tops


def test_the_wheel_works_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    """Its own library is found, loads, and hardens and runs a trained network."""
    environment = installed(wheel, tmp_path)
    diagnosis = onnxfit(environment, "doctor")
    assert str(tmp_path / "onnxfit" / "libonnxfit_ops.so") in diagnosis
    assert "custom-op kernel on CPUExecutionProvider: bit for bit" in diagnosis
    output = tmp_path / "hard.onnx"
    onnxfit(environment, "retrofit", MODELS / "digits_cnn.onnx", "--jump", "0.5", "-o", output)
    assert "6 sites, 6 hardened" in onnxfit(environment, "inspect", output)


def test_a_build_without_a_compiler_gives_a_package_that_works(sdist: Path, tmp_path: Path) -> None:
    """No library then, and doctor says so; the function body runs."""
    folder = tmp_path / "wheel"
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "uname"):
        found = next(Path(p) / tool for p in ("/bin", "/usr/bin") if (Path(p) / tool).exists())
        (tools / tool).symlink_to(found)
    hidden = {"PATH": str(tools), "CXX": "/nonexistent", "CUDACXX": "/nonexistent"}
    build("pip", "wheel", "--no-deps", "-w", folder, sdist, **hidden)
    environment = installed(next(folder.glob("*.whl")), tmp_path / "site")
    diagnosis = onnxfit(environment, "doctor")
    assert "none was built" in diagnosis
    assert "function body on CPUExecutionProvider: bit for bit" in diagnosis
