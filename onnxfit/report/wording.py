"""How the report writes numbers, intervals and names."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

NONE = "–"
_MINUS = "−"
_SPACE = "\N{NARROW NO-BREAK SPACE}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_NORMS = {"linf": "ℓ∞", "l2": "ℓ2"}
_WORDS = {
    "sha256": "SHA-256",
    "n": "samples",
    "std": "standard deviation",
    "top1_agreement": "top-1 agreement (share)",
    "model_ms": "model, ms",
    "baseline_ms": "baseline, ms",
}


def finite(value: Any) -> float | None:
    """Return a value as a number, None where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    return float(value) if math.isfinite(value) else None


def _signed(value: float, digits: int = 1) -> str:
    """Write a number with its sign, which 0 does not have."""
    text = f"{value:+.{digits}f}"
    return text[1:] if not float(text) else text.replace("-", _MINUS)


def percent(value: Any, digits: int = 1) -> str:
    """Write a fraction in per cent."""
    fraction = finite(value)
    text = NONE if fraction is None else f"{100 * fraction:.{digits}f}{_SPACE}%"
    return text.replace("-", _MINUS)


def points(value: Any, digits: int = 1) -> str:
    """Write a difference of fractions in percentage points, with its sign."""
    difference = finite(value)
    return NONE if difference is None else f"{_signed(100 * difference, digits)} points"


def _digits(value: float, digits: int) -> str:
    """Write a number with some digits, very small and large ones with a power of ten."""
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    power = f" × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}" if exponent else ""
    return mantissa.replace("-", _MINUS) + power.replace(" ", _SPACE)


def number(value: Any) -> str:
    """Write a number with four digits, or a count in full."""
    exact = finite(value)
    if exact is None:
        return NONE
    return f"{value:,}".replace("-", _MINUS) if isinstance(value, int) else _digits(exact, 4)


def decimals(value: Any, digits: int = 3) -> str:
    """Write a number of about 1 with so many decimals."""
    exact = finite(value)
    return NONE if exact is None else _signed(exact, digits).removeprefix("+")


def seconds(value: Any) -> str:
    """Write a duration with one decimal."""
    duration = finite(value)
    return NONE if duration is None else f"{duration:,.1f}"


def interval(ends: Any, unit: str = "%") -> str:
    """Write an interval of fractions in ``%``, differences in ``points``, or plain numbers."""
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return NONE
    low, high = (finite(end) for end in ends)
    if low is None or high is None:
        return NONE
    if unit == "%":
        return f"{100 * low:.1f}–{100 * high:.1f}{_SPACE}%"
    if unit == "points":
        return f"{_signed(100 * low)} to {_signed(100 * high)}"
    return f"{number(low)}–{number(high)}"


def eps_text(value: Any, over_255: bool = False) -> str:
    """Write an eps, as a number of 255ths where it is one and no short decimal."""
    eps = finite(value)
    if eps is None:
        return NONE
    decimal, count = f"{eps:.4g}", round(255 * eps)
    whole = count and math.isclose(255 * eps, count, rel_tol=1e-6)
    return f"{count}/255" if over_255 and whole and float(decimal) != eps else decimal


def norm_text(norm: Any) -> str:
    """Write the name of a norm."""
    return _NORMS.get(str(norm), plain(norm))


def judged(value: Any, rule: str) -> str:
    """Write what a rule compares: points, per cent or a plain number, by the rule's name.

    With one digit more than elsewhere: a value just below its bound should look so.
    """
    if finite(value) is None:
        return NONE if value is None or isinstance(value, float) else plain(value)
    if any(part in rule for part in ("drop", "difference", "paired", "loss")):
        return points(value, 2).removeprefix("+")
    if any(part in rule for part in ("clean", "robust", "accuracy", "share")):
        return percent(value, 2)
    return number(value)


def plain(value: Any) -> str:
    """Write any value of the document."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, float):
        return _digits(value, 6) if math.isfinite(value) else NONE
    return NONE if value is None else str(value)


def wording(key: str) -> str:
    """Write a name of the document as words."""
    return _WORDS.get(key, key.replace("_", " "))
