"""What ``retrofit`` asks for of what goes in front of a network or behind it."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from click.core import ParameterSource

from onnxfit.cli_options import positive, share, with_options

if TYPE_CHECKING:
    from onnx import ModelProto

Units = dict[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Pass(ABC):
    """The options of one, whose fields are named like them.

    Attributes:
        ending: What names of files get, as in ``m.denoised.onnx``.
        main: The option without which it is not asked for.
    """

    ending: ClassVar[str]
    main: ClassVar[str]

    @property
    def asked(self) -> bool:
        """Whether it shall be applied."""
        return getattr(self, self.main) is not None

    @property
    def files(self) -> list[Path]:
        """What it reads besides the model."""
        return []

    @abstractmethod
    def apply(self, model: "ModelProto | Path", folder: Path, units: Units) -> "ModelProto":
        """Apply it.

        Args:
            model: A model, or its path.
            folder: Of its external data.
            units: ``bounds``, ``mean`` and ``std``.
        """

    @abstractmethod
    def told(self, provenance: dict[str, Any]) -> str:
        """Return what a reader is told of the result, by the record in it."""


@dataclass(frozen=True, kw_only=True)
class Denoising(Pass):
    """Total variation minimised in front of a network."""

    ending = ".denoised"
    main = "tv_weight"

    tv_weight: float | None
    tv_steps: int
    tv_keep: float
    tv_seed: int | None

    def apply(self, model: "ModelProto | Path", folder: Path, units: Units) -> "ModelProto":
        """Put it there."""
        from onnxfit.passes.denoising import denoise

        how: Any = {
            "weight": self.tv_weight,
            "steps": self.tv_steps,
            "keep": self.tv_keep,
            "seed": self.tv_seed,
            **units,
        }
        return denoise(model, base_dir=folder, **how)

    def told(self, provenance: dict[str, Any]) -> str:
        """Say how images are denoised."""
        record: dict[str, Any] = provenance["denoising"]
        made = "denoising of {input}: {method}, weight {weight}, {steps} steps"
        mask = "; {keep:.4g} of the pixels are kept, by a mask that is {mask}"
        told = made + mask if record["keep"] < 1 else made
        return told.format(**record)


@dataclass(frozen=True, kw_only=True)
class Interpolation(Pass):
    """Labelled samples in the place of the last layer."""

    ending = ".interpolated"
    main = "interpolate"

    interpolate: Path | None
    interpolation: str
    neighbours: int
    bandwidth_neighbour: int
    feature: str | None

    @property
    def files(self) -> list[Path]:
        """The templates."""
        return [] if self.interpolate is None else [self.interpolate]

    def apply(self, model: "ModelProto | Path", folder: Path, units: Units) -> "ModelProto":
        """Replace the layer."""
        from onnxfit.passes.interpolating import interpolate

        (templates,) = self.files
        how: Any = {
            "kind": self.interpolation,
            "feature": self.feature,
            "neighbours": self.neighbours,
            "bandwidth_neighbour": self.bandwidth_neighbour,
            **units,
        }
        return interpolate(model, templates, base_dir=folder, **how)

    def told(self, provenance: dict[str, Any]) -> str:
        """Say what the output is made of."""
        record: dict[str, Any] = provenance["interpolation"]
        return (
            "interpolation: {kind}, {gives} by the {neighbours} nearest of {templates} templates, "
            "{dimensions} features each of {feature}, {bytes} bytes; the layer before stays and "
            "writes {head}"
        ).format(**record)


# In the order in which they are applied.
_OPTIONS: dict[type[Pass], list[Callable[..., Any]]] = {
    Denoising: [
        click.option(
            "--tv-weight",
            callback=positive,
            metavar="NUMBER",
            help="Denoise images in front of the model: minimise their total variation with this "
            "weight, in units of --bounds.",
        ),
        click.option(
            "--tv-steps",
            type=click.IntRange(min=1),
            default=50,
            show_default=True,
            metavar="N",
            help="How many iterations do that.",
        ),
        click.option(
            "--tv-keep",
            callback=share,
            default="1",
            show_default=True,
            metavar="SHARE",
            help="Share of the pixels that is kept; the others are dropped at random and filled "
            "in.",
        ),
        click.option(
            "--tv-seed",
            type=click.IntRange(min=0),
            metavar="N",
            help="Keep the same pixels at every run, chosen with this seed.",
        ),
    ],
    Interpolation: [
        click.option(
            "--interpolate",
            type=click.Path(path_type=Path),
            metavar="TEMPLATES",
            help="Replace the last dense layer by interpolation over these labelled samples, given "
            "like the --data of other verbs.",
        ),
        click.option(
            "--interpolation",
            type=click.Choice(("kernel", "wnll")),
            default="kernel",
            show_default=True,
            help="A mean over each sample's nearest templates, or a system over the whole batch.",
        ),
        click.option(
            "--neighbours",
            type=click.IntRange(min=1),
            default=15,
            show_default=True,
            metavar="K",
            help="How many templates, for wnll samples too, count for a sample.",
        ),
        click.option(
            "--bandwidth-neighbour",
            type=click.IntRange(min=1),
            default=8,
            show_default=True,
            metavar="M",
            help="Which of them is one bandwidth away.",
        ),
        click.option(
            "--feature",
            metavar="VALUE",
            help="Value that holds the features; by default what the last dense layer reads.",
        ),
    ],
}
PASSES = tuple(_OPTIONS)


def pass_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the options of all passes, which it gets as one argument: ``passes``.

    It holds those that are asked for, in the order in which they are applied.
    """

    @functools.wraps(verb)
    def with_passes(*args: Any, **options: Any) -> Any:
        given = [_given(kind, options) for kind in PASSES]
        return verb(*args, passes=[each for each in given if each.asked], **options)

    return with_options(with_passes, [option for group in _OPTIONS.values() for option in group])


def _given(kind: type[Pass], options: dict[str, Any]) -> Pass:
    """Take the options of a pass out of those of a verb.

    Raises:
        click.UsageError: Some are given without the one that asks for it.
    """
    names = [field.name for field in fields(kind)]
    found = kind(**{name: options.pop(name) for name in names})
    source = click.get_current_context().get_parameter_source
    alone = [name for name in names if source(name) is ParameterSource.COMMANDLINE]
    if alone and not found.asked:
        flag, main = (f"--{name.replace('_', '-')}" for name in (alone[0], kind.main))
        raise click.UsageError(f"{flag} goes with {main}.")
    return found
