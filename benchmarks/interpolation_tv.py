"""What do interpolation and denoising buy under attacks that know of them?

Each network is attacked as it is, with the kernel in place of its head, with its images denoised,
with half of their pixels dropped, and with several of these. Every column is an attack by itself,
on all samples that were right; the last is the worst case over them. Points are judged by the file
in ONNX Runtime.

    python benchmarks/interpolation_tv.py [--samples 200] [--steps 50] [--queries 2000]
        [--only KEY …] [--write]
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import provenance
from images import CIFAR10_EXACT, CIFAR10_TRAIN, DIGITS_TEST, DIGITS_VAL, MNIST, Samples
from numpy.typing import NDArray
from onnx import ModelProto
from trained_networks import RESNET20, RESNET_2B, Model, digits, lenet

import onnxfit
from onnxfit.attacks import APGD, BIM, Square, TargetedAPGD, Transfer
from onnxfit.data import Dataset, from_arrays
from onnxfit.verification.campaign import Campaign
from onnxfit.verification.headline import percent, points
from onnxfit.verification.statistics import mcnemar, paired_difference, wilson
from onnxfit.verification.suites import Stage, few_backwards
from onnxfit.verification.target import Target

RESULT = Path(__file__).parent / "results" / "interpolation-tv.md"
OWN_HEAD = "own head"
PAST_DENOISING = "past denoising"
FAMILIES = (
    "IFGSM",
    "native",
    "smooth gates",
    OWN_HEAD,
    "features",
    PAST_DENOISING,
    "Square",
    "transfer",
)
# The first row, which the others are compared with.
PLAIN = "the network"
# Iterations, the share of pixels kept, and which.
STEPS, KEEP, SEED = 50, 0.5, 0
CLAIM = (
    "Wang et al. (2018, arXiv 1809.08516) report, of an adversarially trained ResNet-20 on "
    "CIFAR-10 under IFGSM, about 46 % robust accuracy with the linear output and about 69 % with "
    "the interpolating one, with which it was trained. Nothing is trained here."
)
WORDS = (
    "`IFGSM` and `native` (APGD-CE, APGD-T) follow the gradient of the row's own output, `smooth "
    "gates` the same with smooth gates in the place of jumps. `own head` follows the last layer "
    "that the kernel replaced, `features` the smooth kernel over all templates (Sitawarin and "
    "Wagner, 2019), both with smooth gates, too, where there is a jump. `past denoising` passes "
    "the denoising over in the gradient (BPDA, Athalye et al., 2018). `transfer` starts from the "
    "network as it is. *Half dropped* keeps the same half of the pixels in every run (`--tv-keep "
    f"{KEEP:g} --tv-seed {SEED}`), without which no run could be repeated. Difference: worst case "
    "against the network as it is, paired, with its 95 % interval and the exact test."
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, its templates, the samples that it is attacked on, and how far.

    Attributes:
        title: Its name in the table.
        model: Its file.
        templates: Labelled samples to interpolate over.
        test: Others to attack.
        eps: For linf, in pixels from 0 to 1.
        jump: Of the hardened row.
        weight: Of the total variation.
    """

    title: str
    model: Model
    templates: Samples
    test: Samples
    eps: float
    jump: float
    weight: float

    @property
    def rows(self) -> dict[str, Target]:
        """The models that are attacked, by what stands for them in the table."""
        path, normalised = self.model.path, self.model.normalisation
        templates = from_arrays(*self.templates.read())
        hard = onnxfit.retrofit(path, self.jump)
        smooth = onnxfit.denoise(path, self.weight, steps=STEPS, **normalised)
        dropped = onnxfit.denoise(
            path, self.weight, steps=STEPS, keep=KEEP, seed=SEED, **normalised
        )
        models: dict[str, ModelProto | Path] = {
            PLAIN: path,
            "kernel": onnxfit.interpolate(path, templates, **normalised),
            f"kernel, jump {self.jump:g}": onnxfit.interpolate(hard, templates, **normalised),
            f"denoised, weight {self.weight:g}": smooth,
            "denoised, half dropped": dropped,
            "denoised, kernel": onnxfit.interpolate(smooth, templates, **normalised),
        }
        return {name: Target(model, **normalised) for name, model in models.items()}


def _digits(name: str, title: str, eps: float) -> Case:
    return Case(
        title=title,
        model=digits(name),
        templates=Samples(DIGITS_VAL, 0, 450),
        test=Samples(DIGITS_TEST, 0, 449),
        eps=eps,
        jump=0.3,
        weight=0.03,
    )


def _cifar10(title: str, model: Model, eps: float, jump: float) -> Case:
    return Case(
        title=title,
        model=model,
        templates=Samples(CIFAR10_TRAIN, 0, 2000),
        test=Samples(CIFAR10_EXACT, 0, 549),
        eps=eps,
        jump=jump,
        weight=0.02,
    )


