"""Whether a model draws random numbers, so that no two of its runs need agree."""

from onnx import ModelProto, NodeProto

from onnxfit.graph import Scope, scopes
from onnxfit.op import DEFAULT_DOMAINS

_DRAWING = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


def drawn_value(model: ModelProto) -> str | None:
    """Return the name of the first value that a model draws at random, None where it draws none.

    Seeds do not count: ONNX Runtime goes on from run to run where a node has one.
    """
    for scope in scopes(model):
        for node in scope.nodes:
            if node.domain in DEFAULT_DOMAINS and _draws(scope, node):
                return scope.full_name(next(value for value in node.output if value))
    return None


def _draws(scope: Scope, node: NodeProto) -> bool:
    if node.op_type in _DRAWING:
        return True
    # At inference Dropout passes its input on, unless its third input says otherwise.
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    training = scope.scalar(node.input[2])
    return training is None or bool(training)
