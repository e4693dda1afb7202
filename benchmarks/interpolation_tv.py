"""What do interpolation and denoising buy under attacks that know of them?

Each network is attacked as it is, with interpolation in place of its head, with its images
denoised, with half of their pixels dropped, and with several of these, by the attacks of
``onnxfit verify --suite standard``. Those of each column attack all samples that were right, the
one after the other, each what is left; the worst case is over all columns. Points are judged by the
file in ONNX Runtime.

    python benchmarks/interpolation_tv.py measure [--only digits ...]
    python benchmarks/interpolation_tv.py report

``measure`` writes each row into benchmarks/results/interpolation-tv.json as soon as it is done, and
does not repeat it for the same files. A row that comes out more robust is attacked once more.
``report`` writes interpolation-tv.md beside it, and the table of docs/robustness.md.
"""

import argparse
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import interpolation_tv_report
import numpy as np
import torch
from campaigns import attacked
from environment import clean_commit
from images import CIFAR10_EXACT, CIFAR10_TRAIN, DIGITS_TEST, DIGITS_VAL, MNIST, Samples
from interpolation_tv_report import (
    BLACK_BOX,
    DRAWN,
    FEATURES,
    GATES,
    HARDER,
    IFGSM,
    NATIVE,
    STORE,
    TRANSFER,
)
from onnx import ModelProto
from stored_runs import Record, StoredRuns
from trained_networks import RESNET_2B, Model, digits, lenet

import onnxfit
from onnxfit.attacks import APGD, BIM, FAB, Square, TargetedAPGD
from onnxfit.attacks.losses import Loss
from onnxfit.data import from_arrays, sha256_of
from onnxfit.passes.interpolation import Kind
from onnxfit.surrogate_networks.denoising import PAST
from onnxfit.surrogate_networks.interpolation import OWN_HEAD
from onnxfit.verification.environment import versions
from onnxfit.verification.gate import EOT
from onnxfit.verification.suites import Stage, Threat, stages
from onnxfit.verification.target import Target

# The share of pixels kept, and which; runs that judge points behind masks that are drawn.
KEEP, SEED, RUNS = 0.5, 0, 40

Make = Callable[["Case"], ModelProto | Path]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How far the attacks go, of which ``standard`` takes 100 steps and 5000 queries.

    Attributes:
        samples: How many are attacked.
        steps: Of attacks along gradients.
        queries: Of Square; HopSkipJump takes a fifth.
        denoising: Iterations of the denoising, by default 50.
    """

    samples: int = 200
    steps: int = 100
    queries: int = 5000
    denoising: int = 50


PLAIN = "the network"
# Samples computed at a time.
_AT_ONCE = 100
ROWS: Mapping[str, Make] = {
    PLAIN: lambda case: case.model.path,
    "kernel": lambda case: case.interpolated(case.model.path),
    "WNLL": lambda case: case.interpolated(case.model.path, "wnll"),
    "kernel, jump": lambda case: case.interpolated(onnxfit.retrofit(case.model.path, case.jump)),
    "denoised": lambda case: case.denoised(),
    "denoised, half dropped": lambda case: case.denoised(keep=KEEP, seed=SEED),
    "denoised, kernel": lambda case: case.interpolated(case.denoised()),
}


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
        effort: How far the attacks go.
        rows: The names of the forms that it is attacked in; the first is the network as it is.
        draws: Whether it is also attacked behind masks that are drawn at each run.
    """

    title: str
    model: Model
    templates: Samples
    test: Samples
    eps: float
    jump: float
    weight: float
    effort: Effort
    rows: Sequence[str] = tuple(ROWS)
    draws: bool = False

    @property
    def samples(self) -> Samples:
        """Those that are attacked."""
        return self.test.first(self.effort.samples)

    def interpolated(self, model: ModelProto | Path, kind: Kind = "kernel") -> ModelProto:
        """Return a form of the network with interpolation in place of its head."""
        templates = from_arrays(*self.templates.read())
        return onnxfit.interpolate(model, templates, kind=kind, **self.model.normalisation)

    def denoised(self, **mask: Any) -> ModelProto:
        """Return the network behind a denoising."""
        steps = self.effort.denoising
        return onnxfit.denoise(
            self.model.path, self.weight, steps=steps, **mask, **self.model.normalisation
        )

    def target(self, row: str) -> Target:
        """Return the model of a row."""
        return Target(ROWS[row](self), **self.model.normalisation)


