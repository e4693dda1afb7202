"""The verb ``jacobian``: how large the Jacobians of a model are, and what they have in common."""

import math
from pathlib import Path
from typing import Any

import click

from onnxfit.cli_attack import size_options
from onnxfit.cli_options import (
    DataOptions,
    as_json,
    data_options,
    device_option,
    model_argument,
    positive,
)
from onnxfit.cli_output import print_json, print_table, progress, share_text

SCHEMA_VERSION = 1
# What a hardened model is measured with, whatever is asked for.
BACKWARDS = ("true", "smooth")
OWN_SLOPES = (
    "The model is hardened: its own slopes do not see the jumps, so that the figures of 'true' "
    "are too small. Those of 'smooth' have a smooth gate in place of each jump."
)

BEFORE = "The model ends in a {}: the Jacobians are those of the logits before it."
LIKE_PROBABILITIES = "What the model gives looks like probabilities; it is taken as logits."


@click.command()
@model_argument
@data_options
@size_options
@click.option(
    "--pairs",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    metavar="N",
    help="How many pairs of samples to compare.",
)
@click.option(
    "--backward",
    type=click.Choice(BACKWARDS),
    default="true",
    show_default=True,
    help="Slope of each activation: its own, or a smooth gate's; of a hardened model always both.",
)
@click.option(
    "--tau",
    callback=positive,
    default="0.1",
    show_default=True,
    metavar="SHARE",
    help="Width of the smooth gate.",
)
@device_option
@as_json
def jacobian(
    model: Path,
    data: DataOptions,
    eps: float | None,
    norm: Any,
    pairs: int,
    backward: str,
    tau: float,
    device: str,
    as_json: bool,
) -> None:
    """Measure the Jacobians of MODEL's logits with respect to the samples.

    Their norms, a bound of what one perturbation of all samples does to the logits, and how much
    pairs of samples have in common. All of this is to first order. It takes a backward pass for
    each class of each sample.
    """
    from onnxfit.attacks import UniversalPerturbation
    from onnxfit.jacobians.measure import measure, work_of
    from onnxfit.jacobians.universal import reached
    from onnxfit.verification.environment import versions
    from onnxfit.verification.target import Target, classes_of

    eps, norm = eps or 8 / 255, norm or "linf"
    target = Target(model, mean=data.mean, std=data.std, device=device)
    dataset = data.open(target.classifier.channels)
    target.classifier.check(dataset.shape)
    classes = classes_of(target, dataset)
    some = dataset.spread(64).x
    target.parity(some)
    if target.classifier.probabilities is not None:
        click.echo(BEFORE.format(target.classifier.probabilities), err=True)
    elif target.gives_probabilities(some):
        click.echo(LIKE_PROBABILITIES, err=True)
    measured = []
    for mode in BACKWARDS if target.is_hardened else (backward,):
        with progress(work_of(dataset.n, pairs), f"Jacobians, {mode}") as advance:
            found = measure(
                target.twin,
                dataset,
                eps=eps,
                norm=norm,
                pairs=pairs,
                backward="smooth" if mode == "smooth" else "true",
                tau=tau,
                batch_size=data.batch_size,
                seed=data.seed,
                device=target.device,
                classify=target.predictions,
                advance=advance,
            )
        attack = UniversalPerturbation(
            eps=eps,
            norm=norm,
            bounds=dataset.bounds,
            backward=mode,
            tau=tau,
            batch_size=data.batch_size,
            seed=data.seed,
        )
        universal = reached(attack, target.twin, target.deployed, dataset)
        measured.append({**found.document, "universal": universal})
    document = {
        "schema_version": SCHEMA_VERSION,
        "model": {**target.record(), "hardened": target.is_hardened},
        "data": {
            "path": str(data.path),
            "sha256": dataset.sha256,
            "n": dataset.n,
            "bounds": dataset.bounds,
            "mean": data.mean,
            "std": data.std,
        },
        "eps": eps,
        "norm": norm,
        "seed": data.seed,
        "classes": classes,
        "dimensions": found.dimensions,
        "versions": versions(),
        "jacobians": measured,
    }
    if as_json:
        print_json(document)
    else:
        _print(document)
    if target.is_hardened:
        click.echo(OWN_SLOPES, err=True)


MEASURES = {
    "Frobenius norm": ("frobenius_norm",),
    "spectral norm": ("spectral_norm",),
    "cosine of a pair": ("pairs", "cosine"),
    "spectral ratio of a pair": ("pairs", "spectral_ratio"),
}
SPEARMAN = "spearman_with_joint_success"
SHOWN = ("mean", "p5", "p25", "median", "p75", "p95")


def _print(document: dict[str, Any]) -> None:
    """Print a table of the samples and pairs, and one of all of them together."""
    records = document["jacobians"]
    slopes = [
        record["backward"] + (f" {record['tau']:g}" if record["tau"] else "") for record in records
    ]
    rows = [["measure", "slopes", *SHOWN]]
    for what, keys in MEASURES.items():
        for record, name in zip(records, slopes, strict=True):
            found = record
            for key in keys:
                found = found[key]
            rows.append([what, name, *(_number(found[column]) for column in SHOWN)])
    print_table(rows)
    together = [_together(record) for record in records]
    print_table(
        [
            ["all samples", *slopes],
            *([what, *(column[what] for column in together)] for what in together[0]),
        ]
    )
    click.echo(
        "The bounds are of what one perturbation of all samples does to the logits, to first "
        "order: a large one can do more. SGD-UAP is made of the very samples. Joint success is of "
        "pairs that are classified correctly."
    )


def _together(record: dict[str, Any]) -> dict[str, str]:
    """Return what one backward pass came to, by its name."""
    stacked, pairs = record["stacked"], record["pairs"]
    told = "" if stacked["converged"] else ", not converged"
    rate = "none is classified correctly"
    if pairs["joint_success"] is not None:
        success = share_text(pairs["joint_success"], pairs["joint_success_ci95"])
        rate = f"{pairs['both_fooled']} of {pairs['both_correct']}, {success}"
    universal = record["universal"]
    return {
        "σ_max, stacked": f"{_number(stacked['sigma_max'])} ({stacked['steps']} steps{told})",
        "Frobenius norm, stacked": _number(stacked["frobenius_norm"]),
        "largest l2 size of a perturbation": _number(stacked["l2_size"]),
        "bound of the mean squared change": _number(stacked["mean_squared_change_bound"]),
        "the same by Frobenius norms": _number(stacked["mean_squared_change_frobenius_bound"]),
        "what SGD-UAP reaches": _number(universal["mean_squared_change"]),
        "misclassified with it": share_text(
            universal["evasion_rate"], universal["evasion_rate_ci95"]
        ),
        "joint success of pairs": rate,
        "its rank correlation, cosine": _number(pairs["cosine"][SPEARMAN]),
        "its rank correlation, spectral ratio": _number(pairs["spectral_ratio"][SPEARMAN]),
    }


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4g}"
