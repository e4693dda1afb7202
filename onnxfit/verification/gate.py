"""The release gate: attack a model and its baseline, compare, diagnose, judge."""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from onnxfit.data import Bounds, Dataset
from onnxfit.errors import ModelError
from onnxfit.verification import cautions, paper, regression_corpus
from onnxfit.verification.campaign import Campaign, Found, Side
from onnxfit.verification.curve import Curve
from onnxfit.verification.environment import environment, versions
from onnxfit.verification.evidence import Evidence
from onnxfit.verification.exhibits import Gallery
from onnxfit.verification.headline import headline, paper_headline
from onnxfit.verification.latency import measure
from onnxfit.verification.opening import Samples, choose, networks_of, open_targets, opened
from onnxfit.verification.policy import Policy, check_sample_size, judge, verdict
from onnxfit.verification.progress import Begin, silent
from onnxfit.verification.records import compared, curve_records, paper_records, scored
from onnxfit.verification.report_folder import ADVERSARIAL, ReportFolder
from onnxfit.verification.result import SCHEMA_VERSION, Document, Result
from onnxfit.verification.saliency import SaliencyStudy
from onnxfit.verification.settings import Settings
from onnxfit.verification.suites import Stage, Threat, stages
from onnxfit.verification.target import Target, classes_of
from onnxfit.verification.universal_section import universal_section

# Passes that a gradient is averaged over where the model has randomness inside.
EOT = 10
PARITY_SAMPLES = 64


def verify(
    model: ModelProto | str | Path,
    data: Samples,
    *,
    baseline: ModelProto | str | Path | None = None,
    policy: Policy | str | Path | None = None,
    report: str | Path | None = None,
    resume: bool = False,
    regression: str | Path | None = None,
    limit: int | None = None,
    bounds: Bounds = (0.0, 1.0),
    base_dir: str | Path | None = None,
    begin: Begin = silent,
    command: str | None = None,
    **settings: Any,
) -> Result:
    """Attack a model and its baseline with the same samples and budget, and judge the release.

    Gradients come from the twins; what they find counts when the file in ONNX Runtime is fooled.

    Args:
        model: A model or its path, hardened or plain. A plain one is its own baseline.
        data: Labelled samples: a dataset, what :func:`onnxfit.data.open_data` opens, or arrays
            ``(x, y)``.
        baseline: The model before hardening; by default found from the hardened one.
        policy: The rules and settings, or a TOML file of them.
        report: Folder for ``result.json``, ``report.html``, ``junit.xml`` and
            ``adversarial.npz``, made if need be.
        resume: Go on with an unfinished run in that folder.
        regression: An earlier ``adversarial.npz`` to replay first; by default the report's own.
        limit: Take no more samples, where ``data`` is no dataset.
        bounds: Smallest and largest value of a sample, where ``data`` is no dataset.
        base_dir: Folder of the external data of a model that is no path.
        begin: Is called with an amount of work and its name; a context that gives what is called
            with the part that is done.
        command: How to do the same again, for the report.
        **settings: Those of :class:`Policy` and :class:`Settings`: ``suite``, ``eps``, ``norm``,
            ``steps``, ``min_clean``, ``min_robust``, ``max_drop``, ``max_slowdown``,
            ``quantize``, ``mean``, ``std``, ``seed``, ``batch_size`` and ``device``. They go
            before what ``policy`` says.

    Raises:
        DataError: The data, labels, policy or report folder are not what they should be.
        ModelError: A model cannot be read or run, or is no classifier.
        ParityError: A twin and its file disagree.
        UnsupportedOperator: A twin cannot compute a node.
        ValueError: A setting is out of its range.
    """
    rules, chosen = choose(policy, settings)
    targets = open_targets(model, baseline, base_dir, chosen)
    dataset = opened(data, limit, bounds, targets["model"])
    gate = Gate(targets, dataset, chosen, rules, begin)
    gate.command = command
    gate.inputs = [Path(policy)] if isinstance(policy, (str, Path)) else []
    return gate.run(None if report is None else Path(report), resume, regression)