def _digits(name: str, title: str, eps: float, *, draws: bool = False) -> Case:
    return Case(
        title=title,
        model=digits(name),
        templates=Samples(DIGITS_VAL, 0, 450),
        test=Samples(DIGITS_TEST, 0, 449),
        eps=eps,
        jump=0.3,
        weight=0.03,
        effort=Effort(),
        draws=draws,
    )


CASES = {
    "digits": _digits("cnn", "Digits", 0.1, draws=True),
    "digits-pgd": _digits("cnn_pgd", "Digits, adversarially trained", 0.2),
    "lenet": Case(
        title="LeNetLike, MNIST",
        model=lenet("baseline"),
        templates=Samples(MNIST, 0, 3000),
        test=Samples(MNIST, 4000, 1000),
        eps=0.1,
        jump=1.0,
        weight=0.1,
        effort=Effort(samples=100, steps=50, queries=2000, denoising=20),
    ),
    "resnet2b": Case(
        title="ResNet-2B, CIFAR-10, adversarially trained",
        model=RESNET_2B,
        templates=Samples(CIFAR10_TRAIN, 0, 2000),
        test=Samples(CIFAR10_EXACT, 0, 549),
        eps=2 / 255,
        jump=0.1,
        weight=0.02,
        effort=Effort(samples=100, steps=20, queries=1000, denoising=20),
    ),
}


def columns(target: Target, case: Case) -> dict[str, list[Stage]]:
    """Return the attacks on a model, those of each column in their order."""
    effort = case.effort
    ifgsm = BIM(eps=case.eps, steps=effort.steps)
    found = {IFGSM: [Stage(name="ifgsm", attack=ifgsm, family="native")]}
    jumps, networks = target.is_hardened, tuple(target.networks)
    for stage in stages(
        "standard",
        Threat(eps=case.eps),
        jumps=jumps,
        transfer=bool(networks),
        steps=effort.steps,
        networks=networks,
        hardened=jumps,
    ):
        attack: Any = stage.attack
        if stage.name in ("square", "hop-skip-jump"):
            queries = effort.queries // (1 if stage.name == "square" else 5)
            attack = dataclasses.replace(attack, queries=queries)
        limited = dataclasses.replace(stage, attack=attack, everyone=False)
        found.setdefault(_column(stage), []).append(limited)
    return found


def _column(stage: Stage) -> str:
    """Return the column that an attack belongs to."""
    if stage.network is None:
        if stage.transfer:
            return TRANSFER
        return {"native": NATIVE, "surrogate": GATES, "black-box": BLACK_BOX}[stage.family]
    if PAST in stage.network:
        return PAST
    return OWN_HEAD if stage.network == OWN_HEAD else FEATURES


def measured(case: Case, row: str, commit: str) -> Record:
    """Attack a network in one form; return what is kept of it."""
    began = time.perf_counter()
    target, source = case.target(row), case.target(PLAIN)
    data = from_arrays(*case.samples.read())
    correct, robust = None, {}
    for column, attacks in columns(target, case).items():
        score = attacked(target, data, attacks, source.twin, batch_size=_AT_ONCE).scores["model"]
        if correct is None:
            correct = _written(score.correct)
        robust[column] = _written(score.robust())
    return {"correct": correct, "robust": robust, **told(case, target, commit, began)}


