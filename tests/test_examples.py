"""The programs in examples/ run as a deployer would run them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

import onnxfit

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
TEST_DATA = ROOT / "models" / "digits_test.npz"
JUMP = 0.5

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a hardened network that runs with and without the library."""
    path = tmp_path_factory.mktemp("function") / "digits.jump.onnx"
    onnxfit.save(onnxfit.retrofit(ROOT / "models" / "digits_cnn.onnx", JUMP), path)
    return path


@pytest.fixture(scope="module")
def needs_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same network without the function body: only the library's kernels can run it."""
    path = tmp_path_factory.mktemp("custom") / "digits.custom.onnx"
    model = onnxfit.retrofit(ROOT / "models" / "digits_cnn.onnx", JUMP, lowering="custom")
    onnxfit.save(model, path)
    return path


@pytest.fixture(scope="module")
def library() -> Path:
    """Return the path of the custom-op library."""
    try:
        return onnxfit.library_path()
    except onnxfit.errors.NativeLibraryError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def images() -> Floats:
    """Return the held-out images."""
    with np.load(TEST_DATA) as data:
        x: Floats = data["x"]
    return x


@pytest.fixture(scope="module")
def accuracy_line(hardened: Path, images: Floats) -> str:
    """Return the line that the Python examples must print, by ONNX's own reference evaluator."""
    with np.load(TEST_DATA) as data:
        labels = data["y"]
    outputs: Any = ReferenceEvaluator(onnx.load(hardened)).run(None, {"image": images})
    correct = int((outputs[0].argmax(axis=1) == labels).sum())
    return f"accuracy   {correct / len(labels):.4f} ({correct} of {len(labels)})"


def run(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with additions to the environment."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **(environment or {})},
    )


