"""One attack on a model, replayed on its file: what ``onnxfit attack`` does."""

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxfit import npz
from onnxfit.attacks.attack import Attack, GradientAttack
from onnxfit.attacks.transfer import Transfer
from onnxfit.attacks.universal import UniversalPerturbation
from onnxfit.data import Dataset
from onnxfit.verification.campaign import Campaign, Found
from onnxfit.verification.environment import versions
from onnxfit.verification.journal import Journal
from onnxfit.verification.progress import Begin, silent
from onnxfit.verification.records import robust_share, scored
from onnxfit.verification.result import Document
from onnxfit.verification.suites import Stage, backwards
from onnxfit.verification.target import Target
from onnxfit.verification.transfer_source import Source

AnyAttack = TypeVar("AnyAttack", bound=Attack | UniversalPerturbation)


def run(
    target: Target,
    data: Dataset,
    name: str,
    attacks: Sequence[Attack],
    *,
    output: Path | None = None,
    seed: int = 0,
    batch_size: int = 64,
    resume: bool = False,
    sources: Sequence[Source] = (),
    networks: Sequence[str] = (),
    begin: Begin = silent,
) -> Document:
    """Attack all samples, and replay what comes out on the file in ONNX Runtime.

    Args:
        target: The model.
        data: The samples.
        name: Of the attack.
        attacks: The attack with each backward pass that is to be tried, the model's own first.
            Each is given the samples that are left.
        output: An ``.npz`` file for the points ``x``, those that fool nothing being the samples
            themselves; the labels ``y``; the booleans ``success``; and the ``distance`` of each
            point in the norm.
        seed: Of everything random.
        batch_size: Samples computed at a time.
        resume: Go on with an unfinished run beside the output.
        sources: The models that a transfer starts from.
        networks: The surrogate networks of the model that are followed, too, each by all attacks.
        begin: As in :func:`onnxfit.verify`.

    Returns:
        What the command line prints as JSON.
    """
    own = [stage_of(name, attack) for attack in attacks]
    chosen = [*own, *(stage.through(network) for network in networks for stage in own)]
    models = [target, *(source.target for source in sources)]
    depends = {
        "models": [(each.sha256, each.external_data) for each in models],
        "data": (data.sha256, data.n, data.bounds),
        "normalisation": [(each.mean, each.std) for each in models],
        "stages": [repr(stage) for stage in chosen],
        "how": (seed, batch_size, str(target.device), versions()),
    }
    unfinished = None if output is None else output.with_name(f".{output.name}.unfinished")
    journal = Journal(unfinished, depends, resume=resume)
    campaign = Campaign(
        {"model": target},
        data,
        chosen,
        seed=seed,
        batch_size=batch_size,
        journal=journal,
    )
    norm = attacks[0].norm
    distances = []
    with contextlib.ExitStack() as files:
        append = None if output is None else files.enter_context(npz.writing(output))
        campaign.advance = files.enter_context(begin(campaign.work, name))
        for found in campaign.run():
            columns = _columns(found, campaign, norm)
            distances.append(columns["distance"][columns["success"]])
            if append is not None:
                append(**columns)
    journal.remove()
    score = scored(campaign, "model")
    found_distances = np.concatenate(distances)
    successes = int(sum(tally["deployed_success"] for tally in score["attacks"]))
    only = sum(tally["twin_only"] for tally in score["attacks"])
    return {
        "attack": name,
        "norm": norm,
        "eps": attacks[0].radius,
        "clean": score["clean"],
        **robust_share(int(campaign.scores["model"].robust().sum()), data.n),
        "native": score["native"] if isinstance(attacks[0], GradientAttack) else None,
        "deployed_success": successes,
        "twin_only": only,
        "perturbation": summary(found_distances),
        "attacks": score["attacks"],
    }


def stage_of(name: str, attack: Attack) -> Stage:
    """Return an attack as a stage: on the twin where it follows gradients, else on the file."""
    if isinstance(attack, Transfer):
        return Stage(name=name, attack=attack, family="black-box")
    if not isinstance(attack, GradientAttack):
        return Stage(name=name, attack=attack, family="black-box", deployed=True)
    family: Any = "native" if attack.backward == "true" else "surrogate"
    return Stage(name=name, attack=attack, family=family)


def with_surrogates(attack: AnyAttack) -> list[AnyAttack]:
    """Return an attack with native gradients first, then with every surrogate.

    Those of a transfer are its sources'.
    """
    if not isinstance(attack, GradientAttack | UniversalPerturbation | Transfer):
        return [attack]
    return [attack, *(dataclasses.replace(attack, **settings) for settings in backwards(True))]


def tries_all(attack: Attack, backward: str | None) -> bool:
    """Say whether an attack tries every gradient that a model offers.

    Args:
        attack: Of a search for the smallest perturbation there is one answer, by one gradient.
        backward: What was asked for; None for nothing.
    """
    smallest = attack.is_minimal and attack.radius == math.inf
    return backward == "all" or (backward is None and not smallest)


def _columns(found: Found, campaign: Campaign, norm: str) -> dict[str, NDArray[Any]]:
    """Return what the output holds of a shard."""
    rows = np.arange(found.start, found.start + len(found.x))
    score = campaign.scores["model"]
    points = found.points["model"]
    distance = distances_of(points, found.x, norm)
    success = score.finder[rows] >= 0
    return {"x": points, "y": found.y, "success": success, "distance": distance}


def distances_of(
    points: NDArray[np.float32], x: NDArray[np.float32], norm: str
) -> NDArray[np.float64]:
    """Return how far points are from their samples, both N×…, in a norm; in double precision."""
    moved = (points.astype(np.float64) - x).reshape(len(points), math.prod(points.shape[1:]))
    found: NDArray[np.float64] = np.linalg.norm(moved, np.inf if norm == "linf" else 2, axis=1)
    return found


def summary(distances: NDArray[np.float64]) -> Document | None:
    """Return mean, median and largest distance of the points that fool the file."""
    if not len(distances):
        return None
    return {
        "mean": float(distances.mean()),
        "median": float(np.median(distances)),
        "max": float(distances.max()),
    }
