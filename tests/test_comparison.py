"""The comparison that the tests of fidelity rely on notices whatever else is changed."""

from collections.abc import Callable

import onnx
import pytest
from corpus import LOWERINGS
from independent import differences
from onnx import ModelProto
from support import parse

import onnxfit

RICH = """
<
  ir_version: 10, opset_import: ["": 17, "local": 1], producer_name: "test",
  model_version: 7, doc_string: "a model", metadata_props: ["author": "somebody"]
>
g (float[N,4] x, bool c) => (float[N,4] y)
<float[4] w = {1, 2, 3, 4}, float zero = {0}, float six = {6}, float[N,4] h>
{
  [first] h = Mul(x, w)
  [second] a = Relu(h)
  [third] b = Clip(a, zero, six)
  d = If(c) <
    then_branch = inner_then () => (float[N,4] t) { t = Relu(b) },
    else_branch = inner_else () => (float[N,4] e) { e = Neg(b) }
  >
  s = LeakyRelu<alpha: float = 0.25>(d)
  y = local.act(s)
}
<domain: "local", opset_import: ["": 17]>
act (X) => (Y) { r = Relu(X) Y = Add(r, r) }
"""


def rich_model() -> ModelProto:
    """Return a model with everything that an editor of protos might lose."""
    model = parse(RICH)
    model.graph.node[1].doc_string = "the activation"
    model.graph.node[1].metadata_props.add(key="origin", value="layer 1")
    model.graph.doc_string = "a graph"
    model.functions[0].doc_string = "a function"
    annotation = model.graph.quantization_annotation.add(tensor_name="h")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="zero")
    model.training_info.add().initialization_binding.add(key="w", value="x")
    return model


def initializer(model: ModelProto) -> None:
    """Change a weight."""
    model.graph.initializer[0].float_data[2] = 3.5


def doc_string_of_an_activation(model: ModelProto) -> None:
    """Drop the text at a replaced node."""
    next(node for node in model.graph.node if node.name == "second").ClearField("doc_string")


def doc_string_of_a_function(model: ModelProto) -> None:
    """Drop the text at a function."""
    model.functions[0].ClearField("doc_string")


def node_metadata(model: ModelProto) -> None:
    """Drop the metadata of a replaced node."""
    del next(node for node in model.graph.node if node.name == "second").metadata_props[:]


def node_name(model: ModelProto) -> None:
    """Rename a replaced node."""
    next(node for node in model.graph.node if node.name == "second").name = "other"


def attribute(model: ModelProto) -> None:
    """Change a number at a node that is no site."""
    next(node for node in model.graph.node if node.op_type == "LeakyRelu").attribute[0].f = 0.5


def node_in_a_subgraph(model: ModelProto) -> None:
    """Change an operator inside an If."""
    branches = next(node for node in model.graph.node if node.op_type == "If").attribute
    branches[1].g.node[0].op_type = "Abs"


def node_in_a_function(model: ModelProto) -> None:
    """Change an operator inside a function."""
    model.functions[0].node[-1].op_type = "Mul"


def order(model: ModelProto) -> None:
    """Swap two nodes."""
    last, before = model.graph.node[-1], model.graph.node[-2]
    copy = onnx.NodeProto()
    copy.CopyFrom(last)
    last.CopyFrom(before)
    before.CopyFrom(copy)


def added_node(model: ModelProto) -> None:
    """Add a node that nobody asked for."""
    model.graph.node.add(op_type="Identity", input=["x"], output=["unused"])


def missing_node(model: ModelProto) -> None:
    """Take the last node away."""
    del model.graph.node[-1]


def input_of_an_activation(model: ModelProto) -> None:
    """Let a JumpReLU read another value."""
    next(node for node in model.graph.node if node.name == "second").input[0] = "x"


def value_info(model: ModelProto) -> None:
    """Drop the type of an inner value."""
    del model.graph.value_info[:]


def annotation(model: ModelProto) -> None:
    """Drop a quantisation annotation."""
    del model.graph.quantization_annotation[:]


def metadata(model: ModelProto) -> None:
    """Drop the author."""
    del model.metadata_props[0]


def model_version(model: ModelProto) -> None:
    """Drop the version that the model's author gave it."""
    model.ClearField("model_version")


def training(model: ModelProto) -> None:
    """Drop what a trainer left."""
    del model.training_info[:]


def ir_version(model: ModelProto) -> None:
    """Raise the version of the format without need."""
    model.ir_version += 1


def opset(model: ModelProto) -> None:
    """Read the nodes at another version."""
    model.opset_import[0].version += 1


def output(model: ModelProto) -> None:
    """Lose the shape of an output."""
    model.graph.output[0].type.tensor_type.ClearField("shape")


def test_comparison_finds_nothing_in_an_honest_file() -> None:
    """The comparison accepts what retrofit does."""
    model = rich_model()
    for lowering in LOWERINGS:
        assert [] == differences(model, onnxfit.retrofit(model, jump=0.5, lowering=lowering))


TAMPERS: list[Callable[[ModelProto], None]] = [
    initializer,
    doc_string_of_an_activation,
    doc_string_of_a_function,
    node_metadata,
    node_name,
    attribute,
    node_in_a_subgraph,
    node_in_a_function,
    order,
    added_node,
    missing_node,
    input_of_an_activation,
    value_info,
    annotation,
    metadata,
    model_version,
    training,
    ir_version,
    opset,
    output,
]


@pytest.mark.parametrize("tamper", TAMPERS, ids=lambda tamper: tamper.__name__)
def test_comparison_notices_a_tampered_file(tamper: Callable[[ModelProto], None]) -> None:
    """The comparison reports whatever else is changed."""
    model = rich_model()
    changed = onnxfit.retrofit(model, jump=0.5)
    tamper(changed)
    assert differences(model, changed)


def test_rich_model_is_restored() -> None:
    """Restore gives back doc strings, annotations, functions and subgraphs too."""
    model = rich_model()
    for lowering in LOWERINGS:
        restored = onnxfit.restore(onnxfit.retrofit(model, jump=0.5, lowering=lowering))
        assert model.SerializeToString() == restored.SerializeToString()
