"""Models to harden in the tests of fidelity, inputs for them, and how they are run.

The corpus is the nine real architectures that the onnx package bundles and, where it is present,
every model in the folder that ``ONNXFIT_SHARED`` names.
"""

import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
from independent import jump_of
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from support import SHARED, dtype_of, quiet, same_bits

import onnxfit
from onnxfit.element_types import inputs_of
from onnxfit.hardening import Lowering

Feeds = list[dict[str, NDArray[Any]]]
Outputs = list[NDArray[Any]]

LOWERINGS: tuple[Lowering, ...] = get_args(Lowering)
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"

# What cannot be hardened, and the reason that the message must name.
REFUSED = {
    "edge/winml_pcb_aoi_opset1.onnx": "the model is of opset 1, onnxfit needs 7 or newer",
    "edge/sigmoid_only_no_relu.onnx": "the model has no Relu .* 6 Sigmoid",
    "derived/lenet_qdq_relu_folded_away.onnx": "a Relu was folded into the zero point",
}
# Files with operators for which ONNX Runtime has no kernel.
NOT_RUN = {"edge/qonnx_jettagging_customop.onnx", "edge/qonnx_kwsmlp_customop.onnx"}
# Too slow or too large for more than one look.
HEAVY = {
    "big/tll_N56_159MB.onnx.gz",
    "light/light_densenet121.onnx",
    "light/light_vgg19.onnx",
    "light/light_zfnet512.onnx",
    "structure/candy_style.onnx",
}
# Fixed sizes for inputs that state none.
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "qat_mobilenetv4s_qdq_u8in.onnx": {"input_u8": (1, 3, 96, 96)},
    "silero_vad_if.onnx": {"input": (1, 576), "state": (2, 1, 128)},
    "yunet_n_dynamic.onnx": {"input": (1, 3, 64, 96)},
}


@dataclass(frozen=True)
class Source:
    """A model of the corpus.

    Attributes:
        name: Its path in the corpus.
        path: Its file.
        model: What the file holds.
        folder: Where its external data is, if it has any.
    """

    name: str
    path: Path
    model: ModelProto
    folder: Path | None

    @property
    def element_type(self) -> int:
        """The type of its activations."""
        return int(TensorProto.FLOAT16 if "fp16" in self.name else TensorProto.FLOAT)

    @property
    def jumps(self) -> dict[str, float]:
        """A jump size for every site, by the name of the value it writes."""
        return jumps_of(self.model)


def jumps_of(model: ModelProto) -> dict[str, float]:
    """Choose a jump size for every site by the value that it writes, whatever its scope."""
    return {
        site.name: jump_of(site.name.removeprefix(f"{site.scope}/" if site.scope else ""))
        for site in onnxfit.find_sites(model)
    }


def corpus() -> dict[str, Path]:
    """Return the files of the corpus by name, those of the onnx package first."""
    files = {f"light/{path.name}": path for path in sorted(LIGHT.glob("*.onnx"))}
    folder = SHARED / "models"
    for path in sorted([*folder.rglob("*.onnx"), *folder.rglob("*.onnx.gz")]):
        files[path.relative_to(folder).as_posix()] = path
    return files


CORPUS = corpus()
HARDENED = [name for name in CORPUS if name not in REFUSED]
LIGHT_ONLY = len(CORPUS) == len(list(LIGHT.glob("*.onnx")))


def read(name: str) -> Source:
    """Read a model of the corpus, its external data left on disk."""
    path = CORPUS[name]
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    model = ModelProto.FromString(content)
    external = any(t.data_location == TensorProto.EXTERNAL for t in model.graph.initializer)
    return Source(name, path, model, path.parent if external else None)


@cache
def manifest() -> dict[str, dict[str, Any]]:
    """Return what is known of the models, by name."""
    path = SHARED / "models/MANIFEST.json"
    if not path.is_file():
        return {}
    return {entry["file"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}


# The samples of each data set, and how many of them tests of one look take.
DATA = {
    "mnist": ("mnist_0_4999", 8),
    "cifar": ("cifar10_exact_549", 8),
    "imagenet": ("imagenet_sample_100", 2),
}


@cache
def labelled_images(data: str, n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the first ``n`` real images in [0, 1], N×C×H×W, and their labels."""
    with np.load(SHARED / f"data/{DATA[data][0]}.npz") as arrays:
        pixels, labels = arrays["x"][:n], arrays["y"][:n]
    chosen: NDArray[np.float32] = np.divide(pixels, 255, dtype=np.float32)
    if data == "imagenet":
        chosen = np.ascontiguousarray(chosen[:, ::-1, 16:240, 16:240])
    return chosen, labels


def real_inputs(source: Source, n: int) -> NDArray[Any] | None:
    """Return the first ``n`` images as a model takes them, or None where it was trained on none."""
    entry = manifest().get(source.name, {})
    if not entry.get("data"):
        return None
    mean, std = (np.float32(entry[key]).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    x = (labelled_images(entry["data"], n)[0] - mean) / std
    tensor = inputs_of(source.model.graph)[0].type.tensor_type
    dims = [d.dim_value for d in tensor.shape.dim]
    if len(dims) == 4 and dims[3] in (1, 3):
        x = x.transpose(0, 2, 3, 1)
    elif len(dims) < 4:
        x = x.transpose(0, 1, 3, 2) if entry.get("layout_note") == "F" else x
        x = x.reshape(len(x), *dims[1:])
    return np.ascontiguousarray(x, dtype_of(tensor.elem_type))


def feeds_for(source: Source) -> Feeds:
    """Return inputs of a model: preprocessed images where it was trained on some, else noise."""
    inputs = inputs_of(source.model.graph)
    entry = manifest().get(source.name, {})
    x = real_inputs(source, DATA[entry["data"]][1]) if entry.get("data") else None
    if x is not None:
        fixed = inputs[0].type.tensor_type.shape.dim[0].dim_value == 1
        return [{inputs[0].name: one} for one in (np.split(x, len(x)) if fixed else [x])]
    rng = np.random.default_rng(0)
    return [{value.name: _noise(source.path.name, value, rng) for value in inputs}]


def _noise(file: str, value: onnx.ValueInfoProto, rng: np.random.Generator) -> NDArray[Any]:
    tensor = value.type.tensor_type
    dims = [max(dim.dim_value, 1) for dim in tensor.shape.dim]
    dims = list(SHAPES.get(file, {}).get(value.name, dims))
    if tensor.elem_type == TensorProto.BOOL:
        return np.ones(dims, bool)
    if tensor.elem_type == TensorProto.INT64:
        return np.full(dims, 16000 if value.name == "sr" else 3)
    if tensor.elem_type == TensorProto.UINT8:
        return rng.integers(0, 256, dims, np.uint8)
    return rng.standard_normal(dims).astype(dtype_of(tensor.elem_type))


def run(
    model: ModelProto,
    feeds: Feeds,
    *,
    library: bool = False,
    optimise: bool = False,
    folder: Path | None = None,
) -> Outputs:
    """Run a model in ONNX Runtime and return the outputs for all inputs, one after the other."""
    options = quiet(optimise=optimise)
    if library:
        onnxfit.register(options)
    if folder is not None:
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, str(folder.resolve()))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [output for feed in feeds for output in session.run(None, feed)]


def all_same_bits(expected: Outputs, actual: Outputs) -> bool:
    """Tell whether two lists of arrays agree in every bit."""
    return all(same_bits(one, other) for one, other in zip(expected, actual, strict=True))
