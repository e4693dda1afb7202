"""Steps that PyTorch does at once, where exporters wrote them out one by one.

A linear layer becomes MatMul and Add, GELU and LayerNorm up to nine operators. One step for them
takes less time, and keeps less for the backward pass. The results differ by rounding alone.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

from onnxfit.twin.ops.arithmetic import power_of_number
from onnxfit.twin.program import Block, Step, leaves, reads
from onnxfit.twin.values import Constant, Variable, Weight


def fuse(block: Block) -> None:
    """Replace groups of steps in a block, and in the blocks inside it, by single ones."""
    steps = _Steps(block)
    for index, step in enumerate(block.steps):
        for leaf in leaves([step.args, step.kwargs]):
            if isinstance(leaf, Block):
                fuse(leaf)
        pattern = PATTERNS.get(step.function)
        found = pattern(steps, step) if pattern is not None and not step.kwargs else None
        if found is not None:
            function, args = found
            fused = Step(function, args, {}, step.results, True, step.node)
            block.steps[index] = fused
            steps.replace(fused)
    block.drop_unused()


def norm_of_rows(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Normalise along the last axis; scale and shift may be longer than it or shorter."""
    if x.shape[-1:] == scale.shape:
        return functional.layer_norm(x, scale.shape, scale, shift, epsilon)
    return functional.layer_norm(x, x.shape[-1:], None, None, epsilon) * scale + shift


