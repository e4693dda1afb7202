"""What a compiled model's outputs are compared with, and what explains a difference."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compile_support import HEAD, RESIDUAL, network
from onnx import ModelProto
from support import MODELS, parse, relu_model

import onnxfit
from onnxfit.compilation import comparing
from onnxfit.compilation.comparing import compare
from onnxfit.compilation.differences import Comparison, compared
from onnxfit.errors import ModelError
from onnxfit.run_time_jumps import with_run_time_jumps


def residual(element_type: str = "float", seed: int = 0, *, pool: bool = True) -> ModelProto:
    """Return a residual network of normal weights whose output is N×C, means or all values."""
    text = RESIDUAL.replace("float[N,16,P,Q] y", "float[N,M] y").replace("float", element_type)
    last = "r = Relu(s) p = GlobalAveragePool(r) y = Flatten(p)"
    last = last if pool else "r = Relu(s) y = Flatten(r)"
    text = text.replace("y = Relu(s)", last)
    rng = np.random.default_rng(seed)
    source = network(HEAD + "g " + text)
    for tensor in source.graph.initializer:
        values = rng.standard_normal(list(tensor.dims)) / 4
        typed = values.astype(np.float16 if element_type == "float16" else np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(typed, tensor.name))
    return source


def test_the_same_model_differs_in_nothing() -> None:
    """No reason is looked for."""
    model = onnxfit.retrofit(MODELS / "digits_cnn.onnx", 0.1)
    same = compare(model, model)
    assert same is not None
    assert Comparison(outputs=20, different=0, largest=0.0, samples=2, same_class=2) == same
    assert "the same bits as the hardened model's, 20 of them compared" == same.words


def test_a_difference_is_explained_by_the_network_at_jump_zero() -> None:
    """ONNX Runtime takes the mean in another order in the original as well."""
    hard = onnxfit.retrofit(residual(), 0.25)
    found = compare(hard, onnxfit.compile(hard))
    assert found is not None
    assert (32, 2, 0, False) == (found.outputs, found.samples, found.at_zero, found.float16)
    assert 0 < found.different
    assert 0 < found.mean <= found.largest < 1e-5
    assert found.words == (
        f"{found.different} of 32 differ from the hardened model's, by at most "
        f"{found.largest:.2g} of the largest, classes equal for 2 of 2: "
        "ONNX Runtime sums in another order; at jump 0 they are the original's"
    )


def test_a_value_within_rounding_of_its_jump_may_cross_it() -> None:
    """Float16 is computed in float; the few values that cross a jump move by as much as it."""
    hard = onnxfit.retrofit(residual("float16", pool=False), 1.0)
    found = compare(hard, onnxfit.compile(hard))
    assert found is not None
    assert (28800, 2, 0, True) == (found.outputs, found.samples, found.at_zero, found.float16)
    assert 0 < found.different < 100
    assert 0.05 < found.largest < 1
    assert found.words.endswith(": ONNX Runtime sums in float; at jump 0 they are the original's")


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("jump", [0.25, np.arange(16, dtype=np.float32)[:, None, None] / 32])
def test_jumps_of_other_sites_are_an_error(jump: Any, pool: bool) -> None:
    """No noise on the inputs moves outputs as far."""
    source = residual(pool=pool)
    hard = onnxfit.retrofit(source, jumps={"a": jump, "r": 0.5})
    other = onnxfit.compile(onnxfit.retrofit(source, jumps={"a": 0.5, "r": jump}))
    message = (
        r"^the compiled model differs from the hardened one by [\d.e-]+ of the largest output, "
        "which rounding does not explain; please report it$"
    )
    with pytest.raises(ModelError, match=message):
        compare(hard, other)


def test_another_network_at_jump_zero_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what is compiled is not the original, no order of sums explains it."""
    hard = onnxfit.retrofit(residual(), 0.25)
    compiled, other = (
        onnxfit.compile(hard),
        onnxfit.compile(onnxfit.retrofit(residual(seed=1), 0.0)),
    )
    monkeypatch.setattr(comparing, "compile_model", lambda *_, **__: other)
    message = (
        r"^the compiled model differs at jump 0 from the original by [\d.e-]+ of the largest "
        "output, which rounding does not explain; please report it$"
    )
    with pytest.raises(ModelError, match=message):
        compare(hard, compiled)


def test_a_compiled_model_that_fails_when_it_runs_is_an_error() -> None:
    """Only what the hardened model says of random inputs makes them unfit."""
    hard = onnxfit.retrofit(relu_model(nodes="s = Sqrt(x) y = Relu(s)"), 0.5)
    compiled = onnxfit.compile(hard)
    shape = onnx.numpy_helper.from_array(np.array([7]), "seven")
    compiled.graph.initializer.append(shape)
    compiled.graph.node[0].op_type = "Reshape"
    compiled.graph.node[0].input.append("seven")
    with pytest.raises(ModelError, match=r"^the compiled model does not run: .*Reshape"):
        compare(hard, compiled)


def test_inputs_that_do_not_fit_are_not_compared() -> None:
    """A length that no axis was tried with: there is no result."""
    source = parse(
        HEAD + "g (float[N,M] x) => (float[N,5] y) <float[5] five = {1,1,1,1,1}> "
        "{ m = Mul(x, five) y = Relu(m) }"
    )
    hard = onnxfit.retrofit(source, 0.5)
    assert compare(hard, onnxfit.compile(hard)) is None


