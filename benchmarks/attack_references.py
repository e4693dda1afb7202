"""Do the attacks find as much as the reference implementations?

First table, where ONNXFIT_AUTOATTACK names a folder with the reference AutoAttack's package: robust
accuracy under the four attacks of its ``standard``, ours and the reference's. Second table: median
perturbations of DeepFool and Carlini-Wagner beside Foolbox's, of the images that are classified
rightly; infinite where an attack found nothing.

    python benchmarks/attack_references.py [--samples 200] [--only lenet] [--distances]
                                           [--attack deepfool] [--write]

Carlini-Wagner takes hours on 200 images of the larger networks: ``--distances`` leaves the first
table out, and ``--attack`` chooses from the second, so that it can be measured on fewer images.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from attack_throughput import (
    LENET,
    RESNET20,
    RESNET_2B,
    RESULTS,
    VIT,
    Case,
    Chain,
    accuracy,
    head,
    ours,
    run_reference,
    told,
)
from environment import provenance
from published import publish

CASES = (LENET, RESNET20, RESNET_2B, VIT)


def accuracy_rows(case: Case, samples: int) -> Iterator[str]:
    """Compare robust accuracies on a network; yield the rows of the table."""
    module, (x, y) = case.module(), case.samples(samples)
    for eps in case.radii:
        chain, theirs = Chain(module, x, y), Chain(module, x, y)
        for name, attack in ours(eps).items():
            chain.attack(attack)
            theirs.attack(partial(run_reference, name, eps=eps))
        robust, reference = chain.robust, theirs.robust
        more = int((robust & ~reference).sum())
        cells = [f"{case.name}, {eps * 255:.3g}/255", f"{accuracy(module, x, y):.1%}"]
        cells += [f"{r.double().mean():.1%}" for r in (robust, reference)]
        cells += [str(more), str(int((~robust & reference).sum()))]
        yield "| " + " | ".join(cells) + " |"


def median_length(module: Any, points: Any, x: Any, y: Any, norm: str) -> tuple[float, float]:
    """Return the median perturbation of what was right before, and the share that was broken."""
    with torch.no_grad():
        right = module(x).argmax(1) == y
        broken = module(points).argmax(1) != y
    moved = (points.double() - x.double()).flatten(1)[right].numpy()
    lengths = np.abs(moved).max(1) if norm == "linf" else np.sqrt((moved**2).sum(1))
    lengths[~broken[right].numpy()] = np.inf
    return float(np.median(lengths)), float(broken[right].double().mean())


def pairs() -> Iterator[tuple[str, str, Any, Any]]:
    """Yield names, norms and attacks, ours and Foolbox's, with the same settings."""
    from foolbox.attacks.carlini_wagner import L2CarliniWagnerAttack
    from foolbox.attacks.deepfool import L2DeepFoolAttack, LinfDeepFoolAttack

    from onnxfit.attacks import CarliniWagner, DeepFool

    yield "DeepFool", "linf", DeepFool(norm="linf"), LinfDeepFoolAttack(steps=50)
    yield "DeepFool", "l2", DeepFool(norm="l2"), L2DeepFoolAttack(steps=50)
    own = CarliniWagner(steps=300, binary_search_steps=6)
    yield (
        "Carlini-Wagner",
        "l2",
        own,
        L2CarliniWagnerAttack(binary_search_steps=6, steps=300),
    )


def length_rows(case: Case, samples: int, attack: str) -> Iterator[str]:
    """Compare minimal perturbations on a network; yield the rows of the table."""
    from foolbox.models.pytorch import PyTorchModel

    module, (x, y) = case.module(), case.samples(samples)
    model = PyTorchModel(module, bounds=(0, 1), device="cpu")
    for name, norm, own, other in pairs():
        if attack.lower() not in name.lower():
            continue
        length, broken = median_length(module, own(module, x, y), x, y, norm)
        points = other(model, x, y, epsilons=None)[1]
        their_length, their_broken = median_length(module, points, x, y, norm)
        cells = [case.name, name, norm, f"{length:.5f}", f"{their_length:.5f}"]
        cells += [f"{length / their_length:.3f}", f"{broken:.1%}", f"{their_broken:.1%}"]
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a network's name")
    parser.add_argument("--distances", action="store_true", help="the second table alone")
    parser.add_argument("--attack", default="", help="part of an attack's name in that table")
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    cases = [case for case in CASES if options.only.lower() in case.name.lower()]
    lines = told(
        ["# The attacks beside reference implementations", "", *provenance(options.threads)]
    )
    folder = os.environ.get("ONNXFIT_AUTOATTACK")
    if folder and not options.distances:
        sys.path.insert(0, folder)
        heading = f"AutoAttack's standard, {options.samples} images, robust accuracy:"
        columns = ["network, eps", "clean", "onnxfit", "reference"]
        columns += ["robust here alone", "robust there alone"]
        lines += told(["", heading, *head(*columns)])
        for case in cases:
            lines += told(accuracy_rows(case, options.samples))
    columns = ["network", "attack", "norm", "median: onnxfit", "Foolbox", "ratio"]
    columns += ["broken: onnxfit", "Foolbox"]
    lines += told(["", f"Smallest perturbations, {options.samples} images:", *head(*columns)])
    for case in cases:
        lines += told(length_rows(case, options.samples, options.attack))
    if options.write:
        publish(RESULTS / "attack_references.md", lines)


if __name__ == "__main__":
    main()
