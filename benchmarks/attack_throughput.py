"""Are the attacks faster than other libraries', at the same strength?

First table: PGD-20 of onnxfit, Foolbox and the Adversarial Robustness Toolbox on the same network
with its weights in ordinary layout, the same samples, radius, step and kind of random start, in
turns in one process. *Alive* is the mean share of the samples that onnxfit still gives to the
module: what it gains by dropping broken ones is 1 / alive; the layout in memory gains about 1.25
more on networks of convolutions. The target is 0.9 × 1.25 / alive, in times of Foolbox. *Bound*
is what Foolbox's time would be in times of the module's bare gradients, on as many samples as
were alive in each step and in ordinary layout: more can come only from the layout. All attack
onnxfit's twin, which takes the time of the network written by hand (twin_speed.md), but for the
vision transformer: its twin is faster, so that Foolbox and ART get the network by hand, and a row
more shows them on the twin.

Second table, where ONNXFIT_AUTOATTACK names a folder with the reference AutoAttack's package: the
four attacks of its ``standard``, each on what the earlier ones left, here and there in turns.

    python benchmarks/attack_throughput.py [--rounds 5] [--samples 200] [--only lenet] [--write]

Times are those of the processor, which other programs disturb least.
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trained_networks
import vision_transformer
from environment import provenance
from images import CIFAR10_EXACT, MNIST
from published import publish
from trained_networks import Model, lenet

import onnxfit
from onnxfit.attacks.attack import Attack
from onnxfit.attacks.gradient import PGD
from onnxfit.twin.classifier import Classifier
from onnxfit.twin.preprocessing import Preprocessed

RESULTS = Path(__file__).parent / "results"
STEPS = 20
NOTE = """
Step size eps/8, one random start, interleaved in one process, CPU time. Alive is the mean share of
samples that take part in a step; the target is 0.9 × 1.25 / alive. Bound is Foolbox's time over
that of the gradients of as many samples with respect to the input, in the ordinary layout.
""".replace("\n", " ").strip()
WEIGHTS = {
    False: "The weights ask for gradients, as those of every torch.nn.Module do. Foolbox and ART "
    "compute these in each step; onnxfit asks for the input's alone:",
    True: "The same with `module.requires_grad_(False)`, by which a user spares them that:",
}


@dataclass(frozen=True)
class Case:
    """A network with the images and radii to attack it with.

    Attributes:
        name: For the table.
        model: The file.
        data: The images.
        radii: For linf, in pixels from 0 to 1.
        by_hand: Makes of the file the network that other libraries attack; None: the twin.
    """

    name: str
    model: Model
    data: Path
    radii: tuple[float, ...]
    by_hand: Callable[[Path], Any] | None = None

    def module(self, *, frozen: bool = True) -> Any:
        """Make the twin, from pixels to logits, every activation a Relu.

        Args:
            frozen: Its weights ask for no gradients, unlike those of a module as it comes.
        """
        return self._prepared(Classifier(onnxfit.retrofit(self.model.path, 0.0)), frozen)

    def ordinary(self, *, frozen: bool = True) -> Any:
        """Make what other libraries attack, from pixels to logits, like :meth:`module`."""
        twin = self.module(frozen=frozen)
        if self.by_hand is None:
            return twin
        by_hand = self._prepared(self.by_hand(self.model.path), frozen)
        x, _ = self.samples(100)
        with torch.no_grad():
            torch.testing.assert_close(by_hand(x), twin(x), rtol=1e-4, atol=1e-4)
        return by_hand

    def _prepared(self, network: Any, frozen: bool) -> Any:
        network.requires_grad_(not frozen)
        return Preprocessed(network.eval(), self.model.mean, self.model.std).eval()

    def samples(self, n: int) -> tuple[Any, Any]:
        """Return the first images and their classes."""
        with np.load(self.data) as data:
            x, y = data["x"][:n], data["y"][:n]
        return torch.from_numpy(x).float() / 255, torch.from_numpy(y).long()


LENET = Case("LeNet", lenet("baseline"), MNIST, (0.1,))
RESNET20 = Case("ResNet-20", trained_networks.RESNET20, CIFAR10_EXACT, (1 / 255, 2 / 255))
RESNET_2B = Case("resnet_2b", trained_networks.RESNET_2B, CIFAR10_EXACT, (2 / 255,))
VIT = Case("ViT", trained_networks.VIT, CIFAR10_EXACT, (1 / 255,), vision_transformer.load)
CASES = (LENET, RESNET20, RESNET_2B, VIT)
ON_TWIN = replace(VIT, name="ViT, all on the twin", by_hand=None)


def accuracy(module: Any, points: Any, labels: Any) -> float:
    """Return the share of points that a module classifies rightly."""
    with torch.no_grad():
        return float((module(torch.as_tensor(points)).argmax(1) == labels).double().mean())


def in_turns(runs: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Time runs in turns, each round in another order; return the seconds of each."""
    took: list[list[float]] = [[] for _ in runs]
    for index in range(rounds):
        order = list(range(len(runs)))
        for at in order[index % len(runs) :] + order[: index % len(runs)]:
            start = time.process_time()
            runs[at]()
            took[at].append(time.process_time() - start)
    return took


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def alive_in_steps(module: Any, run: Callable[[], Any]) -> list[int]:
    """Return how many samples take part in each step of PGD."""
    counts: list[int] = []
    hook = module.register_forward_pre_hook(
        lambda _, given: counts.append(len(given[0])) if torch.is_grad_enabled() else None
    )
    run()
    hook.remove()
    return counts


