"""Which strengths to try where the user names none: up to about twice what the budget allows."""

from collections.abc import Callable

from onnxfit.calibration.scales import Scale
from onnxfit.errors import DataError

_DOUBLINGS = 40
_HALVINGS = 4
# Strengths that are asked for, in two searches.
MOST_ASKED = 2 * (1 + _DOUBLINGS + _HALVINGS)


def strengths_to_try(
    scale: Scale, first: float, highest: float, points: int, inside: Callable[[float], bool]
) -> list[float]:
    """Return equally spaced strengths from near 0 to beyond the budget.

    The edge of the budget is bracketed by doubling or halving, then found to about a tenth by
    bisection. Where the smallest strength is not inside, what is inside above it is so by chance,
    and the edge is looked for once more below.

    Args:
        scale: What a strength means.
        first: Where to start, above 0.
        highest: What no strength is to be above.
        points: How many to return.
        inside: Says whether a strength is inside the budget.

    Raises:
        DataError: No strength is inside, however small.
    """
    found = _spaced(min(first, highest), highest, points, inside)
    if found is None:
        # A jump of theirs is never below the smallest positive input, which many may share.
        hint = "" if scale == "shared" else ": try --scale shared, which has smaller jumps"
        smallest = min(first, highest) / 2**_DOUBLINGS
        raise DataError(f"no jump meets the budget, not even at the strength {smallest:.2g}{hint}")
    # Of one or two points, none is meant to be inside.
    if points > 2 and not inside(found[0]):
        return _spaced(found[0], highest, points, inside) or found
    return found


def _spaced(
    start: float, highest: float, points: int, inside: Callable[[float], bool]
) -> list[float] | None:
    """Return strengths up to twice an edge of the budget; None where none is found."""
    edge = start
    if inside(edge):
        for _ in range(_DOUBLINGS):
            if edge == highest or not inside(min(2 * edge, highest)):
                break
            edge = min(2 * edge, highest)
    else:
        for _ in range(_DOUBLINGS):
            edge /= 2
            if inside(edge):
                break
        else:
            return None
    low, high = edge, min(2 * edge, highest)
    for _ in range(_HALVINGS if low < high else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) else (low, middle)
    top = min(2 * low, highest)
    return [top * ((i + 1) / points) for i in range(points)]
