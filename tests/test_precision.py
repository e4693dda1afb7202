"""What PyTorch is told to compute with on CUDA; the settings are there without a device too."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

torch = pytest.importorskip("torch")

import onnxfit  # noqa: E402
from onnxfit.attacks import FGSM  # noqa: E402
from onnxfit.data import from_arrays  # noqa: E402
from onnxfit.twin.gradients import input_gradients  # noqa: E402

X = np.array([[0.2, 0.4], [0.6, 0.8]], np.float32)
Y = np.array([0, 1])


class Noting(torch.nn.Module):  # type: ignore[misc,name-defined]
    """A module that notes whether convolutions may be rounded and summed in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[bool, bool]] = set()

    def forward(self, x: Any) -> Any:
        """Return the samples."""
        self.seen.add((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic))
        return 1.0 * x


def the_same() -> onnx.ModelProto:
    """Make a model that returns what it is given, n×2."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda m: FGSM(eps=0.1)(m, X, Y), id="attack"),
        pytest.param(lambda m: list(input_gradients(m, from_arrays(X, Y))), id="gradients"),
        pytest.param(lambda m: onnxfit.parity(the_same(), m, X), id="parity"),
    ],
)
def test_convolutions_are_exact_and_repeatable(use: Callable[[Noting], object]) -> None:
    """Nothing is computed in TF32 or in a random order, and the settings are back after it."""
    before = (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic)
    assert before != (False, True)
    module = Noting()
    use(module)
    assert module.seen == {(False, True)}
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == before
