"""What a file of a network is worth on the images that judge it, beside the network as it was."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from campaigns import attacked
from finetune_cases import Network
from numpy.typing import NDArray

from onnxfit.attacks import Transfer, UniversalPerturbation
from onnxfit.attacks.evasion import apply
from onnxfit.data import Batch
from onnxfit.jacobians.products import jacobians_of
from onnxfit.verification.campaign import Score
from onnxfit.verification.records import only
from onnxfit.verification.suites import Threat, stages
from onnxfit.verification.target import Target

Mask = NDArray[np.bool_]

# Validation images that a universal perturbation is made of.
_MADE_OF = 500
# Images whose Jacobians are held at a time.
_AT_ONCE = 50
# How many standard errors the 95 % interval of a mean reaches to each side.
_STANDARD_ERRORS = 1.96


@dataclass(frozen=True)
class Seen:
    """What was seen of a file on the test images.

    Attributes:
        right: Which it classifies rightly.
        native: Which stay right under the attacks of ``quick`` with the network's own gradients.
        worst: Which stay right under all of them.
        evaded: By the size of a universal perturbation, which are right and misclassified with it.
        backward: The same: by which slope the perturbation was made, of two the one that does more.
        transferred: By the network that adversarial images were made on, which stay right.
        norms: ‖J‖_F of each image.
    """

    right: Mask
    native: Mask
    worst: Mask
    evaded: Mapping[float, Mask]
    backward: Mapping[float, str]
    transferred: Mapping[str, Mask]
    norms: NDArray[np.float64]

    def beside(self, before: "Seen") -> dict[str, Any]:
        """Count, for JSON; ``only_after`` and ``only_before`` are images that one alone gets wrong.

        With a universal perturbation these are of the images that both get right without it.
        """
        both = self.right & before.right
        universal = []
        for eps, evaded in self.evaded.items():
            after, earlier = only(evaded & both, before.evaded[eps] & both)
            universal.append(
                {
                    "eps": eps,
                    "backward": self.backward[eps],
                    "correct": int(self.right.sum()),
                    "evaded": int(evaded.sum()),
                    "only_after": after,
                    "only_before": earlier,
                }
            )
        error = float(self.norms.std(ddof=1)) / math.sqrt(len(self.norms))
        mean = float(self.norms.mean())
        return {
            "n": len(self.right),
            "clean": _counted(self.right, before.right),
            "native": _counted(self.native, before.native),
            "worst": _counted(self.worst, before.worst),
            "universal": universal,
            "transfer": {
                name: _counted(stays, before.transferred[name])
                for name, stays in self.transferred.items()
            },
            "jacobian": {
                "mean": mean,
                "ci95": [mean + sign * _STANDARD_ERRORS * error for sign in (-1, 1)],
            },
        }


def _counted(right: Mask, before: Mask) -> dict[str, int]:
    earlier, after = only(right, before)
    return {"right": int(right.sum()), "only_after": after, "only_before": earlier}


class Judge:
    """Measures files of a network on its test images.

    Args:
        network: Which.
        tuned: The file that was trained adversarially, for transfer from it.
    """

    def __init__(self, network: Network, tuned: Path) -> None:
        self._network = network
        self._sources = {
            "before": network.model.open().twin,
            "adversarial": self._opened(tuned).twin,
            "stranger": network.stranger.open().twin,
        }
        self._test = whole(network, "test")
        self._validation = network.data("validation").spread(_MADE_OF)
        threat = Threat(eps=network.eps)
        self._stages = stages("quick", threat, jumps=True, transfer=True)

    def measure(self, path: Path) -> dict[str, Any]:
        """Attack a file, and count beside the network as it was, for JSON."""
        is_before = path == self._network.model.path
        seen = self._before if is_before else self._seen(self._opened(path))
        return seen.beside(self._before)

    @cached_property
    def _before(self) -> Seen:
        return self._seen(self._network.model.open())

    def _opened(self, path: Path) -> Target:
        return Target(path, **self._network.normalised)

    def _seen(self, target: Target) -> Seen:
        x, y = self._test
        score = self._score(target)
        evaded, backward = {}, {}
        for eps in self._network.universal:
            wrong = {
                slope: score.correct & (target.predictions(self._moved(target, eps, slope)) != y)
                for slope in ("true", "smooth")
            }
            backward[eps] = max(wrong, key=lambda slope: int(wrong[slope].sum()))
            evaded[eps] = wrong[backward[eps]]
        transferred = {}
        for name, source in self._sources.items():
            points = Transfer(source=source, eps=self._network.eps)(target.deployed, x, y)
            transferred[name] = score.correct & (target.predictions(points) == y)
        return Seen(
            right=score.correct,
            native=score.robust("native"),
            worst=score.robust(),
            evaded=evaded,
            backward=backward,
            transferred=transferred,
            norms=norms(target, x),
        )

    def _score(self, target: Target) -> Score:
        """Attack with the suite ``quick``; what it transfers comes from the network as it was."""
        data, source = self._network.data("test"), self._sources["before"]
        return attacked(target, data, self._stages, source).scores["model"]

    def _moved(self, target: Target, eps: float, slope: str) -> NDArray[np.float32]:
        """Add a universal perturbation of the validation images to those of the test."""
        make = UniversalPerturbation(eps=eps, backward=slope)
        return apply(self._test.x, make(target.twin, *self._validation))


def whole(network: Network, part: str) -> Batch:
    """Return all images of a part as they are attacked, N×… from 0 to 1, and labels, N."""
    data = network.data(part)
    return data.spread(data.n)


def norms(target: Target, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute ‖J‖_F of each of N images, by the network's own slopes."""
    parts = torch.from_numpy(x).split(_AT_ONCE)
    each = [jacobians_of(target.twin, part).double().flatten(1).norm(dim=1) for part in parts]
    found: NDArray[np.float64] = torch.cat(each).numpy()
    return found
