"""A network whose jumps can be set at any time, beside files hardened with the same jumps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from support import MODELS, parse, same_bits

import onnxfit
from onnxfit import deployed

torch = pytest.importorskip("torch")

from onnxfit.calibration.tunable import Tunable  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

DIGITS = MODELS / "digits_cnn.onnx"
STEM, HIDDEN = "/stem_relu/Relu_output_0", "/hidden_relu/Relu_output_0"
# Rounding, of logits that reach 20.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
FUNCTION = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (float[N,1,8,8] x) => (float[N,64] y) { f = Flatten(x) h = Relu(f) y = local.inner(h) }
<domain: "local", opset_import: ["": 17]>
inner (X) => (Y) { c = Constant<value_float = 0.25>() less = Sub(X, c) Y = Relu(less) }
"""

Jumps = dict[str, float | NDArray[np.float32]]


@pytest.fixture(scope="module")
def x() -> Any:
    """Seventy images of digits, more than a batch."""
    with np.load(MODELS / "digits_test.npz") as file:
        return torch.from_numpy(file["x"][:70])


@pytest.fixture
def unoptimised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions compute the graph as it stands, so that bits can be compared."""

    def session(
        model: ModelProto, options: Any, providers: Any, *, base_dir: Any
    ) -> onnxruntime.InferenceSession:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
        return onnxfit.session(model, options, providers, base_dir=base_dir)

    monkeypatch.setattr(deployed, "session", session)


def every(network: Tunable, jump: float) -> Jumps:
    """Return one jump for every site."""
    return dict.fromkeys(network.sites, jump)


def by_channel(seed: int = 0) -> Jumps:
    """Draw a jump for each channel of the first site and for each neuron of the last."""
    random = np.random.default_rng(seed)
    return {
        STEM: random.uniform(0, 0.5, (16, 1, 1)).astype(np.float32),
        HIDDEN: random.uniform(0, 0.5, 64).astype(np.float32),
    }


def assert_serves(
    source: ModelProto,
    network: Tunable,
    candidates: Sequence[Jumps],
    x: Any,
    near: Mapping[str, Any] = CLOSE,
) -> None:
    """Check that twin and session compute what files hardened with each candidate do."""
    for jumps in candidates:
        hard = Target(onnxfit.retrofit(source, jumps=jumps))
        network.set(jumps)
        with torch.no_grad():
            for expected, found in (
                (hard.deployed(x), network.deployed(x)),
                (hard.twin(x), network.twin(x)),
            ):
                torch.testing.assert_close(found, expected, **near)
                assert expected.argmax(1).tolist() == found.argmax(1).tolist()
        assert hard.predictions(x).tolist() == network.predictions(x).tolist()


def in_half(model: ModelProto) -> ModelProto:
    """Make a float16 network of one in float."""
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            narrow = onnx.numpy_helper.from_array(values.astype(np.float16), tensor.name)
            tensor.CopyFrom(narrow)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.graph.value_info[:]
    return model


def in_fixed_batches(size: int) -> ModelProto:
    """Fix the batch size of the digits network."""
    model = onnx.load(DIGITS)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    return model


def test_a_new_one_is_the_network_before_hardening(x: Any) -> None:
    """Every jump is 0 at first, and no file is hardened for it."""
    plain = Target(DIGITS)
    network = Tunable(plain)
    assert [site.name for site in onnxfit.find_sites(DIGITS)] == network.sites
    assert not network.rebuilds
    torch.testing.assert_close(network.deployed(x), plain.deployed(x), **CLOSE)
    assert plain.predictions(x).tolist() == network.predictions(x).tolist()


def test_numbers_are_those_of_a_hardened_file(x: Any) -> None:
    """With one jump for all sites and one for each, back and forth."""
    source = onnx.load(DIGITS)
    network = Tunable(Target(source))
    assert not network.rebuilds
    mixed: Jumps = {name: 0.1 * i for i, name in enumerate(network.sites)}
    candidates = [every(network, 0.5), mixed, every(network, 0.0), every(network, 0.1)]
    assert_serves(source, network, candidates, x)


@pytest.mark.usefixtures("unoptimised")
def test_bits_are_those_of_a_hardened_file(x: Any) -> None:
    """Where the optimiser fuses nothing, the session's logits have the same bits."""
    source, shapes = onnx.load(DIGITS), {STEM: (16, 1, 1), HIDDEN: (64,)}
    network = Tunable(Target(source), shapes)
    for jumps in (every(network, 0.3), {**every(network, 0.1), **by_channel()}):
        network.set(jumps)
        expected = Target(onnxfit.retrofit(source, jumps=jumps)).deployed(x)
        assert same_bits(expected.numpy(), network.deployed(x).numpy())


def test_jumps_by_channel_are_those_of_a_hardened_file(x: Any) -> None:
    """A site with a declared shape takes an array, or one number for all its channels."""
    source = onnx.load(DIGITS)
    network = Tunable(Target(source), {STEM: (16, 1, 1), HIDDEN: (64,)})
    assert not network.rebuilds
    some = by_channel(1)
    candidates: list[Jumps] = [
        {**every(network, 0.1), **by_channel()},
        {**every(network, 0.1), STEM: 0.0, HIDDEN: some[HIDDEN]},
        {**every(network, 0.1), STEM: some[STEM], HIDDEN: 0.25},
        every(network, 0.0),
    ]
    assert_serves(source, network, candidates, x)


