"""The command line: one short function per verb."""

import contextlib
import dataclasses
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from onnxfit import __version__
from onnxfit.cli_attack import attack
from onnxfit.cli_calibrate import calibrate
from onnxfit.cli_compile import compile_verb
from onnxfit.cli_files import check_output, check_outside, stem, write_model
from onnxfit.cli_finetune import finetune
from onnxfit.cli_jacobian import jacobian
from onnxfit.cli_options import (
    DataOptions,
    as_json,
    copy_option,
    data_options,
    force_option,
    model_argument,
    output_option,
    required_output,
)
from onnxfit.cli_output import joined, print_json, print_pairs, print_sites, progress
from onnxfit.cli_passes import PASSES
from onnxfit.cli_retrofit import retrofit
from onnxfit.cli_verify import verify
from onnxfit.errors import DataError, NativeLibraryError, OnnxfitError, ParityError

if TYPE_CHECKING:
    from onnxfit.data import Dataset

BAD_INPUT = 2
CANNOT = 3
INTERRUPTED = 130
PIPE_CLOSED = 141
TERMINATED = 143

OPTIONAL = {
    "torch": "this needs PyTorch: pip install 'onnxfit[twin]'",
    "PIL": "images need Pillow: pip install 'onnxfit[twin]'",
    "jinja2": "a report needs Jinja: pip install 'onnxfit[report]'",
    "matplotlib": "a report needs Matplotlib: pip install 'onnxfit[report]'",
}

PROBABILITIES = (
    "The model ends in {}: its probabilities are taken as logits, so that losses and "
    "gradients are not those of the logits before it."
)


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM), and cleans up as after Ctrl-C."""


@contextlib.contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Turn SIGTERM into an exception, where nothing else was made of it."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Group(click.Group):
    """The verbs, with every error of onnxfit turned into one sentence and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        # A name that the terminal cannot show must not cost the user the result.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            with _ending_cleanly():
                return super().invoke(ctx)
        except OnnxfitError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(CANNOT if isinstance(error, (NativeLibraryError, ParityError)) else BAD_INPUT)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            click.echo(f"Error: {OPTIONAL[error.name]}", err=True)
            ctx.exit(CANNOT)
        except BrokenPipeError:
            _drop_output()
            ctx.exit(PIPE_CLOSED)
        except OSError as error:
            _drop_output()
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"Error: {where}{error.strerror}", err=True)
            ctx.exit(BAD_INPUT)
        except Terminated:
            click.echo("Terminated.", err=True)
            ctx.exit(TERMINATED)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
def main() -> None:
    """Harden a trained ONNX classifier against adversarial inputs, without retraining it."""


@main.command()
@model_argument
@as_json
def inspect(model: Path, as_json: bool) -> None:
    """Show the sites of MODEL, their jumps, and what cannot be replaced and why."""
    from onnxfit.inspection import inspect as look

    found = look(model)
    if as_json:
        print_json({"path": str(model), **dataclasses.asdict(found)})
        return
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opset_imports.items())
    print_pairs(
        {
            "model": str(model),
            "SHA-256": found.sha256,
            "format": f"IR version {found.ir_version}; {opsets}",
            **_flat(found.provenance),
        }
    )
    print_sites(found)


@main.command()
@model_argument
@output_option('MODEL\'s stem without ".jump", ".denoised" and ".interpolated" + ".restored.onnx"')
@copy_option
@force_option
@as_json
def restore(model: Path, output: Path | None, copy_data: bool, force: bool, as_json: bool) -> None:
    """Take the hardening, the denoising and the interpolation of MODEL back."""
    from onnxfit.files import load, read
    from onnxfit.record import source_of
    from onnxfit.restoring import restore as take_back

    name = stem(model)
    for ending in (*(kind.ending for kind in reversed(PASSES)), ".jump"):
        name = name.removesuffix(ending)
    output = output or model.parent / f"{name}.restored.onnx"
    check_output([model], output, force)
    plain = take_back(model)
    source = source_of(load(model))
    write_model(plain, output, model.parent, copy_data=copy_data)
    digest = read(output)[1]
    if as_json:
        print_json({"path": str(output), "sha256": digest, "source_sha256": source})
        return
    same = "byte for byte the source" if digest == source else "the source has other bytes"
    if source is None:
        same = "there is no record of the source"
    click.echo(f"wrote {output} ({same})")


