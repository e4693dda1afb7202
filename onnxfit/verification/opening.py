"""What a verification starts from: its settings, the models and the samples."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from onnx import ModelProto

from onnxfit.data import Bounds, Dataset, as_dataset
from onnxfit.verification.campaign import Side
from onnxfit.verification.policy import Policy, merged, read_policy
from onnxfit.verification.settings import Settings
from onnxfit.verification.target import Target

# A function is given the channels that the model wants: 1, 3 or None.
Samples = Dataset | str | Path | tuple[ArrayLike, ArrayLike] | Callable[[int | None], Dataset]


def choose(
    policy: Policy | str | Path | None, settings: Mapping[str, Any]
) -> tuple[Policy, Settings]:
    """Return the rules and how to attack; what ``settings`` says goes before the policy.

    Raises:
        DataError: The policy's file is not what it should be.
        TypeError, ValueError: There is no such setting, or one is out of its range.
    """
    asked = Policy() if policy is None else policy
    asked = asked if isinstance(asked, Policy) else read_policy(asked)
    others = dict(settings)
    names = [field.name for field in dataclasses.fields(Policy)]
    rules = merged(Policy(**{name: others.pop(name, None) for name in names}), asked)
    how = {
        name: value
        for name in ("suite", "eps", "norm", "steps")
        if (value := getattr(rules, name)) is not None
    }
    chosen = Settings(**how, **others)
    if chosen.suite == "paper" and rules.min_robust is not None:
        raise ValueError("the suite paper finds no worst case that min_robust could judge")
    return rules, chosen


def open_targets(
    model: ModelProto | str | Path,
    baseline: ModelProto | str | Path | None,
    base_dir: str | Path | None,
    settings: Settings,
) -> dict[Side, Target]:
    """Open a model and, where that is another one, its baseline, with jumps of 0.

    Raises:
        ModelError, UnsupportedOperator: As :func:`verify`.
    """
    how: dict[str, Any] = {
        "mean": settings.mean,
        "std": settings.std,
        "device": settings.device,
    }
    target = Target(model, base_dir, **how)
    targets: dict[Side, Target] = {"model": target}
    if baseline is not None:
        other = Target(baseline, base_dir, **how)
        targets["baseline"] = other.unhardened() if other.is_hardened else other
    elif target.is_hardened or target.passes:
        targets["baseline"] = target.unhardened()
    return targets


def networks_of(targets: Mapping[Side, Target]) -> list[str]:
    """Return the names of the surrogate networks that any of the models has."""
    return list(dict.fromkeys(name for target in targets.values() for name in target.networks))


def opened(data: Samples, limit: int | None, bounds: Bounds, target: Target) -> Dataset:
    """Open samples in the form that a model takes them.

    Raises:
        DataError: The data is not what it should be.
    """
    channels = target.classifier.channels
    if callable(data):
        return data(channels)
    return as_dataset(data, limit=limit, bounds=bounds, channels=channels)