def run_example(
    name: str, *arguments: str | Path, onnxfit_installed: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run an example, by default in a Python in which ``import onnxfit`` fails."""
    script = EXAMPLES / name
    if onnxfit_installed:
        return run([sys.executable, script, *arguments])
    hide = (
        "import runpy, sys; sys.modules['onnxfit'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return run([sys.executable, "-c", hide, script, *arguments])


def test_plain_onnx_runtime_reaches_the_reference_accuracy_without_onnxfit(
    hardened: Path, accuracy_line: str
) -> None:
    """A hardened file runs where only onnxruntime and NumPy are installed."""
    done = run_example("plain_onnxruntime.py", hardened, TEST_DATA, "--batch-size", "100")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{accuracy_line}\nproviders  CPUExecutionProvider\n" == done.stdout


def test_the_examples_are_run_without_onnxfit_when_they_should(hardened: Path) -> None:
    """The Python of these tests really cannot import onnxfit."""
    done = run_example("python_with_library.py", hardened, TEST_DATA)
    assert done.returncode == 1
    assert "import of onnxfit halted" in done.stderr


def test_python_with_onnxfit_uses_the_kernels(
    needs_library: Path, library: Path, accuracy_line: str
) -> None:
    """``onnxfit.session`` registers the library: the file has no function body to fall back on."""
    assert library.is_file()
    done = run_example("python_with_library.py", needs_library, TEST_DATA, onnxfit_installed=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{accuracy_line}\nproviders  CPUExecutionProvider\n" == done.stdout


def test_python_with_the_shared_library_alone_needs_no_onnxfit(
    needs_library: Path, library: Path, accuracy_line: str, tmp_path: Path
) -> None:
    """A copy of the shared library is all that must ship beside the model."""
    copy = shutil.copy(library, tmp_path)
    done = run_example("python_with_library.py", needs_library, TEST_DATA, "--library", copy)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{accuracy_line}\nproviders  CPUExecutionProvider\n" == done.stdout


@dataclass(frozen=True)
class Host:
    """The C++ example, built against one ONNX Runtime."""

    command: tuple[str | Path, ...]

    def classify(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run it."""
        return run([*self.command, *arguments])

    def logits(self, *arguments: str | Path) -> Floats:
        """Return the logits that it prints; the class before them must be their maximum."""
        done = self.classify(*arguments)
        assert done.returncode == 0, done.stderr
        rows = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
        assert rows[:, 1:].argmax(axis=1).tolist() == rows[:, 0].tolist()
        return rows[:, 1:]


def onnx_runtime_root(folder: Path) -> Path:
    """Return a folder with ONNX Runtime's ``include`` and ``lib``: the one named, or the system's.

    A named one may hold a program ``run`` that starts others with the libraries in it.
    """
    if named := os.environ.get("ONNXFIT_ORT_ROOT"):
        root = Path(named)
        assert (root / "include").is_dir(), f"ONNXFIT_ORT_ROOT: {named} has no folder include"
        assert (root / "lib").is_dir(), f"ONNXFIT_ORT_ROOT: {named} has no folder lib"
        return root.resolve()
    asked = shutil.which("pkg-config")
    found = asked and run([asked, "--variable=includedir", "libonnxruntime"]).stdout.strip()
    if not asked or not found:
        pytest.skip("no ONNX Runtime for C++: set ONNXFIT_ORT_ROOT or install libonnxruntime-dev")
    (folder / "include").symlink_to(found)
    libraries = run([asked, "--variable=libdir", "libonnxruntime"]).stdout.strip()
    (folder / "lib").symlink_to(libraries)
    return folder


def installed_library(folder: Path, headers: Path) -> Path:
    """Return such a folder for the Python package's ONNX Runtime, which ships no headers."""
    capi = Path(onnxruntime.__file__).parent / "capi"
    libraries = [path for path in capi.glob("libonnxruntime.so.1.*") if path.is_file()]
    if not libraries:
        pytest.skip("the onnxruntime package holds no libonnxruntime.so to link with")
    header = next(headers.rglob("onnxruntime_c_api.h")).read_text(encoding="utf-8")
    version = re.search(r"#define ORT_API_VERSION (\d+)", header)
    assert version is not None
    if int(onnxruntime.__version__.split(".")[1]) < int(version[1]):
        pytest.skip(f"the headers ask for ONNX Runtime 1.{version[1]} or newer")
    (folder / "lib").mkdir()
    (folder / "include").symlink_to(headers)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(libraries[0])
    return folder


def build_commands(root: Path, build: Path, linking: list[str]) -> list[list[str | Path]]:
    """Return what builds the C++ example: CMake where it is installed, else the compiler alone."""
    source = EXAMPLES / "cpp"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    if cmake := shutil.which("cmake"):
        settings = {
            "ONNXRUNTIME_ROOT": root,
            "CMAKE_CXX_FLAGS": " ".join(warnings),
            "CMAKE_EXE_LINKER_FLAGS": " ".join(linking),
        }
        defined = [f"-D{name}={value}" for name, value in settings.items()]
        return [[cmake, "-S", source, "-B", build, *defined], [cmake, "--build", build]]
    compiler: list[str | Path] = ["g++", "-std=c++17", *warnings, *linking]
    compiler += ["-isystem", root / "include"]
    library = root / "lib" / "libonnxruntime.so"
    found_by = f"-Wl,-rpath,{library.parent}"
    return [[*compiler, source / "main.cc", library, found_by, "-o", build / "classify"]]


@pytest.fixture(scope="module", params=["named", "installed"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Build the C++ example, against the ONNX Runtime with headers and the Python package's."""
    if not shutil.which("g++"):
        pytest.skip("no g++")
    root = onnx_runtime_root(tmp_path_factory.mktemp("onnxruntime"))
    launcher = [root / "run"] if (root / "run").is_file() else []
    if request.param == "installed":
        folder = tmp_path_factory.mktemp("installed")
        root, launcher = installed_library(folder, root / "include"), []
    build = tmp_path_factory.mktemp("build")
    # The C library that a foreign root was built with may be newer than the linker's.
    linking = ["-Wl,--allow-shlib-undefined"] if launcher else []
    for command in build_commands(root, build, linking):
        done = run(command, {"CXX": "g++"})
        assert done.returncode == 0, done.stdout + done.stderr
    return Host((*launcher, build / "classify"))


@pytest.fixture(scope="module")
def raw_images(images: Floats, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the images as a file of raw numbers."""
    path = tmp_path_factory.mktemp("raw") / "images.f32"
    images.tofile(path)
    return path


def python_logits(model: Path, images: Floats) -> Floats:
    """Return what the Python package's ONNX Runtime computes through the function body."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    logits: Floats = session.run(None, {"image": images})[0]
    return logits


@pytest.mark.parametrize("with_library", [False, True])
def test_the_cpp_host_classifies_as_python_does(
    host: Host,
    with_library: bool,
    hardened: Path,
    raw_images: Path,
    images: Floats,
    request: pytest.FixtureRequest,
) -> None:
    """With the library and without it, a C++ host gives Python's classes and logits."""
    extra = [request.getfixturevalue("library")] if with_library else []
    expected = python_logits(hardened, images)
    logits = host.logits(hardened, raw_images, *extra)
    assert expected.argmax(axis=1).tolist() == logits.argmax(axis=1).tolist()
    # Another version may add in another order.
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_cpp_host_uses_the_kernels(
    host: Host, needs_library: Path, library: Path, raw_images: Path, images: Floats, hardened: Path
) -> None:
    """A file without function bodies runs with the library and is refused without it."""
    expected = python_logits(hardened, images).argmax(axis=1).tolist()
    logits = host.logits(needs_library, raw_images, library)
    assert expected == logits.argmax(axis=1).tolist()
    refused = host.classify(needs_library, raw_images)
    assert (refused.returncode, refused.stdout) == (1, "")
    last = refused.stderr.splitlines()[-1]
    assert last.startswith("classify: ")
    assert "JumpReLU" in last


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["{model}", "{text}"],
            1,
            "classify: {text} does not hold float32 numbers: it has 5 bytes",
        ),
        (["{model}", "{four}"], 1, "the input holds 1 numbers; a sample of this model has 64"),
        (["{model}", "{empty}"], 1, "does not hold float32 numbers: it has 0 bytes"),
        (["{model}", "{folder}/none.f32"], 1, "classify: cannot open {folder}/none.f32"),
        (
            ["{folder}/none.onnx", "{four}"],
            1,
            "classify: Load model from {folder}/none.onnx failed",
        ),
        (["{model}", "{four}", "{folder}/none.so"], 1, "classify: Failed to load library"),
        (["{model}"], 2, "MODEL.onnx INPUT.f32 [LIBRARY]"),
    ],
)
def test_the_cpp_host_says_what_is_wrong(
    host: Host, arguments: list[str], status: int, message: str, hardened: Path, tmp_path: Path
) -> None:
    """Bad input to the C++ host ends in one sentence and a status, not in a crash."""
    contents = {"text": b"hello", "four": b"\0\0\0\0", "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    names = {"model": hardened, "folder": tmp_path, **{name: tmp_path / name for name in contents}}
    done = host.classify(*(argument.format(**names) for argument in arguments))
    assert (status, "") == (done.returncode, done.stdout)
    assert message.format(**names) in done.stderr.splitlines()[-1]


def test_the_script_for_debians_onnx_runtime_needs_apt(tmp_path: Path) -> None:
    """Where there is no apt, the script that fetches ONNX Runtime says so and ends."""
    script = ROOT / "tests" / "get_debian_onnxruntime.sh"
    done = run(["/bin/sh", script, tmp_path / "root"], {"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr == "get_debian_onnxruntime.sh: this machine has no apt\n"
    assert not (tmp_path / "root").exists()


def read_text_proto(text: str) -> dict[str, list[Any]]:
    """Read Protocol Buffers' text format as far as config.pbtxt uses it: every field is a list."""
    text = re.sub(r"#.*", "", text)
    tokens = re.findall(r'"[^"]*"|[\w.+-]+|[{}\[\]:,]', text)
    assert "".join(text.split()) == "".join("".join(tokens).split()), "unknown characters"

    def message(closing: str | None) -> dict[str, list[Any]]:
        fields: dict[str, list[Any]] = {}
        while tokens and tokens[0] != closing:
            name = tokens.pop(0)
            assert name.isidentifier(), f"{name!r} is no field name"
            if tokens[0] == ":":
                tokens.pop(0)
            else:
                assert tokens[0] in "{[", f"no value after {name}"
            fields.setdefault(name, []).extend(values())
        if closing is not None:
            assert tokens, "a brace is not closed"
            tokens.pop(0)
        return fields

    def values() -> list[Any]:
        part = tokens.pop(0)
        if part == "{":
            return [message("}")]
        if part != "[":
            return [part.strip('"')]
        found = values()
        while (part := tokens.pop(0)) == ",":
            found += values()
        assert part == "]", "a bracket is not closed"
        return found

    return message(None)


def prepare(model: Path, folder: Path, *options: str | Path) -> tuple[dict[str, list[Any]], Path]:
    """Fill a Triton model repository; return the configuration and the model's folder."""
    script = EXAMPLES / "triton" / "prepare.py"
    done = run([sys.executable, script, model, folder, *options])
    assert (done.returncode, done.stderr) == (0, "")
    config = read_text_proto((folder / "digits" / "config.pbtxt").read_text(encoding="utf-8"))
    return config, folder / "digits"


def test_tritons_configuration_names_what_the_model_has(hardened: Path) -> None:
    """The inputs and outputs in config.pbtxt are the model's, less the batch dimension."""
    path = EXAMPLES / "triton" / "model_repository" / "digits" / "config.pbtxt"
    config = read_text_proto(path.read_text(encoding="utf-8"))
    assert path.parent.name == config["name"][0]
    assert config["backend"] == ["onnxruntime"]
    assert int(config["max_batch_size"][0]) > 1
    types = {onnx.TensorProto.FLOAT: "TYPE_FP32"}
    graph = onnx.load(hardened).graph
    for field, infos in (("input", graph.input), ("output", graph.output)):
        expected = []
        for info in infos:
            tensor = info.type.tensor_type
            batch, *dims = tensor.shape.dim
            assert batch.HasField("dim_param")
            sizes = [str(dim.dim_value) for dim in dims]
            data_type = [types[tensor.elem_type]]
            expected.append({"name": [info.name], "data_type": data_type, "dims": sizes})
        assert expected == config[field]


def test_the_prepared_triton_repository_runs(
    hardened: Path, library: Path, images: Floats, tmp_path: Path
) -> None:
    """ONNX Runtime loads the prepared model with the prepared library, as Triton's backend does."""
    config, folder = prepare(hardened, tmp_path, "--mounted-at", tmp_path)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"config.pbtxt", "1/model.onnx", library.name} == files
    assert hardened.read_bytes() == (folder / "1" / "model.onnx").read_bytes()
    assert config["instance_group"][0]["kind"][0] == "KIND_CPU"
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(config["model_operations"][0]["op_library_filename"][0])
    session = onnxruntime.InferenceSession(
        str(folder / "1" / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    logits = session.run([config["output"][0]["name"][0]], {config["input"][0]["name"][0]: images})
    expected = python_logits(hardened, images).argmax(axis=1).tolist()
    assert expected == logits[0].argmax(axis=1).tolist()


def test_a_triton_repository_without_the_library_names_none(hardened: Path, tmp_path: Path) -> None:
    """Where the library is not wanted, neither the folder nor the configuration has it."""
    config, folder = prepare(hardened, tmp_path, "--no-library")
    assert "model_operations" not in config
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"config.pbtxt", "1/model.onnx"} == files


def test_a_triton_repository_for_gpus_never_names_a_library_without_cuda_kernels(
    hardened: Path, library: Path, tmp_path: Path
) -> None:
    """On a GPU a CPU-only library would copy each activation to the CPU and back."""
    build = onnxfit.diagnose().build
    assert build is not None
    config, folder = prepare(hardened, tmp_path, "--gpu")
    assert config["instance_group"][0]["kind"][0] == "KIND_GPU"
    expected = "CUDAExecutionProvider" in build["providers"]
    assert expected == ("model_operations" in config)
    assert expected == (folder / library.name).is_file()


def test_the_readme_lists_every_example() -> None:
    """examples/README.md has a row for each program."""
    rows = re.findall(r"^\| \[`([^`]+)`\]", (EXAMPLES / "README.md").read_text("utf-8"), re.M)
    listed = {path.name for path in EXAMPLES.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert sorted(listed - {"__pycache__"}) == sorted(row.rstrip("/") for row in rows)
