"""What does each term of a fine-tuning bring, alone and with a jump? Do the papers' claims hold?

A network is trained with each method of ``onnxfit finetune``, without and with a jump at every
site. Judged are the network as it is, with the jump alone, and after each training, on images that
neither trained nor chose: clean accuracy; accuracy by native gradients alone and in the worst case
of the suite ``quick``; the share of images that a universal perturbation of the validation images
turns wrong; the mean ‖J‖_F; accuracy under images that were made on other networks.

The jump is the shared one that ``onnxfit calibrate`` takes on the validation images. The weight of
a method is chosen on the first network: of those tried, the one with which the training keeps the
highest sum of clean and robust accuracy on the validation images. On the others the weight of
``jacobian`` is multiplied by the quotient of the mean ‖J‖²_F of both networks before, to one digit,
so that it begins as the same part of the loss. ``j-sigr`` has half of it everywhere.

    python benchmarks/finetune.py measure [--only lenet] [--folder FOLDER] [--write]
    python benchmarks/finetune.py report

``measure`` writes each run into benchmarks/results/finetune.json as soon as it is done, and does
not repeat it for the same files; trained networks stay in the folder, build/finetune unless it is
named. ``report`` writes benchmarks/results/finetune.md.
"""

import argparse
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import finetune_report
import torch
from environment import clean_commit, processor
from finetune_cases import MAX_DROP, NETWORKS, TRIED, Network, Way
from finetune_judge import Judge, norms, whole
from paper_results import Record, Results
from trained_networks import ROOT

import onnxfit
from onnxfit.verification.environment import versions

FOLDER = ROOT / "build" / "finetune"
# Validation images that are attacked by a calibration, and at each check of a training.
CALIBRATED_ON, CHECKED_ON = 300, 200


