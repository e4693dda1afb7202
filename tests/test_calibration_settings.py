"""Settings of a calibration that make no sense are refused in a sentence each."""

import math
import re
from typing import Any

import pytest

pytest.importorskip("torch")

from onnxfit.calibration.selection import Budget
from onnxfit.calibration.settings import Settings


def test_the_defaults_are_those_of_the_paper_and_the_field() -> None:
    """One percent with 95 %, all attacks, 8/255, and the same jump everywhere."""
    settings = Settings()
    assert Budget(max_drop=0.01, confidence=0.95) == settings.budget
    assert ("shared", "worst-case", "linf") == (settings.scale, settings.objective, settings.norm)
    assert 8 / 255 == settings.radius
    assert 0.3 == Settings(eps=0.3).radius


@pytest.mark.parametrize(
    "given",
    [
        {"max_drop": 1e-6, "confidence": 0.5},
        {"scale": "quantile", "strengths": [0.001, 0.5, 0.999]},
        {"scale": "channel", "strengths": (0.1,)},
        {"strengths": [1e-9, 1e9]},
        {"norm": "l2", "eps": 1e-9, "steps": 1},
        {"objective": "paper", "points": 8, "attack_limit": 1, "batch_size": 1},
    ],
)
def test_what_makes_sense_is_taken(given: dict[str, Any]) -> None:
    """At the ends of the ranges too."""
    settings = Settings(**given)
    assert given == {name: getattr(settings, name) for name in given}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_drop": 0.0}, "expected a max_drop between 0 and 1, got 0.0"),
        ({"max_drop": 1}, "expected a max_drop between 0 and 1, got 1"),
        ({"max_drop": math.nan}, "expected a max_drop between 0 and 1, got nan"),
        ({"confidence": 1.0}, "expected a confidence from 0.5 to below 1, got 1.0"),
        ({"confidence": 0.3}, "expected a confidence from 0.5 to below 1, got 0.3"),
        ({"scale": "layer"}, "expected a scale of shared, quantile or channel, got 'layer'"),
        ({"objective": "native"}, "expected an objective of worst-case or paper, got 'native'"),
        ({"norm": "l1"}, "expected a norm of linf or l2, got 'l1'"),
        ({"norm": None}, "expected a norm of linf or l2, got None"),
        ({"eps": 0.0}, "expected eps > 0, got 0.0"),
        ({"eps": -0.1}, "expected eps > 0, got -0.1"),
        ({"eps": math.inf}, "expected eps > 0, got inf"),
        ({"eps": math.nan}, "expected eps > 0, got nan"),
        ({"steps": 0}, "expected steps >= 1, got 0"),
        ({"points": 7}, "expected points >= 8, got 7"),
        ({"attack_limit": 0}, "expected attack_limit >= 1, got 0"),
        ({"batch_size": -1}, "expected batch_size >= 1, got -1"),
    ],
)
def test_a_setting_out_of_range_is_refused(given: dict[str, Any], message: str) -> None:
    """With what was expected and what was given."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Settings(**given)


@pytest.mark.parametrize(
    "strengths", [[], [0.0], [0.0, 0.1], [-0.1, 0.1], [0.2, 0.1], [0.1, 0.1], [math.nan]]
)
@pytest.mark.parametrize("scale", ["shared", "quantile", "channel"])
def test_strengths_rise_from_above_zero(scale: Any, strengths: list[float]) -> None:
    """Of every scale; 0 is the network before hardening, which takes part anyway."""
    below = "" if scale == "shared" else " and below 1"
    message = f"expected strengths above 0{below}, in rising order"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Settings(scale=scale, strengths=strengths)


@pytest.mark.parametrize(
    ("scale", "strengths"),
    [("quantile", [0.5, 1.0]), ("channel", [0.5, 2.0]), ("shared", [0.5, math.inf])],
)
def test_strengths_have_an_end(scale: Any, strengths: list[float]) -> None:
    """A quantile is below 1, a jump is finite."""
    with pytest.raises(ValueError, match=r"^expected strengths above 0.*, in rising order$"):
        Settings(scale=scale, strengths=strengths)