def in_out_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Compute ``x @ weight + bias`` with a weight of inputs × outputs."""
    return functional.linear(x, weight.t(), bias)


Found = tuple[Callable[..., Any], tuple[Any, ...]] | None


class _Steps:
    """The steps of a block by what they write, and how often each value is read."""

    def __init__(self, block: Block) -> None:
        self._writers = {id(result): step for step in block.steps for result in step.results}
        self._uses = Counter(id(value) for step in block.steps for value in reads(step))
        self._uses.update(id(value) for value in leaves(block.outputs))

    def replace(self, step: Step) -> None:
        """Note that a step writes what another one did."""
        self._writers[id(step.results[0])] = step

    def args(self, value: Any, *functions: Callable[..., Any], uses: int = 1) -> Any:
        """Return the arguments of the call of one of some functions that alone wrote a value.

        None where something else wrote it or it is read more than ``uses`` times.
        """
        step = self._writers.get(id(value))
        if step is None or step.kwargs or step.function not in functions:
            return None
        return step.args if self._uses[id(value)] <= uses else None

    def either(
        self, args: tuple[Any, ...], *functions: Callable[..., Any], uses: int = 1
    ) -> Iterator[tuple[Any, Any]]:
        """Yield the arguments of a call among two values, with the other value."""
        for one, other in (args, args[::-1]):
            found = self.args(one, *functions, uses=uses)
            if found is not None:
                yield found, other


def linear(steps: _Steps, step: Step) -> Found:
    """Find ``x @ W + b`` with a matrix and a row of the file."""
    for (x, matrix), bias in steps.either(step.args, torch.matmul):
        row = _tensor(bias)
        turned = steps.args(matrix, torch.permute, uses=1 << 30)
        weight = _tensor(turned[0] if turned else matrix)
        if row is None or weight is None or weight.dim() != 2 or row.dim() != 1:
            continue
        if turned and tuple(axis % 2 for axis in turned[1]) != (1, 0):
            continue
        if turned and len(row) == weight.shape[0]:
            return functional.linear, (x, turned[0], bias)
        if not turned and len(row) == weight.shape[1]:
            return in_out_linear, (x, matrix, bias)
    return layer_norm(steps, step)


def gelu_or_silu(steps: _Steps, step: Step) -> Found:
    """Find ``x · σ(x)``, or ``x · (1 + erf(x / √2)) / 2`` in any order of its factors."""
    for (x,), other in steps.either(step.args, torch.sigmoid):
        if x is other:
            return functional.silu, (x,)
    factors = _factors(steps, step.args)
    halves = [factor for factor in factors if _is(factor, 0.5)]
    if len(factors) != 3 or len(halves) != 1:
        return None
    first, second = (factor for factor in factors if factor is not halves[0])
    for x, gate in ((first, second), (second, first)):
        if _is_gate_of(steps, gate, x):
            return functional.gelu, (x,)
    return None


def layer_norm(steps: _Steps, step: Step) -> Found:
    """Find ``(x − mean) / √(variance + ε) · scale + shift`` along the last axis."""
    for (one, other), shift in steps.either(step.args, torch.mul):
        for (centred, deviation), scale in steps.either((one, other), torch.div):
            row, end = _tensor(scale), _tensor(shift)
            if row is None or end is None or row.dim() != 1 or row.shape != end.shape:
                continue
            x, epsilon = _centred(steps, centred), _epsilon(steps, deviation, centred)
            if x is not None and epsilon is not None:
                return norm_of_rows, (x, scale, shift, epsilon)
    return None


PATTERNS: dict[Callable[..., Any], Callable[[_Steps, Step], Found]] = {
    torch.add: linear,
    torch.mul: gelu_or_silu,
}


def _factors(steps: _Steps, args: tuple[Any, ...]) -> list[Any]:
    """Return the factors of a product, and those of a product among them."""
    for inner, other in steps.either(args, torch.mul):
        return [*inner, other]
    return list(args)


def _is_gate_of(steps: _Steps, gate: Any, x: Any) -> bool:
    """Tell whether a value is ``1 + erf(x / √2)``."""
    for terms, one in steps.either(steps.args(gate, torch.add) or (None, None), torch.erf):
        scaled = steps.args(terms[0], torch.div, torch.mul)
        if scaled is None or not _is(one, 1.0):
            return False
        divided = steps.args(terms[0], torch.div) is not None
        wanted = math.sqrt(2) if divided else math.sqrt(0.5)
        return scaled[0] is x and _is(scaled[1], wanted)
    return False


def _centred(steps: _Steps, value: Any) -> Any:
    """Return ``x`` of a value that is ``x − mean(x)`` along the last axis, else None."""
    x, mean = steps.args(value, torch.sub, uses=2) or (None, None)
    averaged = steps.args(mean, torch.mean)
    return x if averaged is not None and averaged == (x, (-1,), True) else None


def _epsilon(steps: _Steps, deviation: Any, centred: Any) -> float | None:
    """Return ``ε`` of a value that is ``√(mean(centred²) + ε)``, else None."""
    (inside,) = steps.args(deviation, torch.sqrt) or (None,)
    terms = steps.args(inside, torch.add) or (None, None)
    for averaged, small in steps.either(terms, torch.mean):
        square = steps.args(averaged[0], torch.pow, power_of_number)
        epsilon = _number(small, 1)
        if square is None or averaged[1:] != ((-1,), True) or epsilon is None:
            return None
        return epsilon if square[0] is centred and _is(square[1], 2.0) else None
    return None


def _tensor(value: Any) -> torch.Tensor | None:
    """Return the tensor of the file that a value is, if it is one."""
    if isinstance(value, Weight):
        return value.tensor
    known = value.value if isinstance(value, Constant) else None
    return known if isinstance(known, torch.Tensor) else None


def _number(value: Any, rank: int = 0) -> float | None:
    """Return the number that a value is, if the file has it with no more axes than a rank."""
    if isinstance(value, (int, float)):
        return float(value)
    tensor = None if isinstance(value, Variable) else _tensor(value)
    single = tensor is not None and tensor.numel() == 1 and tensor.dim() <= rank
    return float(tensor) if single and tensor is not None else None


def _is(value: Any, number: float) -> bool:
    """Tell whether a value is a number, as near as its type can hold it."""
    found = _number(value)
    tensor = _tensor(value)
    floating = tensor is not None and tensor.is_floating_point()
    near = torch.finfo(tensor.dtype).eps if floating and tensor is not None else 0.0
    return found is not None and math.isclose(found, number, rel_tol=near)
