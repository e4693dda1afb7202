"""The networks, jumps and samples that the page about the JumpReLU paper rests on.

Networks of others come from a folder beside the repository, or the one that ONNXFIT_SHARED names;
the project's own from ``models/``.
"""

import dataclasses
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

import onnxfit
from onnxfit.calibration.activations import SiteStatistics, measure
from onnxfit.calibration.scales import Jump, Scale, jumps
from onnxfit.data import from_arrays
from onnxfit.verification.target import Target

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("ONNXFIT_SHARED", ROOT.parent / "shared"))
MODELS, DERIVED, CIFAR10 = ROOT / "models", SHARED / "models/derived", SHARED / "models/cifar10"

Sites = Literal["all", "first", "last"]


@dataclass(frozen=True)
class Samples:
    """Rows of a file of samples: from the first, so many of them, every so many-th.

    Attributes:
        path: The file, with arrays x and y.
        start: The first row.
        count: How many rows.
        step: From one row to the next.
    """

    path: Path
    start: int
    count: int
    step: int = 1

    def read(self) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """Return samples, N×…, and labels, N."""
        rows = slice(self.start, self.start + self.count * self.step, self.step)
        with np.load(self.path) as file:
            return file["x"][rows], file["y"][rows].astype(np.int64)

    def first(self, count: int) -> "Samples":
        """Return the first of them."""
        return dataclasses.replace(self, count=min(count, self.count))

    def __str__(self) -> str:
        last = self.start + (self.count - 1) * self.step
        every = "" if self.step == 1 else f", every {self.step}nd"
        return f"{self.path.name}, {self.start} to {last}{every}"


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Which jumps a network is given.

    Attributes:
        strength: The jump, or the quantile that it is at each site or channel.
        scale: What a strength means.
        sites: Which are hardened.
    """

    strength: float
    scale: Scale = "shared"
    sites: Sites = "all"

    def __str__(self) -> str:
        kind = {"shared": "κ", "quantile": "quantile", "channel": "quantile of each channel"}
        where = "" if self.sites == "all" else f", {self.sites} site alone"
        return f"{kind[self.scale]} {self.strength:g}{where}"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, and what it is measured with.

    Attributes:
        key: Its name in results.
        title: Its name in tables.
        path: The file.
        samples: For the paper's grid.
        choice: To choose jumps on.
        report: To judge the choice on.
        eps: For ``linf``, in pixels from 0 to 1.
        grid: The paper's jumps for this architecture, without 0.
        steps: Of the paper's attacks.
        adversarial: Whether it was trained on adversarial samples.
        mean: Of the normalisation.
        std: The same.
    """

    key: str
    title: str
    path: Path
    samples: Samples
    choice: Samples
    report: Samples
    eps: float
    grid: tuple[float, ...]
    steps: int = 40
    adversarial: bool = False
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def hardened(self, configuration: Configuration) -> ModelProto:
        """Harden the network. Quantiles are those of the samples to choose on."""
        given = jumps(configuration.scale, configuration.strength, self.statistics)
        return onnxfit.retrofit(self.path, jumps=_chosen(given, configuration.sites))

    @functools.cached_property
    def statistics(self) -> dict[str, SiteStatistics]:
        """The inputs of all activations."""
        twin = Target(self.path, mean=self.mean, std=self.std).twin
        return measure(twin, from_arrays(*self.choice.read()), by_channel=True)

    @property
    def configurations(self) -> list[Configuration]:
        """What may survive: the grid, quantiles, of channels, and of one site alone."""
        found = [Configuration(strength=kappa) for kappa in self.grid]
        for scale in ("quantile", "channel"):
            found += [Configuration(strength=q, scale=scale) for q in QUANTILES]
        for sites in ("first", "last"):
            found += [Configuration(strength=q, scale="quantile", sites=sites) for q in QUANTILES]
        return found


# Small ones: larger ones did worse wherever they were tried.
QUANTILES = (0.02, 0.05, 0.1, 0.2)

_MNIST, _JPEG = SHARED / "data/mnist_0_4999.npz", SHARED / "data/cifar10_jpeg_4000.npz"
_LENET = (0.5, 1.0, 1.5)
_ALEXNET = (0.2, 0.4, 0.6, 0.8)
_DEEP = (0.01, 0.03, 0.05, 0.07, 0.09)
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)


def _lenet(training: str) -> Network:
    return Network(
        key=f"lenet-mnist-{training}",
        title=f"LeNetLike, MNIST, {training}",
        path=DERIVED / f"jumprelu_lenet_{training}.onnx",
        samples=Samples(_MNIST, 0, 1000),
        choice=Samples(_MNIST, 1000, 2000, 2),
        report=Samples(_MNIST, 1001, 2000, 2),
        eps=0.1,
        grid=_LENET,
        mean=(0.1307,),
        std=(0.3081,),
    )


def _cifar10(
    key: str, title: str, path: Path, eps: float, grid: tuple[float, ...], std: tuple[float, ...]
) -> Network:
    return Network(
        key=key,
        title=title,
        path=path,
        samples=Samples(_JPEG, 0, 1000),
        choice=Samples(_JPEG, 0, 2000, 2),
        report=Samples(_JPEG, 1, 2000, 2),
        eps=eps,
        grid=grid,
        steps=7,
        adversarial=eps > 1 / 255,
        mean=_MEAN,
        std=std,
    )


def _digits(name: str, title: str, grid: tuple[float, ...], adversarial: bool) -> Network:
    ending = "_pgd" if adversarial else ""
    test = Samples(MODELS / "digits_test.npz", 0, 449)
    return Network(
        key=f"{name}-digits{ending.replace('_', '-')}",
        title=f"{title}, digits{', PGD' if adversarial else ''}",
        path=MODELS / f"digits_{name}{ending}.onnx",
        samples=test,
        choice=Samples(MODELS / "digits_val.npz", 0, 450),
        report=test,
        eps=0.1,
        grid=grid,
        adversarial=adversarial,
    )


def _chosen(given: dict[str, Jump], sites: Sites) -> dict[str, Jump]:
    """Return the jumps of all sites, of the first or of the last one."""
    if sites == "all":
        return given
    name = list(given)[0 if sites == "first" else -1]
    return {name: given[name]}


NETWORKS = (
    _lenet("baseline"),
    _lenet("distillation"),
    _cifar10(
        "resnet20-cifar10",
        "ResNet-20, CIFAR-10",
        DERIVED / "jumprelu_resnet20_baseline_bn.onnx",
        0.5 / 255,
        _DEEP,
        _STD,
    ),
    *(
        _digits(name, title, grid, adversarial)
        for adversarial in (False, True)
        for name, title, grid in (
            ("lenet", "LeNetLike", _LENET),
            ("alexnet", "AlexLike", _ALEXNET),
            ("resnet20", "ResNet-20", _DEEP),
            ("mobilenetv2", "MobileNetV2", _DEEP),
            ("wideresnet", "WideResNet", _DEEP),
        )
    ),
    _cifar10(
        "resnet2b-cifar10",
        "ResNet-2B, CIFAR-10, adversarially trained",
        CIFAR10 / "resnet_2b.onnx",
        2 / 255,
        (0.01, 0.03, 0.05),
        (0.2471, 0.2435, 0.2616),
    ),
    _cifar10(
        "vit-cifar10",
        "ViT, CIFAR-10, adversarially trained",
        CIFAR10 / "vit_pgd_2_3_16.onnx",
        2 / 255,
        (0.01, 0.03, 0.05),
        _STD,
    ),
)