class Gate:
    """A verification of a model on samples.

    Args:
        targets: The model and, where that is another one, its baseline.
        data: The samples.
        settings: How to attack.
        policy: What to keep.
        begin: As in :func:`verify`.

    Attributes:
        command: How to do the same again.
        inputs: Files that are read besides the models and the data.

    Raises:
        DataError: The samples are not for the models, or too few for the policy.
        ModelError: A model is no classifier.
    """

    def __init__(
        self,
        targets: dict[Side, Target],
        data: Dataset,
        settings: Settings,
        policy: Policy,
        begin: Begin,
    ) -> None:
        check_sample_size(policy, data.n, compared="baseline" in targets)
        for side, target in targets.items():
            target.classifier.check(data.shape, side)
        classes = {side: classes_of(target, data) for side, target in targets.items()}
        if len(set(classes.values())) > 1:
            raise ModelError(
                f"the model knows {classes['model']} classes, its baseline {classes['baseline']}"
            )
        self.targets, self.data = targets, data
        self.settings, self.policy, self._begin = settings, policy, begin
        self.command: str | None = None
        self.inputs: list[Path] = []

    def run(
        self, folder: Path | None, resume: bool = False, regression: str | Path | None = None
    ) -> Result:
        """Do everything, and write the report where a folder is given.

        Raises:
            DataError, ModelError, ParityError: As :func:`verify`.
        """
        began = time.perf_counter()
        # Reads all samples, so that bad ones are told before anything is written.
        x = torch.from_numpy(self.data.spread(PARITY_SAMPLES).x)
        document = self._described(x)
        evidence = Evidence(self.targets, self.data, self.settings)
        document["parity"] = self._parity(x, evidence.is_repeatable)
        document["warnings"] += evidence.warnings()
        if not evidence.is_repeatable:
            document["warnings"].append(cautions.not_repeatable(self.targets))
        corpus = self._earlier(folder, regression)
        document["regression"] = None if corpus is None else self._replayed(corpus)
        files = None if folder is None else self._files(folder, resume)
        gallery = Gallery(self.targets, self.data, self.settings.batch_size)
        with contextlib.ExitStack() as stack:
            add = None if files is None else stack.enter_context(files.corpus())
            found: set[int] = set()
            if self.settings.suite == "paper":
                self._follow_paper(document)
            else:
                found = self._attack(document, evidence, gallery, files, add)
            if add is not None and corpus is not None:
                regression_corpus.carry_over(corpus, found, add)
        document["diagnostics"] = [
            dataclasses.asdict(diagnostic) for diagnostic in evidence.diagnose(document)
        ]
        compared_with = self.targets.get("baseline", self.targets["model"])
        timed = measure(self.targets["model"].deployed, compared_with.deployed, x[:1])
        document["latency"] = dataclasses.asdict(timed)
        document["rules"] = judge(self.policy, document)
        document["warnings"] += cautions.unjudged(document)
        document["verdict"] = verdict(document["rules"], document["diagnostics"])
        paper_suite = self.settings.suite == "paper"
        document["headline"] = (paper_headline if paper_suite else headline)(document)
        document["seconds"] = time.perf_counter() - began
        result = Result(document, gallery.exhibits(), gallery.universal)
        if files is not None:
            files.publish(result)
        return result

    def _described(self, x: torch.Tensor) -> Document:
        """Return what is known before anything runs."""
        data, settings = self.data, self.settings
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": None,
            "headline": None,
            "suite": settings.suite,
            "norm": settings.norm,
            "eps": settings.radius,
            "quantize": settings.quantize,
            "model": self.targets["model"].record(),
            "data": {
                "path": data.path,
                "sha256": data.sha256,
                "n": data.n,
                "bounds": list(data.bounds),
                "mean": list(settings.mean),
                "std": list(settings.std),
            },
            "warnings": [
                *cautions.seen_before(self.targets["model"], data),
                *(
                    warning
                    for side, target in self.targets.items()
                    for warning in target.warnings(side, x)
                ),
            ],
            "environment": environment(self.targets["model"], settings.seed, settings.batch_size),
            "command": self.command,
        }

    def _parity(self, x: torch.Tensor, is_repeatable: bool) -> Document | None:
        """Compare twins and files; not where they draw random numbers of their own."""
        if not is_repeatable:
            return None
        found = {side: target.parity(x) for side, target in self.targets.items()}
        return {
            **dataclasses.asdict(found["model"]),
            "baseline": dataclasses.asdict(found["baseline"]) if "baseline" in found else None,
        }

    def _replayed(self, corpus: regression_corpus.Corpus) -> Document:
        """Replay what fooled an earlier release."""
        size = self.settings.batch_size
        still = regression_corpus.replay(self.targets["model"], corpus, size)
        return {"path": corpus.path, "n": corpus.n, "still_adversarial": still}

    def _earlier(
        self, folder: Path | None, given: str | Path | None
    ) -> regression_corpus.Corpus | None:
        """Open what fooled an earlier release."""
        path = folder / ADVERSARIAL if given is None and folder is not None else given
        if path is None or (given is None and not Path(path).exists()):
            return None
        classes = classes_of(self.targets["model"], self.data)
        shape, bounds = self.data.shape, self.data.bounds
        return regression_corpus.read(path, shape, bounds, classes=classes)

    def _files(self, folder: Path, resume: bool) -> ReportFolder:
        """Prepare the folder of the report."""
        models = {
            side: (target.sha256, target.external_data) for side, target in self.targets.items()
        }
        how = {**dataclasses.asdict(self.settings), "bounds": self.data.bounds}
        run = {
            "models": models,
            "data": self.data.sha256,
            "n": self.data.n,
            "settings": how,
            "versions": versions(),
        }
        inputs = [path for target in self.targets.values() for path in target.files]
        inputs += [*self.data.source.files, *self.inputs]
        return ReportFolder(
            folder,
            self.data,
            run,
            resume=resume,
            quantize=self.settings.quantize,
            inputs=inputs,
        )

    def _attack(
        self,
        document: Document,
        evidence: Evidence,
        gallery: Gallery,
        files: ReportFolder | None,
        add: regression_corpus.Add | None,
    ) -> set[int]:
        """Run the attacks of a suite on the model and its baseline, and add up what they did.

        Returns:
            The numbers of the samples that were broken.
        """
        settings = self.settings
        threat = Threat(
            eps=settings.radius,
            norm=settings.norm,
            bounds=self.data.bounds,
            quantize=settings.quantize,
            eot=1 if evidence.is_repeatable else EOT,
        )
        jumps = any(target.has_jumps for target in self.targets.values())
        paired = "baseline" in self.targets
        networks = networks_of(self.targets)
        chosen = stages(
            settings.suite,
            threat,
            jumps=jumps,
            transfer=paired,
            steps=settings.steps,
            networks=networks,
            hardened=any(target.is_hardened for target in self.targets.values()),
        )
        how: dict[str, Any] = {"seed": settings.seed, "batch_size": settings.batch_size}
        campaign = Campaign(
            self.targets, self.data, chosen, journal=None if files is None else files.journal, **how
        )
        campaign.curves = {
            side: Curve(threat, jumps=jumps, scales=campaign.scales, networks=networks, **how)
            for side in self.targets
        }
        study = SaliencyStudy(self.targets, self.data, settings)
        with self._begin(campaign.work, "attacks") as campaign.advance:
            for found in campaign.run():
                gallery.look_at(found, campaign)
                study.look_at(found, campaign)
                if add is not None:
                    add(*_adversarial(found, campaign, chosen))
        document.update(scored(campaign, "model"))
        other = scored(campaign, "baseline") if paired else document
        document["baseline"] = {
            "model": self.targets["baseline" if paired else "model"].record(),
            "is_source": self._is_source,
            **{key: other[key] for key in ("clean", "attacks", "native", "worst_case")},
            "same_as_model": not paired,
        }
        document["difference"] = compared(campaign, "model", "baseline" if paired else "model")
        document["curve"] = curve_records(campaign)
        document["saliency"] = study.record()
        universal = universal_section(
            campaign, threat, settings, is_source=self._is_source, begin=self._begin
        )
        document["universal"] = universal.document
        document["warnings"] += universal.warnings
        gallery.universal = universal.deltas
        evidence.campaign = campaign
        return set(np.flatnonzero(campaign.scores["model"].finder >= 0).tolist())

    @property
    def _is_source(self) -> bool:
        """Whether the model was made of the baseline, as far as is known."""
        model, baseline = self.targets["model"], self.targets.get("baseline")
        return baseline is not None and model.was_made_of(baseline)

    def _follow_paper(self, document: Document) -> None:
        """Run the protocol of the paper: its attacks, its units, its measures."""
        model = self.targets["model"]
        plain = self.targets.get("baseline", model)
        settings = self.settings
        how: dict[str, Any] = {"eps": settings.radius, "steps": settings.steps or paper.STEPS}
        attacks: dict[Side, list[Document]] = {}
        for side, target in self.targets.items():
            with self._begin(self.data.n, f"the paper's attacks on the {side}") as advance:
                batches = self.data.batches(paper.BATCH)
                attacks[side] = paper.run(target, plain, batches, advance=advance, **how)
        document.update(paper_records(self.targets, attacks, self.data))


def _adversarial(
    found: Found, campaign: Campaign, chosen: list[Stage]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.intp], list[str]]:
    """Return what fools the model in a shard, with labels, places in the data and attacks."""
    rows = np.arange(found.start, found.start + len(found.x))
    finder = campaign.scores["model"].finder[rows]
    broken = finder >= 0
    names = [f"{chosen[i].name} {chosen[i].backward}" for i in finder[broken]]
    return found.points["model"][broken], found.y[broken], rows[broken], names
