"""The checks of settings: what is in its range passes, what is not gets one sentence."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from onnxfit import checks


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (lambda value: checks.whole("steps", value, 1), (1, 40, np.int64(7))),
        (lambda value: checks.at_least("momentum", value, 0), (0, 0.5, np.float32(1))),
        (lambda value: checks.above_0("eps", value), (8 / 255, Fraction(8, 255), np.float64(1))),
        (lambda value: checks.share("max_drop", value), (0, 0.005, 1)),
        (lambda value: checks.within("weight", value, 1, 3), (1, 2.5, np.float32(3))),
        (lambda value: checks.normalisation(value, [1.0]), ((0.1,), [-1, 2.0], np.zeros(3))),
        (lambda value: checks.per_channel("std", value, 3), ([1], [1, 2, 3])),
        (lambda value: checks.one_of("norm", value, ("linf", "l2")), ("linf", "l2")),
        (checks.seed, (0, 2**64 - 1, np.uint64(2**64 - 1))),
        (checks.bounds, ((0, 1), [-0.5, np.float32(0.5)])),
        (lambda value: checks.numbers("mean", value), ((0.1,), [1, 2.0], np.zeros(3))),
        (checks.device, ("cpu", "cuda", "cuda:1")),
    ],
)
def test_what_is_in_its_range(check: Callable[[Any], None], values: tuple[Any, ...]) -> None:
    """Numbers of NumPy are numbers too."""
    for value in values:
        check(value)


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (lambda v: checks.whole("steps", v, 1), 0, "expected steps >= 1, got 0"),
        (lambda v: checks.whole("steps", v, 1), 2.0, "expected a whole number for steps, got 2.0"),
        (lambda v: checks.whole("steps", v, 1), "3", "expected a whole number for steps, got '3'"),
        (lambda v: checks.whole("steps", v, 1), None, "a whole number for steps, got None"),
        (lambda v: checks.at_least("eta", v, 1), 0.9, "expected eta >= 1, got 0.9"),
        (lambda v: checks.at_least("eta", v, 1), math.inf, "expected eta >= 1, got inf"),
        (lambda v: checks.at_least("eta", v, 1), math.nan, "expected eta >= 1, got nan"),
        (lambda v: checks.above_0("eps", v), 0.0, "expected eps > 0, got 0.0"),
        (lambda v: checks.above_0("eps", v), "8/255", "expected eps > 0, got '8/255'"),
        (lambda v: checks.above_0("eps", v), math.nan, "expected eps > 0, got nan"),
        (lambda v: checks.within("weight", v, 1, 3), 0, "expected weight from 1 to 3, got 0"),
        (lambda v: checks.within("weight", v, 1, 3), "2", "expected weight from 1 to 3, got '2'"),
        (
            lambda v: checks.normalisation([0], v),
            [1, 0],
            "finite numbers above 0 as std, got [1, 0]",
        ),
        (lambda v: checks.normalisation(v, [1]), [], "expected finite numbers as mean, got []"),
        (
            lambda v: checks.per_channel("std", v, 3),
            [1, 2],
            "std of 1 number or 3, one per channel, got 2",
        ),
        (lambda v: checks.share("max_drop", v), 1.5, "expected max_drop from 0 to 1, got 1.5"),
        (lambda v: checks.share("max_drop", v), "a", "expected max_drop from 0 to 1, got 'a'"),
        (lambda v: checks.one_of("norm", v, ("l2",)), "l1", "expected a norm of l2, got 'l1'"),
        (lambda v: checks.one_of("loss", v, ("a", "b", "c")), [], "a loss of a, b or c, got []"),
        (lambda v: checks.one_of("aim", v, ("a", "b")), 1, "expected an aim of a or b, got 1"),
        (checks.seed, -1, "expected seed >= 0, got -1"),
        (checks.seed, 2**64, "expected seed < 2**64, got 18446744073709551616"),
        (checks.seed, 1.5, "expected a whole number for seed, got 1.5"),
        (checks.bounds, (1, 0), "expected finite bounds, the lower one first, got (1, 0)"),
        (checks.bounds, (0, math.inf), "expected finite bounds, the lower one first, got (0, inf)"),
        (checks.bounds, (0, 1, 2), "bounds, the lower one first, got (0, 1, 2)"),
        (checks.bounds, ("a", "b"), "bounds, the lower one first, got ('a', 'b')"),
        (checks.bounds, 1, "expected finite bounds, the lower one first, got 1"),
        (lambda v: checks.numbers("std", v), 0.3, "a sequence of numbers as std, got 0.3"),
        (lambda v: checks.numbers("std", v), "0.3", "a sequence of numbers as std, got '0.3'"),
        (checks.device, "gpu", "expected a device of cpu or cuda, got 'gpu'"),
        (checks.device, 0, "expected a device of cpu or cuda, got '0'"),
    ],
)
def test_what_is_out_of_it(check: Callable[[Any], None], value: Any, message: str) -> None:
    """With what was expected and what was given, of whatever type that is."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the message is compared below
        check(value)
    assert str(raised.value).endswith(message)
    assert str(raised.value).startswith("expected ")