@main.command()
@model_argument
@data_options
@required_output("The .npz file to write: gradients, logits, losses and labels of all samples.")
@click.option(
    "--logit",
    type=click.IntRange(min=0),
    metavar="K",
    help="Take the gradient of logit K, counted from 0, not of the loss.",
)
@click.option(
    "--saliency",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Draw each image beside its saliency map, a PNG each.",
)
@click.option("--force", is_flag=True, help="Replace OUT, and all maps in DIR, where they exist.")
@as_json
def gradients(
    model: Path,
    data: DataOptions,
    output: Path,
    logit: int | None,
    saliency: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the gradient of MODEL's loss with respect to each sample.

    The loss is the cross-entropy of a sample; gradients are in units of --bounds.
    """
    import torch

    from onnxfit.saliency.folder import older
    from onnxfit.twin.gradients import export_gradients

    check_output([model, data.path], output, force)
    if saliency is not None and not force and saliency.is_dir():
        for map_ in older(saliency)[:1]:
            raise DataError(f"{map_} exists; give --force to replace the maps in {saliency}")
    torch.manual_seed(data.seed)
    twin, dataset, digest, files = _open_classifier(model, data)
    check_output(files, output, force)
    for place in (output, saliency):
        if place is not None and data.path.is_dir():
            check_outside(place, data.path)
    settings: Any = {"logit": logit, "batch_size": data.batch_size, "pictures": saliency}
    with progress(dataset.n, "gradients") as advance:
        exported = export_gradients(twin, dataset, output, advance=advance, **settings)
    if as_json:
        used = {"path": str(data.path), "sha256": dataset.sha256, "n": dataset.n}
        document = {
            "model": {"path": str(model), "sha256": digest},
            "data": {**used, "bounds": dataset.bounds, "mean": data.mean, "std": data.std},
            "seed": data.seed,
            "logit": logit,
            "path": str(output),
            "saliency": None if saliency is None else str(saliency),
        }
        print_json({**document, **dataclasses.asdict(exported)})
        return
    what = "the loss" if logit is None else f"logit {logit}"
    click.echo(f"{dataset.n} gradients of {what}; the twin's accuracy is {exported.accuracy:.2%}")
    if exported.zero:
        click.echo(f"{exported.zero} gradients are 0 everywhere")
    if exported.not_finite:
        click.echo(f"{exported.not_finite} gradients hold NaN or infinity")
    click.echo(f"wrote {output}")
    if saliency is not None:
        click.echo(f"wrote {dataset.n} saliency maps to {saliency}")


main.add_command(attack)
main.add_command(calibrate)
main.add_command(compile_verb)
main.add_command(finetune)
main.add_command(jacobian)
main.add_command(retrofit)
main.add_command(verify)


@main.command()
@as_json
def doctor(as_json: bool) -> None:
    """Show versions, providers and the custom-op library, and try a hardened model."""
    from onnxfit.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        print_json({**dataclasses.asdict(diagnosis), "healthy": diagnosis.healthy})
    else:
        build = diagnosis.build or {}
        print_pairs(
            {
                **diagnosis.versions,
                "providers": ", ".join(diagnosis.providers),
                "library": diagnosis.library or "none was built",
                **{f"library {key}": joined(value) for key, value in build.items()},
            }
        )
        words = {True: "ok", False: "FAILED", None: "not tried"}
        for check in diagnosis.checks:
            click.echo(f"{words[check.passed]:9}  {check.check}: {check.detail}")
    if not diagnosis.healthy:
        sys.exit(CANNOT)


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Write a record with records in it as pairs of text."""
    pairs: dict[str, str] = {}
    for key, value in record.items():
        name = prefix + key.replace("_", " ")
        inner = _flat(value, f"{name} ") if isinstance(value, dict) else {name: joined(value)}
        pairs.update(inner)
    return pairs


def _drop_output() -> None:
    """Send what is left for stdout nowhere, so that it cannot complain when Python exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Opened(NamedTuple):
    """A classifier and data for it.

    Attributes:
        twin: With the normalisation of the options.
        data: The samples.
        digest: SHA-256 of the model.
        files: Everything that is read.
    """

    twin: Any
    data: "Dataset"
    digest: str
    files: list[Path]


def _open_classifier(model: Path, options: DataOptions) -> _Opened:
    """Open a model and the data for it, and see that its twin computes what the file does."""
    from onnxfit.external_data import external_files
    from onnxfit.files import read_with_digest
    from onnxfit.twin.classifier import Classifier
    from onnxfit.twin.preprocessing import Preprocessed

    proto, digest = read_with_digest(model)
    classifier = Classifier(proto, model.parent).requires_grad_(False)
    data = options.open(classifier.channels)
    classifier.check(data.shape)
    twin = Preprocessed(classifier, options.mean, options.std)
    classifier.require_parity(twin.normalised(next(data.batches(64)).x))
    if classifier.probabilities is not None:
        click.echo(PROBABILITIES.format(classifier.probabilities), err=True)
    files = [model, *external_files(proto, model.parent), *data.source.files]
    return _Opened(twin, data, digest, files)
