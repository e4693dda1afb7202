"""How far a compiled model's outputs are from the hardened model's, on random inputs.

Where bits differ, the reason is looked for: compiled at jump 0, the network must give what the one
before hardening gives, and no difference may be far beyond what a little noise on the inputs does.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnxfit.compilation.compiler import compile as compile_model
from onnxfit.compilation.differences import Comparison, compared
from onnxfit.element_types import every_graph
from onnxfit.errors import ModelError
from onnxfit.hardening import retrofit
from onnxfit.lowering import INPUT_PREFIX
from onnxfit.planning import sites_of
from onnxfit.restoring import restore
from onnxfit.rewrites import unrewritten
from onnxfit.runtime import quiet_options, session
from onnxfit.sites import scan

Feeds = list[dict[str, NDArray[Any]]]

_FLOATS: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
_WHOLE: dict[str, Any] = {
    f"tensor({name}{bits})": np.dtype(f"{name}{bits}")
    for name in ("int", "uint")
    for bits in (8, 16, 32, 64)
} | {"tensor(bool)": np.dtype(bool)}
# What an axis of unknown length is tried with, one after the other: the first axis is the batch.
_BATCH, _LENGTHS = 2, (32, 224)
# Differences, as a share of the largest number, that need no explanation beyond rounding; and the
# noise on the inputs, as a share of each number, whose mean effect times _FACTOR explains larger
# ones: rounding lets few values cross a jump. Of float; and where float16 or quantisers round.
_ROUNDING, _COARSE_ROUNDING = 1e-3, 5e-2
_NOISE, _COARSE_NOISE = 1e-4, 4e-3
_FACTOR = 10


def compare(
    hard: ModelProto,
    compiled: ModelProto,
    *,
    base_dir: Path | None = None,
    data_dir: Path | None = None,
    seed: int = 0,
) -> Comparison | None:
    """Run a hardened model and its compiled form on the same random numbers.

    They are standard normal; whole numbers are 0 or 1, and of truth values both are tried.

    Args:
        hard: The hardened model.
        compiled: What was made of it.
        base_dir: Folder of the external data of the hardened model.
        data_dir: The same of the compiled one.
        seed: Of the numbers.

    Returns:
        What was found; None where an input is of another type, or no length that was tried for the
        axes of unknown length fits.

    Raises:
        ModelError: The compiled model does not run, or differs by more than can be explained.
    """
    first = session(hard, quiet_options(), base_dir=base_dir)
    second = _runnable(compiled, data_dir)
    drawn = _fitting(first, seed)
    if drawn is None:
        return None
    feeds, expected = drawn
    found = compared(expected, _outputs(second, feeds))
    if not found.different:
        return found
    types = {site.place.element_type for site in sites_of(list(scan(unrewritten(hard))))}
    float16 = TensorProto.FLOAT16 in types
    at_zero = _at_zero(hard, feeds, base_dir, data_dir)
    coarse = float16 or _quantises(hard)
    moved = _moved_by_noise(first, feeds, expected, coarse=coarse)
    limit = _COARSE_ROUNDING if coarse else _ROUNDING
    _check(found, "from the hardened one", limit, moved)
    if at_zero is not None:
        _check(at_zero, "at jump 0 from the original", limit, moved)
    return replace(found, float16=float16, at_zero=None if at_zero is None else at_zero.largest)


def _runnable(compiled: ModelProto, folder: Path | None) -> Any:
    """Start a session of a compiled model.

    Raises:
        ModelError: It does not start.
    """
    try:
        return session(compiled, quiet_options(), base_dir=folder)
    except ModelError as error:
        raise ModelError(f"the compiled model does not run: {error}") from error


def _outputs(compiled: Any, feeds: Feeds) -> list[Any]:
    """Return the outputs of a compiled model for all inputs.

    Raises:
        ModelError: It does not run.
    """
    try:
        return [output for feed in feeds for output in compiled.run(None, feed)]
    except Exception as error:  # ONNX Runtime raises classes that it does not export.
        raise ModelError(f"the compiled model does not run: {error}") from error


def _fitting(hard: Any, seed: int) -> tuple[Feeds, list[Any]] | None:
    """Return random inputs that a session takes, and its outputs; None where none were found."""
    inputs = hard.get_inputs()
    if any(value.type not in _FLOATS | _WHOLE for value in inputs):
        return None
    for length in _LENGTHS:
        feeds = _random(inputs, length, seed)
        try:
            return feeds, [output for feed in feeds for output in hard.run(None, feed)]
        except Exception:  # noqa: S112 - ONNX Runtime raises classes that it does not export
            continue
    return None


def _random(inputs: list[Any], length: int, seed: int) -> Feeds:
    """Draw inputs; twice where truth values are among them, which are then the other ones."""
    rng = np.random.default_rng(seed)
    feed: dict[str, NDArray[Any]] = {}
    for value in inputs:
        shape = _shape(value.shape, length)
        if value.type in _WHOLE:
            drawn = np.asarray(rng.integers(0, 2, shape))
            feed[value.name] = drawn.astype(_WHOLE[value.type])
        else:
            drawn = np.asarray(rng.standard_normal(shape))
            # A jump is at least 0.
            drawn = np.asarray(np.abs(drawn) if value.name.startswith(INPUT_PREFIX) else drawn)
            feed[value.name] = drawn.astype(_FLOATS[value.type])
    others = {name: np.asarray(x == 0) for name, x in feed.items() if x.dtype == bool}
    return [feed, feed | others] if others else [feed]


def _shape(dimensions: list[int | str | None], length: int) -> list[int]:
    """Return a shape with numbers for the axes of unknown length."""
    return [
        size if isinstance(size, int) else (_BATCH if axis == 0 else length)
        for axis, size in enumerate(dimensions)
    ]


def _at_zero(
    hard: ModelProto, feeds: Feeds, base_dir: Path | None, data_dir: Path | None
) -> Comparison | None:
    """Return how far the network compiled at jump 0 is from the one before hardening.

    None where that does not run.
    """
    plain = restore(hard, base_dir)
    names = {value.name for value in plain.graph.input}
    zeros = [
        {name: np.zeros_like(x) if name.startswith(INPUT_PREFIX) else x for name, x in f.items()}
        for f in feeds
    ]
    try:
        original = session(plain, quiet_options(), base_dir=base_dir)
        expected = [
            output
            for feed in zeros
            for output in original.run(None, {n: x for n, x in feed.items() if n in names})
        ]
    except ModelError:
        return None
    zeroed = _at_jump_zero(hard, base_dir)
    if zeroed is None:
        return None
    with tempfile.TemporaryDirectory(dir=data_dir) as folder:
        compiled = compile_model(zeroed, base_dir=base_dir, data_dir=folder)
        actual = _outputs(_runnable(compiled, Path(folder)), zeros)
    return compared(expected, actual)


def _at_jump_zero(hard: ModelProto, base_dir: Path | None) -> ModelProto | None:
    """Return a hardened model with every jump 0; None where one is computed from others.

    A jump that is an input of the graph stays one.
    """
    zeros: dict[str, Any] = {}
    hardened = [site for site in sites_of(list(scan(unrewritten(hard)))) if site.hardened]
    for site in hardened:
        jump = None if site.hardened is None else site.hardened.jump
        if jump is not None:
            zeros[site.site.name] = 0.0 if isinstance(jump, float) else np.zeros_like(jump)
    if not zeros:
        return hard
    return retrofit(hard, jumps=zeros, base_dir=base_dir) if len(zeros) == len(hardened) else None


def _quantises(model: ModelProto) -> bool:
    """Tell whether a model rounds to a few values."""
    return any(n.op_type == "QuantizeLinear" for graph in every_graph(model) for n in graph.node)


def _check(found: Comparison, where: str, limit: float, moved: float) -> None:
    """Check that rounding, and jumps that rounding is enough to cross, explain a difference.

    Args:
        found: The difference.
        where: From what, for the message.
        limit: The largest that needs no explanation.
        moved: How far noise on the inputs moves outputs in the mean.

    Raises:
        ModelError: They do not.
    """
    if found.largest > limit and found.mean > _FACTOR * moved:
        raise ModelError(
            f"the compiled model differs {where} by {found.largest:.2g} of the largest output, "
            "which rounding does not explain; please report it"
        )


def _moved_by_noise(hard: Any, feeds: Feeds, expected: list[Any], *, coarse: bool) -> float:
    """Return how far a little noise on the inputs moves outputs in the mean.

    Infinity where there can be none.
    """
    rng = np.random.default_rng(1)
    share = _COARSE_NOISE if coarse else _NOISE
    noisy, moved = [], False
    for feed in feeds:
        noisy.append(dict(feed))
        for name, x in feed.items():
            if x.dtype.kind == "f" and not name.startswith(INPUT_PREFIX):
                noise = 1 + share * rng.standard_normal(x.shape)
                noisy[-1][name] = np.asarray(x * noise).astype(x.dtype)
                moved = True
    if not moved:
        return float("inf")
    return compared(expected, [y for feed in noisy for y in hard.run(None, feed)]).mean
