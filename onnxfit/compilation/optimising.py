"""Let ONNX Runtime write a model as it optimises it for this machine."""

import contextlib
import tempfile
import uuid
from itertools import count
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError
from onnx import FunctionProto, GraphProto, ModelProto
from onnx.shape_inference import InferenceError

from onnxfit.edits import remove_where, rename_values
from onnxfit.element_types import every_graph, subgraphs
from onnxfit.errors import ModelError
from onnxfit.external_data import external_files, relocate, take_inside
from onnxfit.files import load
from onnxfit.native_library import CPU, register
from onnxfit.runtime import loadable

# Above this many bytes the weights go into a file of their own: a protobuf holds less than 2 GiB,
# and the blocked layout pads them.
MOST_INSIDE = 1 << 30


def optimise(
    model: ModelProto,
    folder: Path | None,
    weights: Path | None,
    *,
    merge: bool = True,
    most_inside: int = MOST_INSIDE,
) -> ModelProto:
    """Return a model as ONNX Runtime optimises it, fused and in its blocked layout.

    The custom-op library is registered, so that a JumpReLU in the model stays one.

    Args:
        model: What to optimise.
        folder: Of its external data.
        weights: The file that the weights of a large model are to lie in.
        merge: Let ONNX Runtime merge operators that compute the same.
        most_inside: The largest size in bytes of a model whose weights stay inside.

    Raises:
        ModelError: ONNX Runtime refuses the model, or its weights need a file and have none.
        NativeLibraryError: The library does not load.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    register(options)
    if _size(model, folder) <= most_inside:
        weights = None
    elif weights is None:
        raise ModelError("the weights of the model are too large for one file: give a data_dir")
    with contextlib.ExitStack() as stack:
        place = None if weights is None else weights.parent
        written = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place))) / "model.onnx"
        options.optimized_model_filepath = str(written)
        # No name of a file that the model has its weights in.
        beside = f"{uuid.uuid4().hex}.data"
        if weights is not None:
            for key, value in (("file_name", beside), ("min_size_in_bytes", "1024")):
                name = f"session.optimized_model_external_initializers_{key}"
                options.add_session_config_entry(name, value)
        source = stack.enter_context(loadable(_with_shapes(model), folder))
        try:
            disabled = [] if merge else ["CommonSubexpressionElimination"]
            onnxruntime.InferenceSession(
                source, options, providers=[CPU], disabled_optimizers=disabled
            )
        except Exception as error:  # ONNX Runtime raises classes that it does not export.
            raise ModelError(f"ONNX Runtime refuses the model: {error}") from error
        if weights is not None and written.with_name(beside).exists():
            written.with_name(beside).replace(weights)
        optimised = load(written)
    if folder is not None:
        # What ONNX Runtime left as it was lies in the files of the model.
        take_inside(optimised, folder, but=beside)
    if weights is not None:
        relocate(optimised, beside, weights.name)
    _drop_constant_inputs(optimised, model)
    _part_names(optimised)
    return optimised


def _with_shapes(model: ModelProto) -> ModelProto:
    """Return a model that tells the shapes of its values, as far as they can be inferred.

    ONNX Runtime writes no others than those that it reads.
    """
    try:
        inferred: ModelProto = onnx.shape_inference.infer_shapes(model)
    # Of a model that ONNX Runtime may run all the same, or one beyond what a protobuf may have.
    except (InferenceError, EncodeError, IndexError, RuntimeError, ValueError):
        return model
    return inferred


def _drop_constant_inputs(optimised: ModelProto, model: ModelProto) -> None:
    """Take out the inputs that stood for initializers which are gone.

    Before IR version 4 an initializer had to be an input too, and was a constant all the same.
    """
    left = {tensor.name for tensor in optimised.graph.initializer}
    gone = {tensor.name for tensor in model.graph.initializer} - left
    remove_where(optimised.graph.input, lambda value: value.name in gone)


def _part_names(model: ModelProto) -> None:
    """Give the values of a subgraph other names than those that it can see from outside.

    ONNX Runtime names what it adds for its layout alike in all graphs, and refuses to read that.
    """
    taken = {name for graph in every_graph(model) for name in _named(graph)}

    def visit(graph: GraphProto, outside: set[str]) -> None:
        parted = {}
        for name in sorted(_named(graph) & outside):
            parted[name] = next(new for i in count() if (new := f"{name}_{i}") not in taken)
            taken.add(parted[name])
        inside = [graph]
        for each in inside if parted else ():
            rename_values(each, lambda name: parted.get(name, name))
            inside += [inner for node in each.node for _, inner in subgraphs(node, "")]
        visible = outside | _named(graph)
        for node in graph.node:
            for _, inner in subgraphs(node, ""):
                visit(inner, visible)

    visit(model.graph, set())


def _named(graph: GraphProto | FunctionProto) -> set[str]:
    """Return the names that a graph gives to values, without those of graphs inside."""
    names = {value for node in graph.node for value in node.output if value}
    if isinstance(graph, GraphProto):
        names.update(item.name for item in (*graph.initializer, *graph.input))
    return names


def _size(model: ModelProto, folder: Path | None) -> int:
    """Return how many bytes the model and its external data have."""
    outside = [] if folder is None else external_files(model, folder)
    inside: int = model.ByteSize()
    return inside + sum(path.stat().st_size for path in outside)