def bare_gradients(module: Any, x: Any, y: Any, counts: Sequence[int]) -> None:
    """Compute gradients of so many samples, and nothing else."""
    for count in counts:
        leaf = x[:count].clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(module(leaf), y[:count])
        torch.autograd.grad(loss, leaf)


def foolbox_pgd(module: Any, x: Any, y: Any, eps: float) -> Callable[[], Any]:
    """Return Foolbox's attack."""
    from foolbox.attacks.projected_gradient_descent import LinfProjectedGradientDescentAttack
    from foolbox.models.pytorch import PyTorchModel

    model = PyTorchModel(module, bounds=(0, 1), device="cpu")
    attack = LinfProjectedGradientDescentAttack(
        steps=STEPS, abs_stepsize=eps / 8, random_start=True
    )
    return lambda: attack(model, x, y, epsilons=eps)[1]


def art_pgd(module: Any, x: Any, y: Any, eps: float) -> Callable[[], Any]:
    """Return the Adversarial Robustness Toolbox's attack."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    from onnxfit.attacks import as_art_classifier

    attack = ProjectedGradientDescentPyTorch(
        as_art_classifier(module, shape=tuple(x.shape[1:])),
        eps=eps,
        eps_step=eps / 8,
        max_iter=STEPS,
        num_random_init=1,
        batch_size=len(x),
        verbose=False,
    )
    return lambda: attack.generate(x.numpy(), y.numpy())


def pgd_rows(case: Case, samples: int, rounds: int, *, frozen: bool) -> Iterator[str]:
    """Measure PGD on a network; yield the rows of the table."""
    module, (x, y) = case.module(frozen=frozen), case.samples(samples)
    ordinary = case.ordinary(frozen=frozen)
    for eps in case.radii:
        attack = PGD(eps=eps, steps=STEPS, step_size=eps / 8)
        runs: list[Callable[[], Any]] = [
            partial(attack, module, x, y),
            foolbox_pgd(ordinary, x, y, eps),
            art_pgd(ordinary, x, y, eps),
        ]
        robust = [accuracy(module, run(), y) for run in runs]
        counts = alive_in_steps(module, runs[0])
        alive = sum(counts) / STEPS / len(x)
        runs.append(partial(bare_gradients, ordinary, x, y, counts))
        took = in_turns(runs, rounds)
        seconds = [statistics.median(times) for times in took]
        over = [ratio(times, took[0]) for times in took[1:3]]
        target = 0.9 * 1.25 / alive
        cells = [f"{case.name}, {eps * 255:.3g}/255", *(f"{share:.1%}" for share in robust)]
        cells += [f"{alive:.2f}", *(f"{1000 * s:.0f}" for s in seconds[:3])]
        cells += [f"{share:.2f}" for share in (ratio(took[1], took[3]), target, *over)]
        yield "| " + " | ".join(cells) + " |"


def ours(eps: float) -> dict[str, Attack]:
    """Return the four attacks of AutoAttack's standard, by the reference's names."""
    from onnxfit.attacks import APGD, FAB, Square, TargetedAPGD

    return {
        "apgd-ce": APGD(eps=eps),
        "apgd-t": TargetedAPGD(eps=eps),
        "fab-t": FAB(eps=eps),
        "square": Square(eps=eps),
    }


def run_reference(name: str, module: Any, x: Any, y: Any, eps: float) -> Any:
    """Run one of the four of the reference implementation; return its points."""
    from autoattack import AutoAttack

    auto = AutoAttack(
        module, norm="Linf", eps=eps, version="standard", device="cpu", seed=0, verbose=False
    )
    auto.attacks_to_run = [name]
    return auto.run_standard_evaluation(x, y, bs=len(x)) if len(x) else x


class Chain:
    """What is left of the samples when attacks follow each other.

    Attributes:
        robust: Which samples no attack has broken, N booleans.
        seconds: Of each attack so far.
    """

    def __init__(self, module: Any, x: Any, y: Any) -> None:
        self.module, self.x, self.y = module, x, y
        with torch.no_grad():
            self.robust = module(x).argmax(1) == y
        self.seconds: list[float] = []

    def attack(self, run: Callable[[Any, Any, Any], Any]) -> None:
        """Attack what is left."""
        left = self.robust.nonzero().squeeze(1)
        start = time.process_time()
        points = run(self.module, self.x[left], self.y[left])
        self.seconds.append(time.process_time() - start)
        with torch.no_grad():
            self.robust[left] &= self.module(points).argmax(1) == self.y[left]


def standard_rows(case: Case, samples: int) -> Iterator[str]:
    """Compare the four attacks on a network; yield the rows of the table."""
    module, ordinary, (x, y) = case.module(), case.ordinary(), case.samples(samples)
    for eps in case.radii:
        chain, theirs = Chain(module, x, y), Chain(ordinary, x, y)
        for name, attack in ours(eps).items():
            chain.attack(attack)
            theirs.attack(partial(run_reference, name, eps=eps))
        total, their_total = sum(chain.seconds), sum(theirs.seconds)
        cells = [f"{case.name}, {eps * 255:.3g}/255"]
        cells += [f"{c.robust.double().mean():.1%}" for c in (chain, theirs)]
        cells += [f"{(chain.robust == theirs.robust).double().mean():.1%}", f"{total:.1f}"]
        cells += [f"{their_total:.1f}", f"{their_total / total:.2f}"]
        pairs = zip(chain.seconds, theirs.seconds, strict=True)
        cells += [f"{b / a:.2f}" if a > 0.1 else "–" for a, b in pairs]
        yield "| " + " | ".join(cells) + " |"


def head(*columns: str) -> list[str]:
    """Return the first two lines of a table."""
    return ["", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]


def told(lines: Iterable[str]) -> list[str]:
    """Print lines as they come, and return them."""
    kept = []
    for line in lines:
        print(line, flush=True)
        kept.append(line)
    return kept


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a network's name")
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    cases = [case for case in CASES if options.only.lower() in case.name.lower()]
    title = ["# The speed of attacks, beside other libraries", "", *provenance(options.threads)]
    title += ["", f"PGD-{STEPS}, {options.samples} images, medians of {options.rounds} rounds."]
    columns = ["network, eps", "robust: onnxfit", "Foolbox", "ART", "alive", "onnxfit, ms"]
    columns += ["Foolbox, ms", "ART, ms", "bound", "target", "Foolbox / onnxfit", "ART / onnxfit"]
    lines = told([*title, "", NOTE])
    for frozen, words in WEIGHTS.items():
        lines += told(["", words, *head(*columns)])
        for case in (*cases, *([ON_TWIN] if VIT in cases else [])):
            lines += told(pgd_rows(case, options.samples, options.rounds, frozen=frozen))
    if folder := os.environ.get("ONNXFIT_AUTOATTACK"):
        sys.path.insert(0, folder)
        columns = ["network, eps", "robust: onnxfit", "reference", "equal verdicts", "onnxfit, s"]
        columns += ["reference, s", "reference / onnxfit", "APGD-CE", "APGD-T", "FAB-T", "Square"]
        heading = "The four attacks of AutoAttack's standard on the plain network:"
        lines += told(["", heading, *head(*columns)])
        for case in cases:
            lines += told(standard_rows(case, options.samples))
    if options.write:
        publish(RESULTS / "attack_throughput.md", lines)


if __name__ == "__main__":
    main()