def measured_draws(case: Case, commit: str) -> Record:
    """Attack a network behind masks drawn at each run; return what is kept of it.

    Gradients and logits are averages over passes (EOT). What comes out is given to the file in many
    runs. The worst of the attacks is chosen for each sample by one half of the runs, and judged by
    the other.
    """
    began = time.perf_counter()
    target = Target(case.denoised(keep=KEEP), **case.model.normalisation)
    data = from_arrays(*case.samples.read())
    [batch] = data.batches(case.effort.samples)
    x, y = torch.from_numpy(batch.x), torch.from_numpy(batch.y)
    how: dict[str, Any] = {"eps": case.eps, "steps": case.effort.steps, "eot": EOT}
    twin, past = target.twin, target.networks[PAST]
    points = {
        "clean": x,
        IFGSM: BIM(**how)(twin, x, y),
        NATIVE: APGD(**how)(twin, x, y),
        PAST: APGD(**how)(past, x, y, judge=twin),
    }
    right = {
        name: np.array([target.predictions(given) == batch.y for _ in range(RUNS)])
        for name, given in points.items()
    }
    runs = np.array([right[name] for name in (IFGSM, NATIVE, PAST)])
    worst = runs[:, : RUNS // 2].mean(axis=1).argmin(axis=0)
    judged = runs[worst, RUNS // 2 :, np.arange(len(worst))]
    return {
        "accuracy": {name: float(each.mean()) for name, each in right.items()},
        "worst": float(judged.mean()),
        "runs": RUNS,
        **told(case, target, commit, began),
    }


def measured_harder(case: Case, row: str, found: Record, commit: str) -> Record:
    """Attack what is left of a form that looks more robust, again and further; return the same."""
    began = time.perf_counter()
    target = case.target(row)
    x, y = case.samples.read()
    left = np.flatnonzero(interpolation_tv_report.worst(found))
    data = from_arrays(x[left], y[left])
    how: dict[str, Any] = {"eps": case.eps, "steps": 100}
    attacks: list[Stage] = []
    losses: tuple[Loss, ...] = ("dlr", "ce")
    for network, loss in itertools.product((None, *target.networks), losses):
        attack = APGD(**how, loss=loss, restarts=2)
        attacks.append(Stage(name="apgd", attack=attack, family="surrogate", network=network))
    for name, last in (("apgd-t", TargetedAPGD(**how)), ("fab-t", FAB(**how))):
        attacks.append(Stage(name=name, attack=last, family="native"))
    square = Square(eps=case.eps, queries=5000)
    attacks.append(Stage(name="square", attack=square, family="black-box", deployed=True))
    robust = attacked(target, data, attacks, batch_size=_AT_ONCE, seed=1).scores["model"].robust()
    counts = {"attacks": len(attacks), "left": len(left), "broken": int((~robust).sum())}
    return {**counts, **told(case, target, commit, began)}


def told(case: Case, target: Target, commit: str, began: float) -> Record:
    """Return what every record says of its making."""
    return {
        "sha256": target.sha256,
        **made_of(case),
        "commit": commit,
        "versions": versions(),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _written(mask: Any) -> str:
    """Return booleans as a digit for each sample."""
    return "".join(map(str, np.asarray(mask, int)))


def made_of(case: Case) -> Record:
    """Return what a network's rows depend on: settings, samples, and the hashes of files."""
    paths = {
        "model": case.model.path,
        "templates": case.templates.path,
        "attacked": case.test.path,
    }
    return {
        "eps": case.eps,
        "jump": case.jump,
        "weight": case.weight,
        **dataclasses.asdict(case.effort),
        "templates": str(case.templates),
        "attacked": str(case.samples),
        **{f"{name}_sha256": sha256_of(path) for name, path in paths.items()},
    }


def measure(only: list[str]) -> Iterator[str]:
    """Attack what is not in the store for the files as they are; yield a line for each row."""
    torch.set_num_threads(1)
    store = StoredRuns(STORE)
    commit = clean_commit("onnxfit", "models", "benchmarks")
    for key in only:
        case = CASES[key]
        if not case.model.path.exists():
            continue
        for name, make in _left_to_do(key, case, store, commit):
            record = make()
            store.add(name, record)
            yield f"{name}: {record['seconds']:.0f} s"


def _left_to_do(
    key: str, case: Case, store: StoredRuns, commit: str
) -> Iterator[tuple[str, Callable[[], Record]]]:
    """Yield what is not in the store for the files as they are: its name, and how to measure it."""
    made = made_of(case).items()

    def missing(name: str) -> bool:
        return not made <= store.runs.get(name, {}).items()

    for row in case.rows:
        if missing(f"{key}/{row}"):
            yield f"{key}/{row}", functools.partial(measured, case, row, commit)
    if case.draws and missing(f"{key}/{DRAWN}"):
        yield f"{key}/{DRAWN}", functools.partial(measured_draws, case, commit)
    rows = interpolation_tv_report.rows_of(store, key, case.rows)
    for row in interpolation_tv_report.more_robust(rows):
        if missing(name := f"{key}/{row}/{HARDER}"):
            yield name, functools.partial(measured_harder, case, row, rows[row], commit)


def main() -> None:
    """Measure, or report what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("measure")
    verb.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="KEY")
    verbs.add_parser("report")
    options = parser.parse_args()
    if options.verb == "measure":
        for line in measure(options.only):
            print(line, flush=True)
    else:
        titles = {key: (case.title, case.rows) for key, case in CASES.items()}
        interpolation_tv_report.write(StoredRuns(STORE), titles)


if __name__ == "__main__":
    main()
