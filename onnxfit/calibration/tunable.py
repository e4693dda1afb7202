"""A network whose jumps can be set at any time: its twin, and one session of ONNX Runtime."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from onnxfit.calibration.scales import Jump
from onnxfit.deployed import Deployed
from onnxfit.errors import ModelError
from onnxfit.hardening import retrofit
from onnxfit.op import round_jumps
from onnxfit.planning import sites_of
from onnxfit.rewrites import unrewritten
from onnxfit.run_time_jumps import with_run_time_jumps
from onnxfit.sites import scan
from onnxfit.twin.jump_relu import jump_relus
from onnxfit.verification.deployed_classifier import DeployedClassifier
from onnxfit.verification.target import Target


class Tunable:
    """A network whose jumps can be set.

    The session takes the jumps as inputs of the graph, so that setting them costs nothing. Where
    activations are inside functions, which see no inputs of the graph, or the session cannot be
    given their type, the file is hardened anew each time.

    Args:
        plain: The network before hardening.
        shapes: The shape of each site's jumps, where that is not a single number.

    Attributes:
        twin: From samples in the data's units to logits, with gradients.
        deployed: The same in ONNX Runtime, without gradients.
        rebuilds: Whether the file is hardened anew each time.
    """

    def __init__(self, plain: Target, shapes: Mapping[str, tuple[int, ...]] | None = None) -> None:
        self._plain, self._shapes, self.twin = plain, dict(shapes or {}), plain.twin
        self._sites = jump_relus(plain.twin)
        found = sites_of(list(scan(unrewritten(plain.model))))
        self._types = {each.site.name: each.place.element_type for each in found}
        self._inputs: dict[str, str] = {}
        self._set: dict[str, NDArray[np.float32]] = {}
        self._session: Deployed | None = None
        try:
            model, self._inputs = with_run_time_jumps(plain.model, shapes, plain.folder)
            self._session = plain.session_of(model, constants=list(self._inputs.values()))
        except ModelError:
            self._inputs = {}
        self.rebuilds = self._session is None
        self.deployed: DeployedClassifier
        self.set({site.site: 0.0 for site in self._sites})

    @property
    def sites(self) -> list[str]:
        """The names of the activations that have a jump."""
        return list(dict.fromkeys(site.site for site in self._sites))

    def rounded(self, jumps: Mapping[str, Jump]) -> dict[str, Jump]:
        """Return jumps as the types of the activations hold them.

        In float16 a very small one becomes 0, which a file is not hardened with unless it is meant,
        and a very large one the largest number.
        """
        return {
            site: _half(jump) if self._types[site] == TensorProto.FLOAT16 else jump
            for site, jump in jumps.items()
        }

    def set(self, jumps: Mapping[str, Jump]) -> None:
        """Set the jump of every site, in the twin and in the session.

        Raises:
            ModelError: The network cannot be hardened with them.
            ValueError: A jump is not a finite number of at least 0 in the activation's type.
        """
        exact = {name: round_jumps(jump, self._types[name]) for name, jump in jumps.items()}
        for site in self._sites:
            like = site.jump
            number = torch.as_tensor(exact[site.site])
            site.jump = number if like is None else number.to(like.device, like.dtype)
        if self._session is None:
            if _equal(exact, self._set):
                return
            hard = retrofit(self._plain.model, jumps=dict(jumps), base_dir=self._plain.folder)
            self.deployed = self._plain.classified_by(self._plain.session_of(hard))
            self._set = exact
            return
        self._session.constants = {
            name: self._input(site, exact[site], self._session.types[name])
            for site, name in self._inputs.items()
        }
        self.deployed = self._plain.classified_by(self._session)

    def _input(self, site: str, jump: NDArray[np.float32], dtype: Any) -> NDArray[Any]:
        """Return the jump of a site in the shape and type that the session is given it in."""
        shape = self._shapes.get(site, ())
        return np.broadcast_to(jump, shape).astype(dtype)

    def predictions(self, x: torch.Tensor | NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the classes that the session names for samples, N; -1 where a logit is NaN."""
        classes: NDArray[Any] = self.deployed.predictions(x)
        return classes


def _equal(some: Mapping[str, NDArray[Any]], others: Mapping[str, NDArray[Any]]) -> bool:
    """Say whether two mappings hold the same arrays."""
    return some.keys() == others.keys() and all(
        np.array_equal(some[name], others[name]) for name in some
    )


def _half(jump: Jump) -> Jump:
    """Return the finite float16 next to a jump, as float32."""
    largest = np.finfo(np.float16).max
    numbers = np.minimum(np.asarray(jump, np.float32), largest).astype(np.float16)
    return numbers.astype(np.float32) if numbers.ndim else float(numbers)
