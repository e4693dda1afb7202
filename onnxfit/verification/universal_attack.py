"""A universal perturbation of one model: what ``onnxfit attack`` does with one."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit import npz
from onnxfit.attacks.search import check_classes
from onnxfit.attacks.universal import UniversalPerturbation
from onnxfit.data import Batch, Dataset, evenly
from onnxfit.errors import DataError
from onnxfit.overlap import among
from onnxfit.verification.progress import Begin, silent
from onnxfit.verification.records import accuracy_share, robust_share
from onnxfit.verification.result import Document
from onnxfit.verification.single_attack import distances_of, summary
from onnxfit.verification.suites import Threat
from onnxfit.verification.target import Target, classes_of
from onnxfit.verification.universal import (
    Candidate,
    Kind,
    Verdicts,
    best,
    followed,
    halves,
    in_batches,
    judge,
    patterns,
    perturbed,
)

# Samples that a perturbation is made on, held in memory.
LIMIT = 2000


def run(
    target: Target,
    data: Dataset,
    kind: Kind,
    attacks: Sequence[UniversalPerturbation],
    *,
    threat: Threat,
    made_on: Dataset | None = None,
    goal: int | None = None,
    output: Path | None = None,
    seed: int = 0,
    batch_size: int = 64,
    begin: Begin = silent,
) -> Document:
    """Make universal perturbations on some samples, and measure them on others with the file.

    Of several the one that does most on the samples that they are made on is reported. At most
    2,000 of these are used, spread evenly, and none that is measured on.

    Args:
        target: The model.
        data: The samples; a half of them is measured on where ``made_on`` is None, else all.
        kind: Of perturbation.
        attacks: How it is made, for ``uap``: with each backward pass that is to be tried, the
            model's own first; none for the others.
        threat: How large it may be.
        made_on: The samples that it is made on; by default the other half of the data.
        goal: A class that samples shall be taken for; None for any wrong one.
        output: An ``.npz`` file for the perturbation ``delta`` and, of the samples measured on,
            what :func:`onnxfit.verification.single_attack.run` writes.
        seed: Of the split and of the search for parameters.
        batch_size: Samples computed at a time.
        begin: As in :func:`onnxfit.verify`.

    Returns:
        What the command line prints as JSON.

    Raises:
        DataError: The data is a single sample, or it holds all that the perturbation is made on.
        DataError, ModelError: As :class:`UniversalPerturbation`; or the goal is no class.
    """
    check_classes(classes_of(target, data), torch.from_numpy(data.labels), goal)
    samples, rows, shared = _split(data, made_on, seed, batch_size)
    tried = [] if attacks else patterns(kind, data.shape, threat, seed)
    steps = sum(attack.epochs for attack in attacks) * len(samples.x)
    points = (len(attacks) or len(tried)) * (len(samples.x) + len(rows))
    with begin(steps + points, kind) as advance:
        tried = tried or followed(attacks, target, samples, advance=advance)
        before = judge(target, in_batches(samples, batch_size), tried, threat, advance)
        measured = judge(target, data.some(rows, batch_size), tried, threat, advance)
    chosen = best(before, goal)
    fooled = measured.fooled
    distances = _written(output, data, rows, batch_size, tried[chosen], fooled[chosen], threat)
    robust = measured.right.sum() - fooled.sum(1)
    n = len(rows)
    return {
        "attack": kind,
        "norm": threat.norm,
        "eps": threat.eps,
        "clean": accuracy_share(int(measured.right.sum()), n),
        **robust_share(int(robust[chosen]), n),
        "native": robust_share(int(robust[0]), n) if tried[0].backward == "true" else None,
        "deployed_success": int(fooled[chosen].sum()),
        "perturbation": summary(distances),
        "universal": {
            "made_on": {
                "path": str((made_on or data).path),
                "sha256": (made_on or data).sha256,
                "n": len(samples.x),
                "left_out": shared,
            },
            "n": n,
            "target": goal,
            "backward": tried[chosen].backward,
            "settings": tried[chosen].settings,
            **measured.evasions(goal)[chosen].record,
            "tried": _listed(tried, before, measured, goal),
        },
    }


def _split(
    data: Dataset, made_on: Dataset | None, seed: int, batch_size: int
) -> tuple[Batch, NDArray[np.int64], int]:
    """Return the samples to make a perturbation on, and the numbers of those to measure it on.

    None is among both; the third is how many were left out for that.
    """
    if made_on is not None:
        samples = made_on.spread(LIMIT)
        others = ~among([samples], data)
        if not others.any():
            raise DataError(
                f"{made_on.path} is what the perturbation is measured on; without --made-on it is "
                "split in two"
            )
        made = Batch(samples.x[others], samples.y[others])
        return made, np.arange(data.n), int((~others).sum())
    if data.n < 2:
        raise DataError(
            f"{data.path} is a single sample, which cannot be split in two; --made-on names others"
        )
    first, second = halves(data.labels, seed)
    return data.taken(first[evenly(len(first), LIMIT)], batch_size), second, 0


def _written(
    output: Path | None,
    data: Dataset,
    rows: NDArray[np.int64],
    batch_size: int,
    chosen: Candidate,
    fooled: NDArray[np.bool_],
    threat: Threat,
) -> NDArray[np.float64]:
    """Write the points where that is wanted; return the distances of those that fool the file."""
    distances, start = [], 0
    with contextlib.ExitStack() as files:
        append = None if output is None else files.enter_context(npz.writing(output))
        for x, y in data.some(rows, batch_size):
            points, success = x.copy(), fooled[start : start + len(x)]
            points[success] = perturbed(x[success], chosen.delta, threat)
            distance = distances_of(points, x, threat.norm)
            distances.append(distance[success])
            if append is not None:
                append(x=points, y=y, success=success, distance=distance)
            start += len(x)
        if append is not None:
            append(delta=chosen.delta)
    return np.concatenate(distances)


def _listed(
    tried: Sequence[Candidate], before: Verdicts, measured: Verdicts, goal: int | None
) -> list[Document]:
    """Return what each perturbation does to the samples it is made on, and to the others."""
    shares = zip(tried, before.evasions(goal), measured.evasions(goal), strict=True)
    return [
        {
            "backward": one.backward,
            "settings": one.settings,
            "made_on": made.record,
            "measured": other.record,
        }
        for one, made, other in shares
    ]
