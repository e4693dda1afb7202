"""Which activation gets which jump."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from onnxfit.errors import ModelError
from onnxfit.op import Jumps, check_jump, is_array, round_jump, round_jumps
from onnxfit.sites import Found, Unreplaced, check_layout

# How a site gets its jump: a number, an array of them, or a value that holds it at run time.
Plan = Mapping[str, float | Jumps | str]


def sites_of(found: list[Found | Unreplaced]) -> list[Found]:
    """Return those that can become, or are, a JumpReLU."""
    return [item for item in found if isinstance(item, Found)]


def compiled(given: str | Iterable[str]) -> list[re.Pattern[str]]:
    """Compile patterns.

    Raises:
        ValueError: One is no regular expression.
    """
    patterns = []
    for pattern in [given] if isinstance(given, str) else given:
        try:
            patterns.append(re.compile(pattern))
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return patterns


def plan_jumps(
    sites: list[Found],
    jump: float | None,
    jumps: Mapping[str, ArrayLike],
    include: list[re.Pattern[str]],
    exclude: list[re.Pattern[str]],
) -> dict[str, float | Jumps | str]:
    """Decide which site gets which jump, every argument checked.

    Raises:
        ModelError: There is no such site, or it cannot have such a jump.
        TypeError, ValueError: A jump is not a finite number of at least 0, or a pattern matches
            nothing.
    """
    names = names_of(sites)
    if jump is not None:
        check_jump(jump)
    for pattern in [*include, *exclude]:
        if names and not any(pattern.search(name) for name in names):
            raise ValueError(f"no site matches {pattern.pattern!r}; {_the_model_has(names)}")
    check_known(jumps, names)
    plan: dict[str, float | Jumps | str] = {}
    for found in sites:
        name = found.site.name
        chosen = not include or any(pattern.search(name) for pattern in include)
        if not chosen or any(pattern.search(name) for pattern in exclude):
            if name in jumps:
                raise ValueError(f"a jump is given for {name!r}, which is left out")
            continue
        size = jumps.get(name, jump)
        if size is not None:
            plan[name] = _rounded(name, size, found.place.element_type)
    check_layout(f for f in sites if isinstance(plan.get(f.site.name), np.ndarray))
    return plan


def keep(
    earlier: Mapping[str, float | Jumps | None],
    plan: dict[str, float | Jumps | str],
    element_types: Mapping[str, int],
) -> None:
    """Let the sites that get no new jump keep the one they have.

    Raises:
        ModelError: One cannot.
    """
    for name, kept in earlier.items():
        if name in plan:
            continue
        if kept is None:
            what = "a jump that is computed at run time"
            raise ModelError(f"{name!r} has {what}, which cannot be kept; set it")
        if name not in element_types:
            raise ModelError(f"{name!r} cannot be hardened again: it is no site any more")
        plan[name] = _rounded(name, kept, element_types[name])


def names_of(sites: list[Found]) -> list[str]:
    """Return the names of sites.

    Raises:
        ModelError: Two have the same.
    """
    names = [found.site.name for found in sites]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ModelError(f"two activations are named {twice[0]!r}; rename a value")
    return names


def check_known(given: Iterable[str], names: list[str]) -> None:
    """Refuse names that no site has.

    Raises:
        ModelError: There is one.
    """
    for name in given:
        if name not in names:
            raise ModelError(f"no activation writes {name!r}; {_the_model_has(names)}")


def _rounded(name: str, size: Any, element_type: int) -> float | Jumps:
    """Round the jump of a site to its type, a number or an array."""
    try:
        if is_array(size):
            return round_jumps(size, element_type)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name!r}: {error}") from None
    number = size.item() if isinstance(size, np.ndarray) else size
    return round_jump(check_jump(number), element_type)


def _the_model_has(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:10])
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"the model has {shown}{more}" if names else "the model has none"


def why_nothing(found: list[Found | Unreplaced]) -> str:
    """Say why there is nothing to harden."""
    if sites_of(found):
        return "no activation is left to harden after include, exclude and jumps"
    message = "the model has no Relu and no Clip with the lower bound 0"
    reasons = Counter((item.op_type, item.reason) for item in found if not isinstance(item, Found))
    stay = "; ".join(f"{n} {op_type} ({reason})" for (op_type, reason), n in reasons.items())
    return f"{message}. What stays: {stay}" if stay else message
