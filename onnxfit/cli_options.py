"""What several verbs ask for on the command line, and how numbers are written there."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from onnxfit.data import Dataset


def parse_number(text: str) -> float:
    """Read a finite number, which may be written as a fraction: ``8/255``.

    Raises:
        click.BadParameter: The text is no such number.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        value = float(numerator) / float(denominator if slash else 1)
    except (ValueError, ZeroDivisionError):
        raise click.BadParameter(f"{text!r} is not a number.") from None
    if not math.isfinite(value):
        raise click.BadParameter(f"{text} is not a finite number.")
    return value


def number(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """Read a finite number of at least 0, which may be written as a fraction: ``8/255``."""
    if text is None:
        return None
    value = parse_number(text)
    if value < 0:
        raise click.BadParameter(f"{text} is not a finite number of at least 0.")
    return value


def positive(ctx: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """Read a finite number above 0."""
    value = None if text is None else parse_number(text)
    if value is not None and value <= 0:
        raise click.BadParameter(f"{text} is not above 0.")
    return value


def share(ctx: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """Read a number from 0 to 1."""
    value = number(ctx, option, text)
    if value is not None and value > 1:
        raise click.BadParameter(f"{text} is not from 0 to 1.")
    return value


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
model_argument = click.argument("model", type=click.Path(path_type=Path))


def names_of_rewrites(
    _: click.Context, __: click.Parameter, text: str | None
) -> tuple[str, ...] | None:
    """Split names at commas; without the option there are none, not even no names."""
    if text is None:
        return None
    return tuple(name.strip() for name in text.split(",")) if text else ()


device_option = click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where twin and file compute.",
)
copy_option = click.option(
    "--copy-data", is_flag=True, help="Copy external data to OUT's folder, make no hard link."
)
force_option = click.option("--force", is_flag=True, help="Replace OUT where it exists.")


def output_option(default: str) -> Callable[..., Any]:
    """Make the option that names the file to write."""
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="OUT",
        help=f"File to write, by default {default}.",
    )


def required_output(text: str) -> Callable[..., Any]:
    """Make the same option where it must be given, with its help."""
    return click.option(
        "-o",
        "--output",
        required=True,
        type=click.Path(path_type=Path),
        metavar="OUT",
        help=text,
    )


def numbers(_: click.Context, __: click.Parameter, text: str) -> tuple[float, ...]:
    """Read finite numbers with commas between them."""
    return tuple(parse_number(part.strip()) for part in text.split(","))


def _bounds(ctx: click.Context, option: click.Parameter, text: str) -> tuple[float, float]:
    found = numbers(ctx, option, text)
    if len(found) != 2 or found[0] >= found[1]:
        raise click.BadParameter(f"{text!r} is not two numbers, the smaller one first.")
    return found[0], found[1]


def positive_numbers(ctx: click.Context, option: click.Parameter, text: str) -> tuple[float, ...]:
    """Read finite numbers above 0 with commas between them."""
    found = numbers(ctx, option, text)
    if min(found) <= 0:
        raise click.BadParameter(f"{text!r} holds a number that is not above 0.")
    return found


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data that a verb was told to read, and how.

    Attributes:
        path: An ``.npz`` file, the images of an IDX pair, or a folder of images by class.
        limit: Take no more samples than that.
        seed: Of everything random.
        batch_size: Number of samples computed at a time.
        bounds: Smallest and largest value of a sample.
        mean: One number, or one per channel, for normalisation; in units of ``bounds``.
        std: The same; above 0.
    """

    path: Path
    limit: int | None
    seed: int
    batch_size: int
    bounds: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def open(self, channels: int | None = None) -> "Dataset":
        """Open the data; ``channels`` makes the images of a folder grey (1) or coloured (3).

        Raises:
            DataError: As :func:`onnxfit.data.open_data`.
            click.UsageError: ``mean`` or ``std`` are not as many as the channels.
        """
        from onnxfit.data import open_data
        from onnxfit.image_layout import channel_count

        data = open_data(self.path, limit=self.limit, bounds=self.bounds, channels=channels)
        channels = channel_count(data.shape)
        for option, given in (("--mean", self.mean), ("--std", self.std)):
            check_channels(option, given, channels)
        return data


def check_channels(option: str, given: Sequence[float], channels: int) -> None:
    """Check that an option has one number for all channels of the samples, or one for each.

    Raises:
        click.UsageError: It has others.
    """
    if len(given) not in (1, channels):
        raise click.UsageError(
            f"{option} has {len(given)} numbers; the samples have {channels} channels, so give 1 "
            "or that many."
        )


# In what units samples are, and what a model wants them in.
_UNITS = (
    click.option(
        "--bounds",
        callback=_bounds,
        default="0,1",
        show_default=True,
        metavar="LO,HI",
        help="Smallest and largest value of a sample; bytes 0 to 255 are scaled to them.",
    ),
    click.option(
        "--mean",
        callback=numbers,
        default="0",
        show_default=True,
        metavar="M,…",
        help="Is subtracted before the model, for all channels or for each; in units of --bounds.",
    ),
    click.option(
        "--std",
        callback=positive_numbers,
        default="1",
        show_default=True,
        metavar="S,…",
        help="Divides after that, for all channels or for each.",
    ),
)
_OPTIONS = (
    click.option(
        "--data",
        "path",
        required=True,
        type=click.Path(path_type=Path),
        metavar="DATA",
        help="x.npz with the arrays x and y, IDX images with labels beside them, or a folder of "
        "images by class.",
    ),
    click.option(
        "--limit",
        type=click.IntRange(min=1),
        metavar="N",
        help="Take the first N samples; of a folder, N spread evenly over the classes.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
        default=0,
        show_default=True,
        help="Of everything random; it never changes which samples are taken.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        metavar="B",
        help="Number of samples computed at a time.",
    ),
    *_UNITS,
)


def data_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the options of its data, which it gets as one argument: ``data``."""
    return gathered(verb, "data", DataOptions, _OPTIONS)


def units_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb ``bounds``, ``mean`` and ``std``."""
    return with_options(verb, _UNITS)


def gathered(
    verb: Callable[..., Any], name: str, kind: type, options: Sequence[Callable[..., Any]]
) -> Callable[..., Any]:
    """Give a verb options, which it gets as one argument.

    Args:
        verb: The verb.
        name: Of the argument.
        kind: Of the argument: a dataclass whose fields the options set.
        options: In the order of the help.
    """
    names = [field.name for field in fields(kind)]

    @functools.wraps(verb)
    def with_argument(*args: Any, **given: Any) -> Any:
        value = kind(**{field: given.pop(field) for field in names})
        return verb(*args, **{name: value}, **given)

    return with_options(with_argument, options)


def with_options(
    verb: Callable[..., Any], options: Sequence[Callable[..., Any]]
) -> Callable[..., Any]:
    """Give a verb options, which its help lists in this order."""
    for option in reversed(options):
        verb = option(verb)
    return verb