CASES = {
    "digits": _digits("cnn", "Digits", 0.1),
    "digits-pgd": _digits("cnn_pgd", "Digits, adversarially trained", 0.2),
    "lenet": Case(
        title="LeNetLike, MNIST",
        model=lenet("baseline"),
        templates=Samples(MNIST, 0, 3000),
        test=Samples(MNIST, 4000, 1000),
        eps=0.1,
        jump=1.0,
        weight=0.1,
    ),
    "resnet20": _cifar10("ResNet-20, CIFAR-10", RESNET20, 0.5 / 255, 0.05),
    "resnet2b": _cifar10("ResNet-2B, CIFAR-10, adversarially trained", RESNET_2B, 2 / 255, 0.1),
}


def families(target: Target, eps: float, steps: int, queries: int) -> dict[str, list[Stage]]:
    """Return the attacks of each column on a model; those that it has no use for are left out."""
    few = few_backwards(target.is_hardened)
    own: list[dict[str, Any]] = [{"eps": eps, "steps": steps, **settings} for settings in few]

    def white_box(settings: Sequence[dict[str, Any]]) -> list[Stage]:
        auto = [Stage(name="apgd-ce", attack=APGD(**s), family="surrogate") for s in settings]
        targeted = TargetedAPGD(**settings[0])
        return [*auto, Stage(name="apgd-t", attack=targeted, family="surrogate")]

    square = Square(eps=eps, queries=queries)
    moved = Transfer(eps=eps, steps=steps, source=torch.nn.Identity())
    found = {
        "IFGSM": [Stage(name="ifgsm", attack=BIM(**own[0]), family="native")],
        "native": white_box(own[:1]),
        "Square": [Stage(name="square", attack=square, family="black-box", deployed=True)],
    }
    if target.is_hardened:
        found["smooth gates"] = white_box(own[1:])
    for network in target.networks:
        column = found.setdefault(_column(network), [])
        column += [stage.through(network) for stage in white_box(own)]
    if target.networks:
        found["transfer"] = [
            Stage(name="transfer", attack=moved, family="black-box", transfer=True)
        ]
    return found


def _column(network: str) -> str:
    """Return the column of the attacks through a surrogate network."""
    if PAST_DENOISING in network:
        return PAST_DENOISING
    return OWN_HEAD if network == OWN_HEAD else "features"


class Row:
    """What is measured of one model.

    Args:
        name: Of the row.
        target: The model.
        source: What transferred points are made on.
        data: The samples.
        stages: The attacks of each column.
    """

    def __init__(
        self,
        name: str,
        target: Target,
        source: Target,
        data: Dataset,
        stages: dict[str, list[Stage]],
    ) -> None:
        self.name = name
        self.robust: dict[str, NDArray[np.bool_]] = {}
        for column, attacks in stages.items():
            campaign = Campaign(
                {"model": target}, data, attacks, sources={"model": source.twin}, batch_size=100
            )
            for _ in campaign.run():
                pass
            self.correct = campaign.scores["model"].correct
            self.robust[column] = campaign.scores["model"].robust()
        self.worst = np.logical_and.reduce(list(self.robust.values()))

    def cells(self, first: "Row") -> list[str]:
        """Return the row of the table; ``first`` is that of the network as it is."""
        shares = [percent(self.robust[f].mean()) if f in self.robust else "–" for f in FAMILIES]
        n, worst = len(self.worst), int(self.worst.sum())
        low, high = wilson(worst, n)
        cells = [self.name, percent(self.correct.mean()), *shares]
        cells.append(f"**{percent(worst / n)}** ({percent(low)} to {percent(high)})")
        return [*cells, self._difference(first)]

    def _difference(self, first: "Row") -> str:
        if first is self:
            return "–"
        more = int((self.worst & ~first.worst).sum())
        less = int((first.worst & ~self.worst).sum())
        n = len(self.worst)
        low, high = map(points, paired_difference(more, less, n))
        return f"{points((more - less) / n)} ({low} to {high}), p = {mcnemar(more, less):.2g}"


def table(case: Case, options: argparse.Namespace) -> list[str]:
    """Attack a network in all forms; return the lines of its section."""
    test = case.test.first(options.samples)
    data = from_arrays(*test.read())
    head = ["model", "clean", *FAMILIES, "worst case", "difference"]
    lines = [
        f"## {case.title}",
        "",
        f"{case.model.path.name}, ℓ∞ eps {case.eps:.4g}; templates {case.templates}; "
        f"attacked {test}.",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    rows: list[Row] = []
    targets = case.rows
    for name, target in targets.items():
        stages = families(target, case.eps, options.steps, options.queries)
        rows.append(Row(name, target, targets[PLAIN], data, stages))
        lines.append(f"| {' | '.join(rows[-1].cells(rows[0]))} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=200, help="of each network")
    parser.add_argument("--steps", type=int, default=50, help="of attacks along gradients")
    parser.add_argument("--queries", type=int, default=2000, help="of Square")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="KEY")
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    lines = ["# Interpolation over templates and less total variation under attack", ""]
    lines += [*provenance(torch.get_num_threads()), "", WORDS, "", CLAIM, ""]
    for key in options.only:
        lines += table(CASES[key], options)
    print("\n".join(lines))
    if options.write:
        RESULT.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
