"""Parity finds a twin that differs from its file, and says where."""

from typing import Any

import numpy as np
import onnx
import pytest
from support import MODELS, parse

torch = pytest.importorskip("torch")

import onnxfit  # noqa: E402
from onnxfit.errors import ParityError  # noqa: E402
from onnxfit.twin.parity import require_parity  # noqa: E402


def digits() -> tuple[onnx.ModelProto, Any, Any]:
    """Return the shipped network with its test data, as the network takes it."""
    data = np.load(MODELS / "digits_test.npz")
    x = data["x"].astype(np.float32) / 255 if data["x"].dtype == np.uint8 else data["x"]
    return onnxfit.load(MODELS / "digits_cnn.onnx"), x[:200], data["y"][:200]


def test_a_right_twin_agrees() -> None:
    """Plain and hardened: within rounding where the jumps are 0, the same classes with them."""
    model, x, _ = digits()
    for tested in (model, onnxfit.retrofit(model, 0.5)):
        found = require_parity(tested, onnxfit.to_torch(tested), x)
        assert (200, True, None) == (found.samples, found.agrees, found.first_difference)
        assert 0 < found.largest_difference < 1e-3
        assert found.relative_difference < 1e-4
        assert 1.0 == found.top1_agreement


@pytest.mark.parametrize("jump", [0.0, 0.5])
def test_a_changed_weight_is_noticed(jump: float) -> None:
    """Top-1 may still agree: the numbers tell, and the first value behind the weight is named."""
    source, x, _ = digits()
    model = onnxfit.retrofit(source, jump) if jump else source
    twin = onnxfit.to_torch(model)
    name, parameter = list(twin.named_parameters())[-3]
    with torch.no_grad():
        parameter.mul_(1.05)
    found = onnxfit.parity(model, twin, x)
    assert not found.agrees
    weight = twin.weight_names[name][1]
    user = next(node for node in model.graph.node if weight in node.input)
    assert user.output[0] == found.first_difference
    with pytest.raises(ParityError, match=rf"the first value that differs is '{user.output[0]}'$"):
        require_parity(model, twin, x)


def test_bisection_names_the_first_of_many() -> None:
    """With every node after it different too, the node that went wrong is the one named."""
    nodes = " ".join(f"v{i + 1} = Mul(v{i}, w{i})" for i in range(20))
    weights = ", ".join(f"float[1] w{i} = {{1.01}}" for i in range(20))
    model = parse(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[N,3] v0) => (float[N,3] v20) '
        f"<{weights}> {{ {nodes} }}"
    )
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for broken in (0, 7, 19):
        twin = onnxfit.to_torch(model)
        with torch.no_grad():
            twin.get_parameter(f"w{broken}").add_(0.5)
        assert f"v{broken + 1}" == onnxfit.parity(model, twin, x).first_difference


def test_a_wrong_jump_is_noticed_by_its_decisions() -> None:
    """The numbers agree with every jump at 0, the classes do not with the file's own."""
    source, x, _ = digits()
    model = onnxfit.retrofit(source, 0.1)
    twin = onnxfit.to_torch(model)
    for site in twin.sites.values():
        site.jump.fill_(3.0)
    found = onnxfit.parity(model, twin, x)
    assert not found.agrees
    assert found.relative_difference < found.tolerance
    assert found.top1_agreement < 0.98
    assert found.flips > 0
    assert 3.0 == next(iter(twin.sites.values())).jump.item()
    assert found.first_difference in {site.name for site in onnxfit.find_sites(model)}


def test_flips_are_counted_and_forgiven() -> None:
    """A value that lies on the jump itself may fall on either side without an error."""
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,2] y) '
        "<float[2] w = {1, 1}, float[1] b = {10}, float[2] one = {0, 100}> "
        "{ m = Mul(x, w) r = Relu(m) s = Mul(r, b) y = Add(s, one) }"
    )
    hard = onnxfit.retrofit(model, 1.0)
    twin = onnxfit.to_torch(hard)
    with torch.no_grad():
        twin.get_parameter("w").mul_(1 + 1e-6)
    x = np.array([[1.0, 0.5], [2.0, 2.0], [0.3, 0.2]], np.float32)
    found = onnxfit.parity(hard, twin, x)
    assert found.agrees
    assert 1 == found.flips
    assert 10.0 == pytest.approx(found.largest_flip, rel=1e-4)


def test_a_file_that_fixes_its_batch_is_compared_on_all_samples() -> None:
    """ONNX Runtime gets one sample at a time, the twin all of them."""
    model, x, _ = digits()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    found = onnxfit.parity(model, onnxfit.to_torch(model), x[:10], batch_size=4)
    assert found.agrees
    assert 10 == found.samples


def test_no_samples_are_no_agreement() -> None:
    """An empty batch is refused."""
    model, x, _ = digits()
    with pytest.raises(ValueError, match=r"^parity needs at least one sample$"):
        onnxfit.parity(model, onnxfit.to_torch(model), x[:0])
