"""The trained networks that benchmarks measure, and how they take pixels.

Those of others come from a folder beside the repository, or the one that ONNXFIT_SHARED names; the
project's own from ``models/``.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxfit.verification.target import Target

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("ONNXFIT_SHARED", ROOT.parent / "shared"))
MODELS = ROOT / "models"
_JUMPRELU, _CIFAR10 = SHARED / "models/derived", SHARED / "models/cifar10"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A file, and how it takes pixels from 0 to 1.

    Attributes:
        path: The file.
        mean: Of the normalisation.
        std: The same.
    """

    path: Path
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def normalisation(self) -> dict[str, Any]:
        """What verbs are told of it."""
        return {"mean": self.mean, "std": self.std}

    def open(self) -> Target:
        """Open the file."""
        return Target(self.path, **self.normalisation)


def digits(name: str) -> Model:
    """Return a network of ``models/``."""
    return Model(path=MODELS / f"digits_{name}.onnx")


def lenet(training: str) -> Model:
    """Return the JumpReLU paper's network for MNIST."""
    return Model(path=_JUMPRELU / f"jumprelu_lenet_{training}.onnx", mean=(0.1307,), std=(0.3081,))


_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)

# The JumpReLU paper's networks for CIFAR-10, and those that were trained adversarially.
RESNET20 = Model(path=_JUMPRELU / "jumprelu_resnet20_baseline_bn.onnx", mean=_MEAN, std=_STD)
RESNET_2B = Model(path=_CIFAR10 / "resnet_2b.onnx", mean=_MEAN, std=(0.2471, 0.2435, 0.2616))
VIT = Model(path=_CIFAR10 / "vit_pgd_2_3_16.onnx", mean=_MEAN, std=_STD)
OVAL_BASE = Model(
    path=_CIFAR10 / "oval_base.onnx", mean=(0.485, 0.456, 0.406), std=(0.225, 0.225, 0.225)
)
