"""Checks of settings: one sentence for what is out of its range."""

import math
import re
from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import Any

# What both PyTorch and NumPy take.
_MOST_SEEDS = 2**64
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


def whole(name: str, value: Any, least: int) -> None:
    """Check a count.

    Raises:
        ValueError: It is no integer, or smaller.
    """
    if not isinstance(value, Integral):
        raise ValueError(f"expected a whole number for {name}, got {_shown(value)}")
    at_least(name, value, least)


def at_least(name: str, value: Any, least: float) -> None:
    """Check a number that may be its least.

    Raises:
        ValueError: It is no finite number, or smaller.
    """
    if not least <= _number(value) < math.inf:
        raise ValueError(f"expected {name} >= {least}, got {_shown(value)}")


def above_0(name: str, value: Any) -> None:
    """Check a number above 0.

    Raises:
        ValueError: It is no finite number, or not above 0.
    """
    if not 0 < _number(value) < math.inf:
        raise ValueError(f"expected {name} > 0, got {_shown(value)}")


def share(name: str, value: Any) -> None:
    """Check a share of a whole.

    Raises:
        ValueError: It is no number from 0 to 1.
    """
    within(name, value, 0, 1)


def within(name: str, value: Any, low: float, high: float) -> None:
    """Check a number that may be its least and its most.

    Raises:
        ValueError: It is no number, or outside.
    """
    if not low <= _number(value) <= high:
        raise ValueError(f"expected {name} from {low} to {high}, got {_shown(value)}")


def one_of(name: str, value: Any, known: Sequence[str]) -> None:
    """Check a choice.

    Raises:
        ValueError: It is none of those that are known.
    """
    if value not in known:
        article = "an" if name[0] in "aeio" else "a"
        raise ValueError(f"expected {article} {name} of {_listed(known)}, got {value!r}")


def seed(value: Any) -> None:
    """Check the seed of random numbers.

    Raises:
        ValueError: It is no integer from 0 to 2⁶⁴ - 1.
    """
    whole("seed", value, 0)
    if value >= _MOST_SEEDS:
        raise ValueError(f"expected seed < 2**64, got {value}")


def bounds(value: Any) -> None:
    """Check the smallest and the largest value of samples.

    Raises:
        ValueError: They are not two finite numbers in order.
    """
    if (
        not isinstance(value, Sequence)
        or len(value) != 2
        or not all(isinstance(bound, Real) and math.isfinite(bound) for bound in value)
        or value[0] >= value[1]
    ):
        raise ValueError(f"expected finite bounds, the lower one first, got {value}")


def numbers(name: str, value: Any) -> None:
    """Check one number for all channels, or one for each.

    Raises:
        ValueError: They are no sequence of numbers.
    """
    if not isinstance(value, Collection) or not all(isinstance(one, Real) for one in value):
        raise ValueError(f"expected a sequence of numbers as {name}, got {_shown(value)}")


def normalisation(mean: Any, std: Any) -> None:
    """Check what is subtracted from samples, and what divides after that.

    Raises:
        ValueError: They are no finite numbers, or those of ``std`` are not above 0.
    """
    for name, value, least in (("mean", mean, -math.inf), ("std", std, 0)):
        numbers(name, value)
        if not len(value) or not all(least < one < math.inf for one in value):
            above = " above 0" if name == "std" else ""
            raise ValueError(f"expected finite numbers{above} as {name}, got {value}")


def per_channel(name: str, value: Collection[Any], channels: int) -> None:
    """Check that there is one number for all channels, or one for each.

    Raises:
        ValueError: There are others.
    """
    if len(value) not in (1, channels):
        raise ValueError(
            f"expected a {name} of 1 number or {channels}, one per channel, got {len(value)}"
        )


def device(value: Any) -> None:
    """Check the name of a device.

    Raises:
        ValueError: It is neither ``cpu`` nor ``cuda``, the latter also with a number: ``cuda:0``.
    """
    if not _DEVICE.fullmatch(str(value)):
        raise ValueError(f"expected a device of cpu or cuda, got {str(value)!r}")


def _number(value: Any) -> float:
    """Return a number as it is, and NaN, which is in no range, for all else."""
    found: Any = value if isinstance(value, Real) else math.nan
    return found  # type: ignore[no-any-return]


def _listed(known: Sequence[str]) -> str:
    """Return choices as in a sentence."""
    return " or ".join(filter(None, (", ".join(known[:-1]), known[-1])))


def _shown(value: Any) -> str:
    """Return a value as a message has it: text in quotation marks, a number as it is."""
    return str(value) if isinstance(value, Real) else repr(value)
