"""Transfer in the verb ``attack``: the models that it starts from, and what is told of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from onnxfit.cli_options import (
    DataOptions,
    check_channels,
    gathered,
    numbers,
    positive_numbers,
)
from onnxfit.cli_output import progress, share_text

Numbers = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The models that a transfer was told to start from.

    Attributes:
        paths: Of the models.
        means: What is subtracted from samples before each; none where it is the model's ``--mean``.
        stds: What divides after that, likewise.
    """

    paths: tuple[Path, ...]
    means: tuple[Numbers, ...]
    stds: tuple[Numbers, ...]

    def check(self, name: str) -> None:
        """Refuse options that do not go with the attack of a name, or not with each other.

        Raises:
            click.UsageError: That is so.
        """
        if (name == "transfer") != bool(self.paths):
            raise click.UsageError("--source goes with --attack transfer, which needs one.")
        for option, given in (("--source-mean", self.means), ("--source-std", self.stds)):
            if given and not self.paths:
                raise click.UsageError(f"{option} goes with --source alone.")
            if len(given) not in (0, 1, len(self.paths)):
                raise click.UsageError(
                    f"{option} is given {len(given)} times and --source {len(self.paths)}: give it "
                    "once, or as often."
                )

    def open(self, target: Any, dataset: Any, classes: int, data: DataOptions) -> list[Any]:
        """Open the models, and count the samples that they classify correctly.

        Raises:
            DataError, ModelError: As :class:`onnxfit.verification.transfer_source.Source`.
            click.UsageError: There are neither one number nor as many as the channels.
        """
        from onnxfit.image_layout import channel_count
        from onnxfit.verification.transfer_source import Source

        means, stds = (
            given * len(self.paths) if len(given) == 1 else given
            for given in (self.means or (data.mean,), self.stds or (data.std,))
        )
        channels, sources = channel_count(dataset.shape), []
        for path, mean, std in zip(self.paths, means, stds, strict=True):
            for option, given in (("--source-mean", mean), ("--source-std", std)):
                check_channels(option, given, channels)
            source = Source(path, dataset, classes, mean=mean, std=std, device=target.device)
            source.score(data.batch_size, progress)
            sources.append(source)
        return sources


def _each(read: Callable[..., Numbers]) -> Callable[..., tuple[Numbers, ...]]:
    """Make what reads an option that may be repeated."""

    def read_all(
        ctx: click.Context, option: click.Parameter, texts: Sequence[str]
    ) -> tuple[Numbers, ...]:
        return tuple(read(ctx, option, text) for text in texts)

    return read_all


_OPTIONS = (
    click.option(
        "--source",
        "paths",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="MODEL",
        help="Model that a transfer starts from; several make an ensemble.",
    ),
    click.option(
        "--source-mean",
        "means",
        multiple=True,
        callback=_each(numbers),
        metavar="M,…",
        help="--mean of the sources, by default that of MODEL: once for all of them, or once for "
        "each, in their order.",
    ),
    click.option(
        "--source-std",
        "stds",
        multiple=True,
        callback=_each(positive_numbers),
        metavar="S,…",
        help="--std of the sources, likewise.",
    ),
)


def source_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the options of the models a transfer starts from, as one argument: ``source``."""
    return gathered(verb, "source", SourceOptions, _OPTIONS)


def source_pairs(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is printed of each source."""
    for record in document["sources"]:
        clean, n = record["clean"], record["n"]
        some = "" if n == document["data"]["n"] else f", of {n} samples"
        share = share_text(clean["accuracy"], clean["ci95"])
        yield f"clean accuracy of {record['path']}", share + some


def source_warnings(sources: Sequence[Any], attacks: Sequence[Any]) -> Iterator[str]:
    """Yield what a reader should know of the sources, in sentences."""
    native = [attack.backward for attack in attacks] == ["true"] if sources else False
    for source in sources:
        yield from source.warnings(native=native)
