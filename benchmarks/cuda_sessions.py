"""The parts of ``cuda_ops.py`` that run ONNX Runtime: operators, a CUDA graph, whole networks.

TensorRT knows no JumpReLU: there ``tensorrt_part`` runs the function body.

With ``prefer_nhwc`` ONNX Runtime lays activations out with the channels last and moves the
transposes that this takes through the operators it knows. It does not know JumpReLU: with the
library registered, each JumpReLU between convolutions keeps a transpose before and one behind,
while they pass through the function body's LessOrEqual and Where. ``networks_part`` counts the
transposes and measures what they cost.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from availability import DiffersError, UnavailableError, in_turns, load
from numpy.typing import NDArray

Row = dict[str, Any]
JUMP = 0.25
# In a chain the time of the operator outweighs that of starting a run.
CHAIN = 8
HEADER = '<ir_version: 8, opset_import: ["": 17, "onnxfit": 1]>'
NODES = {
    "JumpReLU": "onnxfit.JumpReLU <jump = 0.25> ({x})",
    "ThresholdedRelu": "ThresholdedRelu <alpha = 0.25> ({x})",
    "Relu": "Relu ({x})",
}


def provider(device: str, **settings: str) -> list[Any]:
    """Return the providers of a session.

    Raises:
        UnavailableError: ONNX Runtime or the library has no CUDA kernels here.
    """
    if device == "cpu":
        return ["CPUExecutionProvider"]
    name = "CUDAExecutionProvider"
    check(name)
    try:
        served = load("onnxfit.native_library").build_info()["providers"]
    except Exception as error:  # no library, or a broken one
        raise UnavailableError(str(error)) from error
    if name not in served:
        raise UnavailableError("the custom-op library was built without CUDA")
    return [(name, settings), "CPUExecutionProvider"]


def tensorrt(device: str) -> list[Any]:
    """Return the providers of a session on TensorRT.

    Raises:
        UnavailableError: ONNX Runtime has it not, or there is no GPU.
    """
    if device == "cpu":
        return ["CPUExecutionProvider"]
    name = "TensorrtExecutionProvider"
    check(name)
    return [name, "CUDAExecutionProvider", "CPUExecutionProvider"]


def check(name: str) -> None:
    """Check that ONNX Runtime was built with a provider, and that there is a GPU.

    Raises:
        UnavailableError: One of them is missing.
    """
    if name not in load("onnxruntime").get_available_providers():
        raise UnavailableError(f"this ONNX Runtime has no {name}")
    if load("onnxfit.native_library").cuda_devices() == 0:
        raise UnavailableError("no CUDA device here")


def started(model: bytes, providers: list[Any], *, library: bool, optimised: str = "") -> Any:
    """Start a session, with the custom-op library or without.

    Args:
        model: The model, serialised.
        providers: As :func:`provider` gives them.
        library: Register the library; otherwise a hardened model runs through its function body.
        optimised: Where to write the graph as ONNX Runtime optimised it.

    Raises:
        UnavailableError: The session or its first provider did not start.
    """
    onnxruntime = load("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = optimised
    if library:
        options.register_custom_ops_library(str(load("onnxfit").library_path()))
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime raises classes that it does not export
        raise UnavailableError(str(error)) from error
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != wanted:
        raise UnavailableError(f"{wanted} did not start")
    return session


def parsed(text: str) -> bytes:
    """Parse a model written as ONNX text and serialise it."""
    serialised: bytes = load("onnx.parser").parse_model(text).SerializeToString()
    return serialised


def bound(session: Any, device: str, feeds: dict[str, NDArray[Any]]) -> tuple[Any, dict[str, Any]]:
    """Bind inputs and the output to device memory that stays where it is."""
    values = load("onnxruntime").OrtValue
    inputs = {name: values.ortvalue_from_numpy(x, device, 0) for name, x in feeds.items()}
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    (result,) = session.get_outputs()
    binding.bind_output(result.name, device, 0)
    session.run_with_iobinding(binding)
    (output,) = binding.get_outputs()
    binding.bind_ortvalue_output(result.name, output)
    return binding, inputs


def run(session: Any, binding: Any) -> Callable[[], None]:
    """Return a call that runs the session and waits for the device."""

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return call


def chain(operator: str, element_type: str, adds: bool) -> bytes:
    """Write a model that applies an operator some times, after adding ``b`` each time or not."""
    lines, value = [], "x"
    for number in range(CHAIN):
        if adds and operator == "JumpReLU":
            lines.append(f"y{number} = onnxfit.AddJumpReLU <jump = 0.25> ({value}, b)")
        elif adds:
            lines.append(f"s{number} = Add ({value}, b)")
            lines.append(f"y{number} = {NODES[operator].format(x=f's{number}')}")
        else:
            lines.append(f"y{number} = {NODES[operator].format(x=value)}")
        value = f"y{number}"
    kind = f"{element_type}[n]"
    # Both of the inputs are there in all models, so that all are bound alike.
    lines.append(f"y = Add ({value}, b)" if not adds else f"y = Identity ({value})")
    return parsed(f"{HEADER} g ({kind} x, {kind} b) => ({kind} y) {{ {' '.join(lines)} }}")


def operators_part(options: argparse.Namespace) -> list[Row]:
    """Time the operators in ONNX Runtime beside those that it has."""
    ratio = load("onnxfit.verification.latency").ratio
    rows = []
    for name, dtype in (("float", np.float32), ("float16", np.float16)):
        for size in options.sizes:
            count = (size << 20) // np.dtype(dtype).itemsize
            random = np.random.default_rng(0).standard_normal((2, count), np.float32)
            feeds = dict(zip("xb", random.astype(dtype), strict=True))
            for adds in (False, True):
                calls = []
                for operator in NODES:
                    providers = provider(options.device)
                    session = started(chain(operator, name, adds), providers, library=True)
                    calls.append(run(session, bound(session, options.device, feeds)[0]))
                times = in_turns(calls, options.device)
                rows.append(
                    {
                        "operator": "AddJumpReLU" if adds else "JumpReLU",
                        "dtype": name,
                        "mebibytes": size,
                        "chain": CHAIN,
                        "microseconds": float(np.median(times[:, 0]) * 1e6),
                        "ratios": {
                            other: ratio(times[:, 0], times[:, i + 1])
                            for i, other in enumerate(list(NODES)[1:])
                        },
                    }
                )
    return rows


def graph_part(options: argparse.Namespace) -> Row:
    """Run a session that captures a CUDA graph, on other values than it was captured with."""
    settings = {} if options.device == "cpu" else {"enable_cuda_graph": "1"}
    session = started(
        parsed(
            f"{HEADER} g (float[2, 3, 5] x, float[2, 3, 5] b) => (float[2, 3, 5] y) {{"
            " j = Constant <value = float[3, 1] {0.1, 0.2, 0.3}> ()"
            " s = onnxfit.JumpReLU <jump = 0.25> (x)"
            " t = onnxfit.AddJumpReLU (s, b, j)  y = onnxfit.JumpReLU <jump = 0.5> (t) }"
        ),
        provider(options.device, **settings),
        library=True,
    )
    random = np.random.default_rng(0).standard_normal((6, 2, 3, 5)).astype(np.float32)
    binding, inputs = bound(session, options.device, {"x": random[0], "b": random[1]})
    jump = np.array([0.1, 0.2, 0.3], np.float32)[:, None]
    for x, b in ((random[2], random[3]), (random[4], random[5])):
        inputs["x"].update_inplace(x)
        inputs["b"].update_inplace(b)
        run(session, binding)()
        total = np.where(x <= np.float32(JUMP), np.float32(0), x) + b
        kept = np.where(total <= jump, np.float32(0), total)
        expected = np.where(kept <= np.float32(0.5), np.float32(0), kept)
        (result,) = binding.copy_outputs_to_cpu()
        if result.tobytes() != expected.tobytes():
            raise DiffersError("a replayed CUDA graph of ONNX Runtime computed something else")
    return {"replays": 2, "right": True, "settings": settings}


def networks_part(options: argparse.Namespace) -> list[Row]:
    """Measure a hardened ResNet-50 beside the original, in both layouts."""
    networks = load("bundled_networks")
    rows = []
    batches, types = (
        ((1,), ("float",)) if options.device == "cpu" else ((1, 32), ("float", "float16"))
    )
    for batch in batches:
        for element_type in types:
            original = networks.network("resnet50", batch)
            if element_type == "float16":
                convert = load("onnxruntime.transformers.float16").convert_float_to_float16
                original = convert(original)
            rows += [
                network_row(original, options.device, nhwc, {"batch": batch, "dtype": element_type})
                for nhwc in ("0", "1")
            ]
            if options.device == "cpu":
                return rows[:1]
    return rows


def network_row(original: Any, device: str, nhwc: str, about: Row) -> Row:
    """Measure one network in one layout: the original, with the library, with the body."""
    onnx, ratio = load("onnx"), load("onnxfit.verification.latency").ratio
    hard = load("onnxfit").retrofit(original, JUMP).SerializeToString()
    plain = original.SerializeToString()
    forms = {"original": (plain, False), "library": (hard, True), "function": (hard, False)}
    feeds = image_for(original)
    calls, transposes = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for form, (model, library) in [*forms.items(), ("itself", forms["original"])]:
            optimised = str(Path(folder) / f"{form}.onnx")
            providers = provider(device, prefer_nhwc=nhwc)
            session = started(model, providers, library=library, optimised=optimised)
            nodes = onnx.load(optimised, load_external_data=False).graph.node
            transposes[form] = sum(node.op_type == "Transpose" for node in nodes)
            calls.append(run(session, bound(session, device, feeds)[0]))
        times = in_turns(calls, device)
    return {
        "network": "resnet50",
        **about,
        "prefer_nhwc": nhwc == "1",
        "milliseconds": float(np.median(times[:, 0]) * 1e3),
        "transposes": transposes,
        "ratios": {form: ratio(times[:, i], times[:, 0]) for i, form in enumerate(transposes) if i},
    }


def tensorrt_part(options: argparse.Namespace) -> list[Row]:
    """Measure a hardened ResNet-50 beside the original on TensorRT."""
    providers = tensorrt(options.device)
    ratio = load("onnxfit.verification.latency").ratio
    rows = []
    for batch in (1,) if options.device == "cpu" else (1, 32):
        original = load("bundled_networks").network("resnet50", batch)
        hard = load("onnxfit").retrofit(original, JUMP)
        feeds, calls = image_for(original), []
        for model in (original, hard, original):
            session = started(model.SerializeToString(), providers, library=False)
            calls.append(run(session, bound(session, options.device, feeds)[0]))
        times = in_turns(calls, options.device)
        rows.append(
            {
                "network": "resnet50",
                "dtype": "float",
                "batch": batch,
                "milliseconds": float(np.median(times[:, 0]) * 1e3),
                "ratios": {
                    form: ratio(times[:, i], times[:, 0])
                    for i, form in ((1, "function"), (2, "itself"))
                },
            }
        )
    return rows


def image_for(model: Any) -> dict[str, NDArray[Any]]:
    """Return random images for the one input of a network."""
    (value,) = model.graph.input
    shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
    kind = load("onnx").helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return {value.name: np.random.default_rng(0).standard_normal(shape).astype(kind)}