@pytest.mark.parametrize("element_type", ["int64", "int32", "uint8", "bool"])
def test_whole_numbers_and_truth_values_are_drawn(element_type: str) -> None:
    """Zeros and ones; and each truth value with its contrary."""
    source = parse(
        HEAD + f"g ({element_type}[N,7] i, float[N,7] x) => (float[N,7] y) "
        "{ f = Cast<to = 1>(i) s = Sub(x, f) y = Relu(s) }"
    )
    hard = onnxfit.retrofit(source, 0.5)
    found = compare(hard, onnxfit.compile(hard))
    assert found is not None
    assert ((28 if element_type == "bool" else 14), 0) == (found.outputs, found.different)


def test_both_branches_are_compared() -> None:
    """Whatever a truth value chooses: a jump that differs in one branch alone is seen."""
    source = parse(
        HEAD + "g (float[N,7] x, bool t) => (float[N,7] y) { y = If(t) < "
        "then_branch = p () => (float[N,7] u) { u = Relu(x) }, "
        "else_branch = q () => (float[N,7] v) { v = Relu(x) } > }"
    )
    sites = [site.name for site in onnxfit.find_sites(source)]
    hard = onnxfit.retrofit(source, 0.25)
    for site in sites:
        other = onnxfit.compile(
            onnxfit.retrofit(source, jumps={**dict.fromkeys(sites, 0.25), site: 1.5})
        )
        with pytest.raises(ModelError, match=r"^the compiled model differs from the hardened one"):
            compare(hard, other)


def test_jumps_that_are_inputs_are_0_for_the_original() -> None:
    """And at least 0 where outputs are compared."""
    hard, inputs = with_run_time_jumps(residual())
    found = compare(hard, onnxfit.compile(hard))
    assert found is not None
    assert (32, 0) == (found.outputs, found.different)
    taken = onnxfit.session(hard).get_inputs()
    feeds = comparing._random(taken, 32, 0)
    assert all(0 < feeds[0][name] for name in inputs.values())
    control = comparing._at_zero(hard, feeds, None, None)
    assert control is not None
    assert 0 < control.largest < 1e-5


def test_a_network_that_runs_hardened_alone() -> None:
    """There is no Relu of bfloat16: then small differences are rounding, without a control."""
    hard = onnxfit.retrofit(
        relu_model(nodes="a = Cast<to = 16>(x) b = Relu(a) y = Cast<to = 1>(b)"), 0.5
    )
    feeds = [{"x": np.zeros(2, np.float32)}]
    assert comparing._at_zero(hard, feeds, None, None) is None
    found = Comparison(outputs=4, different=1, largest=1e-7)
    assert (
        "1 of 4 differ from the hardened model's, by at most 1e-07 of the largest: rounding"
        == found.words
    )


def test_external_data_and_folders(tmp_path: Path) -> None:
    """The control needs the weights of the hardened model, and leaves nothing."""
    onnx.save(
        residual(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="w"
    )
    hard = onnxfit.retrofit(tmp_path / "m.onnx", 0.25)
    (tmp_path / "made").mkdir()
    compiled = onnxfit.compile(hard, base_dir=tmp_path)
    found = compare(hard, compiled, base_dir=tmp_path, data_dir=tmp_path / "made")
    assert found is not None
    assert 0 == found.at_zero
    assert {"m.onnx", "w", "made"} == {path.name for path in tmp_path.iterdir()}
    assert [] == list((tmp_path / "made").iterdir())


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_numbers_that_are_not_finite(dtype: Any) -> None:
    """Distances are those of finite pairs; others differ without bound, NaN and NaN in nothing."""
    nan, inf = np.nan, np.inf

    def found(one: list[float], other: list[float]) -> tuple[int, float]:
        result = compared([np.array(one, dtype)], [np.array(other, dtype)])
        return result.different, result.largest

    assert (0, 0.0) == found([nan, inf, -inf, 1], [nan, inf, -inf, 1])
    assert (1, 0.25) == found([nan, inf, 4, 2], [nan, inf, 3, 2])
    assert (1, inf) == found([nan, 1], [2, 1])
    assert (1, inf) == found([inf, 1], [-inf, 1])
    assert (2, inf) == found([inf, 1], [2, 0.5])
    assert (1, 0.0) == found([0.0], [-0.0])
    assert (0, 0.0) == found([], [])


def test_classes_and_other_outputs() -> None:
    """Rows of N×C alone are classes; whole numbers and texts are compared as they are."""
    rows = np.array([[1, 2], [3, 1], [0, 1]], np.float32)
    found = compared([rows, rows[None], rows[:, :1]], [rows[:, ::-1], rows[None], rows[:, :1]])
    assert (3, 0) == (found.samples, found.same_class)
    found = compared([rows], [rows])
    assert (3, 3) == (found.samples, found.same_class)
    words = np.array(["a", "b"], object)
    found = compared([np.array([1, 4]), words], [np.array([1, 3]), words.copy()])
    assert (4, 1, 0.25, 0) == (found.outputs, found.different, found.largest, found.samples)
    assert np.inf == compared([words], [words[::-1]]).largest
    with pytest.raises(ModelError, match=r"^the compiled model gives outputs of other shapes$"):
        compared([rows], [rows[:2]])