class Comparison:
    """The runs of one network.

    Args:
        network: Which.
        results: Where runs are kept.
        folder: Where trained networks are.
    """

    def __init__(self, network: Network, results: Results, folder: Path) -> None:
        self._network, self._results, self._folder = network, results, folder

    def run(self) -> None:
        """Train and judge in every way that is not kept yet."""
        jump = self._jump
        self._judged(Way())
        self._judged(Way(jump=jump))
        for method in TRIED:
            weight = self._weight(method)
            self._judged(Way(method, weight))
            self._judged(Way(method, weight, jump))

    # ---- choices ----

    @property
    def _jump(self) -> float:
        """The jump that a calibration takes."""
        network = self._network

        def calibrate() -> dict[str, Any]:
            found = onnxfit.calibrate(
                network.model.path,
                network.data("validation"),
                max_drop=MAX_DROP,
                eps=network.eps,
                attack_limit=CALIBRATED_ON,
                points=8,
                **network.normalised,
            )
            return {"jump": found.document["strength"], "improves": found.improves}

        jump: float = self._kept("jump", calibrate)["jump"]
        return jump

    def _weight(self, method: str) -> float:
        """The weight of a method; what was kept of all that were tried is in the results."""
        if method == "j-sigr":
            return self._weight("jacobian") / 2
        first = NETWORKS[0]
        if self._network is first:
            trained = {weight: self._trained(Way(method, weight)) for weight in TRIED[method]}
            return max(trained, key=lambda weight: worth(trained[weight]))
        given = Comparison(first, self._results, self._folder)
        weight = given._weight(method)
        if method != "jacobian":
            return weight
        return float(f"{weight * given._steepness / self._steepness:.1g}")

    @property
    def _steepness(self) -> float:
        """The mean ‖J‖²_F of the network as it is, on the validation images."""
        return float(self._kept("steepness", self._measure_steepness)["mean_square"])

    def _measure_steepness(self) -> dict[str, Any]:
        x, _ = whole(self._network, "validation")
        return {"mean_square": float((norms(self._network.model.open(), x) ** 2).mean())}

    # ---- runs ----

    def _kept(self, name: str, run: Callable[[], dict[str, Any]]) -> Record:
        """Return what is kept of a run for these files, after it was made if need be."""
        key, hashes = f"{self._network.key}/{name}", self._network.hashes
        record = self._results.runs.get(key)
        if record is None or record["sha256"] != hashes:
            began, wall = time.process_time(), time.perf_counter()
            found = run()
            record = {
                "network": self._network.key,
                "sha256": hashes,
                "commit": clean_commit("onnxfit", "models"),
                "versions": versions(),
                "processor": processor(),
                "threads": torch.get_num_threads(),
                "seconds": round(time.process_time() - began, 1),
                **found,
            }
            self._results.add(key, record)
            print(f"{key}: {time.perf_counter() - wall:.0f} s", flush=True)
        return record

    def _trained(self, way: Way) -> Record:
        return self._kept(f"trained/{way}", lambda: self._train(way))

    def _train(self, way: Way) -> dict[str, Any]:
        """Train, and keep the file if there is one."""
        network = self._network
        found = onnxfit.finetune(
            network.model.path,
            network.data("train"),
            network.data("validation"),
            methods={way.method: way.weight},
            jump=way.jump,
            eps=network.eps,
            max_drop=MAX_DROP,
            epochs=network.epochs,
            learning_rate=network.learning_rate,
            validation_limit=CHECKED_ON,
            **network.normalised,
        )
        if found.model is not None:
            path = self._path(way)
            path.parent.mkdir(parents=True, exist_ok=True)
            onnxfit.save(found.model, path)
        after = found.document["after"]
        shares = None if after is None else {key: after[key]["accuracy"] for key in after}
        return {**described(way), "epochs": network.epochs, "validation": shares}

    def _path(self, way: Way) -> Path:
        return self._folder / self._network.key / f"{way}.onnx".replace(" ", "-").replace(",", "")

    def _file(self, way: Way) -> Path | None:
        """Return the file of a way, made if need be; None where no training kept the budget."""
        path = self._path(way)
        if way == Way():
            return self._network.model.path
        if not way.method:
            path.parent.mkdir(parents=True, exist_ok=True)
            hard = onnxfit.retrofit(self._network.model.path, way.jump)
            onnxfit.save(hard, path)
        elif self._trained(way)["validation"] is None:
            return None
        elif not path.exists():
            self._train(way)
        return path

    def _judged(self, way: Way) -> None:
        def judge() -> dict[str, Any]:
            path = self._file(way)
            found = {"kept": False} if path is None else {"kept": True, **self._judge.measure(path)}
            trained = self._trained(way) if way.method else None
            return {**described(way), **found, "training": trained and trained["seconds"]}

        self._kept(f"judged/{way}", judge)

    @cached_property
    def _judge(self) -> Judge:
        tuned = self._file(Way("adversarial", *TRIED["adversarial"]))
        if tuned is None:
            raise SystemExit(f"{self._network.key}: no adversarial training kept the budget")
        return Judge(self._network, tuned)


def described(way: Way) -> dict[str, Any]:
    """Return a way for JSON."""
    return {"method": way.method, "weight": way.weight, "jump": way.jump}


def worth(trained: Record) -> float:
    """Return what a training kept: clean and robust accuracy together; −1 where it kept nothing."""
    shares = trained["validation"]
    return -1.0 if shares is None else shares["clean"] + shares["robust"]


def main() -> None:
    """Measure, or report what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("measure")
    verb.add_argument("--only", default="", help="part of a network's key")
    verb.add_argument("--folder", type=Path, default=FOLDER, help="for the trained networks")
    verb.add_argument("--write", action="store_true", help="then report")
    verbs.add_parser("report")
    options = parser.parse_args()
    results = Results(finetune_report.STORE)
    if options.verb == "measure":
        torch.set_num_threads(1)
        for network in NETWORKS:
            if options.only in network.key and network.model.path.exists():
                Comparison(network, results, options.folder).run()
    if options.verb == "report" or options.write:
        finetune_report.write(results)


if __name__ == "__main__":
    main()
