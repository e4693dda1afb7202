"""Ways to set the jumps of a network, compared to choose one of them.

Each is attacked as ``onnxfit verify --suite quick`` does. The network before hardening is attacked
once for all of them: with the scales of its own activations for the smooth gates, and not by
transfer. That is the same for all, so that the order is that of the hardened networks.
"""

from functools import cached_property
from typing import Any

from campaigns import attacked
from images import Samples
from onnx import ModelProto
from paper_cases import Network

from onnxfit.data import from_arrays
from onnxfit.verification.campaign import Score
from onnxfit.verification.environment import versions
from onnxfit.verification.records import compared, scored
from onnxfit.verification.suites import Threat, stages
from onnxfit.verification.target import Target


class Screening:
    """Attacks on forms of a network.

    Args:
        network: The network.
        samples: The images.
        seed: Of everything random.
    """

    def __init__(self, network: Network, samples: Samples, seed: int) -> None:
        self._network, self._seed = network, seed
        self._plain = network.model.open()
        self._data = from_arrays(*samples.read())
        threat = Threat(eps=network.eps)
        self._stages = stages("quick", threat, jumps=True, transfer=True)

    def measure(self, hard: ModelProto) -> dict[str, Any]:
        """Attack a form of the network; return what ``result.json`` would say of it."""
        target = Target(hard, **self._network.model.normalisation)
        campaign = attacked(target, self._data, self._stages, self._plain.twin, seed=self._seed)
        campaign.scores["baseline"] = self._before
        return {
            "suite": "quick",
            "eps": self._network.eps,
            "data": {"n": self._data.n},
            "model": {"sha256": target.sha256},
            "environment": {"versions": versions()},
            **scored(campaign, "model"),
            "baseline": scored(campaign, "baseline"),
            "difference": compared(campaign, "model", "baseline"),
            "diagnostics": None,
        }

    @cached_property
    def _before(self) -> Score:
        own = [stage for stage in self._stages if not stage.transfer]
        return attacked(self._plain, self._data, own, seed=self._seed).scores["model"]