def test_channels_have_jumps_of_their_own(x: Any) -> None:
    """A jump beyond all activations of one channel is not one of the others."""
    network = Tunable(Target(DIGITS), {STEM: (16, 1, 1)})
    logits = []
    for jump in (0.0, np.zeros((16, 1, 1), np.float32), None, 1e6):
        one = np.where(np.arange(16) == 3, np.float32(1e6), np.float32(0)).reshape(16, 1, 1)
        network.set({**every(network, 0.0), STEM: one if jump is None else jump})
        logits.append(network.deployed(x))
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    assert not torch.equal(logits[2], logits[3])


def test_jumps_are_rounded_to_float16(x: Any) -> None:
    """Twin, session and hardened file of a float16 network round a jump to the same number."""
    source = in_half(onnx.load(DIGITS))
    network = Tunable(Target(source), {STEM: (16, 1, 1)})
    assert not network.rebuilds
    candidates: list[Jumps] = [every(network, jump) for jump in (0.0, 0.1, 0.3)]
    candidates.append({**every(network, 0.1), STEM: by_channel()[STEM]})
    assert_serves(source, network, candidates, x, {"rtol": 0, "atol": 0})


def test_float16_has_a_largest_and_a_smallest_jump() -> None:
    """What it cannot hold becomes the nearest number that a file can be hardened with."""
    network = Tunable(Target(in_half(onnx.load(DIGITS))), {STEM: (16, 1, 1)})
    given: Jumps = {STEM: np.array([1e9, 1e-9, 0.1], np.float32), HIDDEN: 1e-9}
    found = network.rounded(given)
    assert [65504.0, 0.0, np.float32(np.float16(0.1))] == np.asarray(found[STEM]).tolist()
    assert 0.0 == found[HIDDEN]
    assert 65504.0 == network.rounded({HIDDEN: 1e9})[HIDDEN]
    in_float = Tunable(Target(DIGITS))
    assert {HIDDEN: 1e9} == in_float.rounded({HIDDEN: 1e9})


def test_a_site_in_a_function_is_hardened_anew(x: Any) -> None:
    """A function's body sees no input of the graph, so that there is a file for each candidate."""
    source = parse(FUNCTION)
    network = Tunable(Target(source))
    assert network.rebuilds
    assert ["h", "local::inner/Y"] == network.sites
    candidates: list[Jumps] = [
        {"h": 0.5, "local::inner/Y": 0.0},
        {"h": 0.0, "local::inner/Y": 0.5},
        every(network, 0.0),
    ]
    assert_serves(source, network, candidates, x, {"rtol": 0, "atol": 0})


def test_the_same_jumps_need_no_new_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is hardened for other jumps alone."""
    plain = Target(parse(FUNCTION))
    network = Tunable(plain)
    opened, session_of = [], plain.session_of

    def counted(hard: Any) -> Any:
        opened.append(hard)
        return session_of(hard)

    monkeypatch.setattr(plain, "session_of", counted)
    for jump in (0.5, 0.5, 0.0, 0.5):
        network.set(every(network, jump))
    assert 3 == len(opened)
    with pytest.raises(ValueError, match="is finite"):
        network.set(every(network, float("nan")))
    network.set(every(network, 0.5))
    assert 3 == len(opened)


def test_a_fixed_batch_size_is_filled_up(x: Any) -> None:
    """The jumps are no samples: they go with every batch as they are."""
    source = in_fixed_batches(16)
    network = Tunable(Target(source), {STEM: (16, 1, 1)})
    assert not network.rebuilds
    candidates: list[Jumps] = [
        every(network, 0.3),
        {**every(network, 0.1), STEM: by_channel()[STEM]},
    ]
    assert_serves(source, network, candidates, x)
    network.set(every(network, 0.3))
    loose = Tunable(Target(DIGITS))
    loose.set(every(network, 0.3))
    for n in (1, 15, 16, 33):
        torch.testing.assert_close(network.deployed(x[:n]), loose.deployed(x[:n]), **CLOSE)


@pytest.mark.parametrize(
    ("jump", "message"),
    [
        (-0.5, "a jump size is finite and at least 0, got -0.5"),
        (float("nan"), "a jump size is finite and at least 0, got nan"),
        (np.array([0.1, np.inf], np.float32), "a jump size is finite and at least 0, got inf"),
    ],
)
def test_what_no_file_can_have_is_refused(jump: Any, message: str, x: Any) -> None:
    """The session would compute something; what was set before stays."""
    network = Tunable(Target(DIGITS))
    network.set(every(network, 0.3))
    before = network.deployed(x), network.twin(x)
    with pytest.raises(ValueError, match=f"^{message}$"):
        network.set({**every(network, 0.0), HIDDEN: jump})
    assert torch.equal(before[0], network.deployed(x))
    assert torch.equal(before[1], network.twin(x))
