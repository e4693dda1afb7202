"""The networks, jumps and samples that the page about the JumpReLU paper rests on."""

import functools
from dataclasses import dataclass
from typing import Any, Literal

from images import CIFAR10_JPEG, DIGITS_TEST, DIGITS_VAL, MNIST, Samples
from trained_networks import RESNET20, RESNET_2B, VIT, Model, digits, lenet

import onnxfit
from onnxfit.calibration.activations import SiteStatistics, measure
from onnxfit.calibration.scales import Jump, Scale, jumps
from onnxfit.data import from_arrays

# Which sites get a jump: all, the first or last one, the first or last half.
Sites = Literal["all", "first", "last", "first half", "last half"]


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Which jumps a network is given.

    Attributes:
        strength: The jump, or the quantile of positive pre-activations that it is.
        scale: What a strength means.
        sites: Which are hardened.
        calibrated: The jumps are those that ``onnxfit calibrate`` finds on the validation images,
            with this scale.
    """

    strength: float = 0.0
    scale: Scale = "shared"
    sites: Sites = "all"
    calibrated: bool = False

    def __str__(self) -> str:
        if self.calibrated:
            return f"`calibrate --scale {self.scale}`"
        kind = {"shared": "κ", "quantile": "quantile", "channel": "quantile of each channel"}
        where = {"all": "", "first": ", first site", "last": ", last site"}
        return f"{kind[self.scale]} {self.strength:g}{where.get(self.sites, f', {self.sites}')}"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, and what it is measured with.

    Attributes:
        key: Its name in results.
        title: Its name in tables.
        model: The file.
        samples: For the grid.
        validation: To choose jumps on.
        test: To judge the choice on.
        eps: For ``linf``, in pixels from 0 to 1.
        grid: Jumps within the paper's range for this architecture, or for one like it.
        steps: Of the paper's attacks.
        channels: Whether axis 1 of its activations is that of channels.
    """

    key: str
    title: str
    model: Model
    samples: Samples
    validation: Samples
    test: Samples
    eps: float
    grid: tuple[float, ...]
    steps: int = 40
    channels: bool = True

    def jumps(self, configuration: Configuration) -> dict[str, Jump]:
        """Return the jumps by site. Quantiles are those of the validation images."""
        if configuration.calibrated:
            found = onnxfit.calibrate(
                self.model.path,
                self.validation.read(),
                scale=configuration.scale,
                max_drop=MAX_DROP,
                eps=self.eps,
                **self.model.normalisation,
            )
            return dict(found)
        given = jumps(configuration.scale, configuration.strength, self.statistics)
        names = list(given)
        half = (len(names) + 1) // 2
        chosen = {
            "all": names,
            "first": names[:1],
            "last": names[-1:],
            "first half": names[:half],
            "last half": names[-half:],
        }
        return {name: given[name] for name in chosen[configuration.sites]}

    @functools.cached_property
    def statistics(self) -> dict[str, SiteStatistics]:
        """The inputs of all activations, on the validation images."""
        data = from_arrays(*self.validation.read())
        return measure(self.model.open().twin, data, by_channel=True)

    @property
    def on_grid(self) -> list[Configuration]:
        """The jumps of the grid, ascending."""
        return [Configuration(strength=kappa) for kappa in self.grid]

    @property
    def configurations(self) -> list[Configuration]:
        """What may survive: the grid, quantiles, those of channels, some sites, a calibration."""
        found = [*self.on_grid, *(Configuration(strength=q, scale="quantile") for q in QUANTILES)]
        if self.channels:
            found += [Configuration(strength=q, scale="channel") for q in QUANTILES]
        sites: tuple[Sites, ...] = ("first", "last", "first half", "last half")
        found += [Configuration(strength=0.1, scale="quantile", sites=each) for each in sites]
        return [*found, Configuration(scale="quantile", calibrated=True)]


QUANTILES = (0.02, 0.05, 0.1, 0.2, 0.35)
# Of clean accuracy, for a calibration: 450 images can show no less with some to spare.
MAX_DROP = 0.02

_LENET = (0.5, 1.0, 1.5)
_ALEXNET = (0.2, 0.4, 0.6, 0.8)
_DEEP = (0.01, 0.03, 0.05, 0.07, 0.09)
_SMALL = (0.05, 0.1, 0.2)


def _lenet(training: str) -> Network:
    return Network(
        key=f"lenet-mnist-{training}",
        title=f"LeNetLike, MNIST, {training}",
        model=lenet(training),
        samples=Samples(MNIST, 0, 1000),
        validation=Samples(MNIST, 1000, 500, 2),
        test=Samples(MNIST, 1001, 500, 2),
        eps=0.1,
        grid=_LENET,
    )


def _cifar10(
    key: str, title: str, model: Model, eps: float, grid: tuple[float, ...], count: int, **how: Any
) -> Network:
    return Network(
        key=key,
        title=title,
        model=model,
        samples=Samples(CIFAR10_JPEG, 0, 1000),
        validation=Samples(CIFAR10_JPEG, 0, count, 2),
        test=Samples(CIFAR10_JPEG, 1, count, 2),
        eps=eps,
        grid=grid,
        steps=7,
        **how,
    )


def _digits(name: str, title: str, grid: tuple[float, ...], adversarial: bool) -> Network:
    ending = "_pgd" if adversarial else ""
    test = Samples(DIGITS_TEST, 0, 449)
    return Network(
        key=f"{name}-digits{ending.replace('_', '-')}",
        title=f"{title}, digits{', PGD' if adversarial else ''}",
        model=digits(f"{name}{ending}"),
        samples=test,
        validation=Samples(DIGITS_VAL, 0, 450),
        test=test,
        eps=0.1,
        grid=grid,
    )


NETWORKS = (
    _lenet("baseline"),
    _lenet("distillation"),
    _cifar10(
        "resnet20-cifar10",
        "ResNet-20, CIFAR-10",
        RESNET20,
        0.5 / 255,
        _DEEP,
        500,
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
    # Where a gain of a few points is not excluded: images enough for an interval of ±1.5 points.
    _cifar10(
        "resnet2b-cifar10",
        "ResNet-2B, CIFAR-10, adversarially trained",
        RESNET_2B,
        2 / 255,
        _SMALL,
        2000,
    ),
    _cifar10(
        "vit-cifar10",
        "ViT, CIFAR-10, PGD by its file's name",
        VIT,
        2 / 255,
        _SMALL,
        2000,
        channels=False,
    ),
)
