"""Find the jumps that keep most samples right under attack, inside a budget of clean accuracy."""

import contextlib
import dataclasses
import functools
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from onnx import ModelProto

from onnxfit import passes
from onnxfit.calibration.activations import SiteStatistics
from onnxfit.calibration.at_most import AtMost
from onnxfit.calibration.cache import Cache
from onnxfit.calibration.document import Document, describe, of_sites, warnings
from onnxfit.calibration.kept_statistics import kept_or_measured
from onnxfit.calibration.measurements import Attacks, Measurements, Plan, Sample, numbers_of
from onnxfit.calibration.reader import Reader, from_reader
from onnxfit.calibration.refinement import Strengths, corrected
from onnxfit.calibration.result import Calibration
from onnxfit.calibration.scales import (
    Jump,
    Scale,
    first_strength,
    highest_strength,
    jumps,
    per_site,
)
from onnxfit.calibration.search import Search
from onnxfit.calibration.settings import Settings
from onnxfit.calibration.strengths import MOST_ASKED
from onnxfit.calibration.tunable import Tunable
from onnxfit.calibration.work import Work
from onnxfit.data import Bounds, Dataset
from onnxfit.errors import DataError
from onnxfit.hardening import retrofit
from onnxfit.json_values import fingerprint
from onnxfit.twin.jump_relu import jump_relus
from onnxfit.verification.environment import versions
from onnxfit.verification.opening import Samples, opened
from onnxfit.verification.progress import Begin, silent
from onnxfit.verification.suites import FEW_STEPS, Stage, Threat, stages
from onnxfit.verification.target import Target, classes_of

PARITY_SAMPLES = 64
# Of an attack, where the settings name none.
STEPS = 20
# The settings that say which candidates are attacked, and when.
SEARCH = ("scale", "objective", "strengths", "points", "max_drop", "confidence", "refine")

HARDENED = "The model was hardened already: its jumps were taken back first."
UNLEARNT = (
    "Before hardening {:.1%} of the samples are right, and naming the most frequent class for all "
    "would be right for {:.1%}: are labels, --mean and --std those of the model?"
)
UNLABELLED = (
    "The samples have no labels: what counts as right is the class that the model named before "
    "hardening."
)


def calibrate(
    model: ModelProto | str | Path,
    data: Samples | Reader,
    *,
    limit: int | None = None,
    bounds: Bounds = (0.0, 1.0),
    base_dir: str | Path | None = None,
    cache: str | Path | None = None,
    begin: Begin = silent,
    **settings: Any,
) -> Calibration:
    """Find the jumps that keep most samples right under attack, inside a budget.

    Args:
        model: A model or its path. The jumps of a hardened one are taken back first.
        data: Labelled validation samples: a dataset, what :func:`onnxfit.data.open_data` opens,
            or arrays ``(x, y)``. Or a ``CalibrationDataReader`` of ``onnxruntime.quantization``:
            it has no labels, so that the class that the model names before hardening counts as
            right. Keep other samples to verify the result with.
        limit: Take no more samples, where ``data`` is no dataset.
        bounds: Smallest and largest value of a sample, where ``data`` is no dataset.
        base_dir: Folder of the external data of a model that is no path.
        cache: A file that keeps what is measured, so that the next call goes on from there.
        begin: Is called with 0 and a name; a context that gives what is told, in seconds, of the
            time that went by and of the whole at most, and of what is done next.
        **settings: Those of :class:`onnxfit.calibration.settings.Settings`: ``max_drop``,
            ``confidence``, ``scale``, ``objective``, ``eps``, ``norm``, ``steps`` and more.

    Returns:
        The jumps by site, which :func:`onnxfit.retrofit` takes, and what they buy.

    Raises:
        DataError: The samples are not for the model, or too few for the budget; or no jump meets
            it.
        ModelError: The model cannot be read or run, is no classifier, or has no site.
        ParityError: The twin and its file disagree.
        UnsupportedOperator: The twin cannot compute a node.
        ValueError: A setting is out of its range.
    """
    chosen = Settings(**settings)
    given, plain = _opened_model(model, base_dir, chosen)
    store = None if cache is None else Path(cache)
    with contextlib.ExitStack() as stack:
        if isinstance(data, Reader):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            dataset = from_reader(data, plain, folder, limit=limit, bounds=bounds)
        else:
            dataset = opened(data, limit, bounds, plain)
        found = Calibrator(plain, dataset, chosen, begin).run(store)
    if given is not plain:
        found.document["model"]["path"] = given.path
        found.document["warnings"].append(HARDENED)
    if isinstance(data, Reader):
        found.document["warnings"].append(UNLABELLED)
    return found


def _opened_model(
    model: ModelProto | str | Path, base_dir: str | Path | None, settings: Settings
) -> tuple[Target, Target]:
    """Open a model; return it, and the network before hardening, which may be the same.

    Raises:
        ModelError: There is nothing to harden.
    """
    how: dict[str, Any] = {
        "mean": settings.mean,
        "std": settings.std,
        "device": settings.device,
    }
    target = Target(model, base_dir, **how)
    passes.refuse(target.model, "restore it first")
    if target.jumps:
        return target, target.unhardened()
    retrofit(target.model, 0.0)
    return target, target


class Calibrator:
    """A calibration of a network on samples.

    Args:
        plain: The network before hardening.
        data: The validation samples.
        settings: The budget, the scale, the attacks.
        begin: As in :func:`calibrate`.

    Raises:
        DataError: The samples are not for the model, or too few for the budget.
        ModelError: The model is no classifier.
    """

    def __init__(self, plain: Target, data: Dataset, settings: Settings, begin: Begin) -> None:
        self._sites = len({site.site for site in jump_relus(plain.twin)})
        # Every jump that a refinement takes must be inside, however many it tries.
        strictest = corrected(settings.budget, self._sites) if settings.refine else settings.budget
        needed = strictest.samples_needed
        if data.n < needed:
            fewer = settings.budget.samples_needed
            refined = f" with a refinement ({fewer} without)" if fewer < needed else ""
            raise DataError(
                f"a drop of at most {settings.max_drop:g} can only be shown with {needed} samples "
                f"or more{refined}, and there are {data.n}: take more samples or a larger max_drop"
            )
        plain.classifier.check(data.shape)
        classes_of(plain, data)
        self._plain, self._data, self._settings, self._begin = plain, data, settings, begin

    def run(self, cache: Path | None = None) -> Calibration:
        """Measure, choose and describe.

        Raises:
            DataError, ModelError, ParityError: As :func:`calibrate`.
        """
        began = time.perf_counter()
        settings, plain = self._settings, self._plain
        # Reads all samples, so that bad ones are told at once.
        some = self._data.spread(PARITY_SAMPLES).x
        parity = plain.parity(some)
        with (
            contextlib.closing(Cache(cache, self._run())) as store,
            self._begin(0.0, "activations") as advance,
        ):
            at_most, work = self._at_most(), Work(settings.steps or STEPS, advance)
            work.expect(lambda: at_most.search(MOST_ASKED) + Counter({"statistics": self._data.n}))
            statistics, measured = self.prepare(store, work)
            search = Search(
                settings=settings,
                sites=self._sites,
                budget=dataclasses.replace(settings.budget, labels=self._data.labels),
                first_strength=self._first_strength(statistics),
                highest_strength=highest_strength(settings.scale, statistics),
                at_most=at_most,
                work=work,
            )
            findings = search.run(measured)
            work.expect(dict)
        jumps = measured.plan.jumps_of(findings.candidate)
        document = describe(findings, plain, self._data, settings)
        document["parity"] = dataclasses.asdict(parity)
        document["sites"] = of_sites(jumps, statistics, findings)
        document["warnings"] = [*plain.warnings("model", some), *warnings(document)]
        document["warnings"] += self._unlearnt(document)
        document["seconds"] = time.perf_counter() - began
        return Calibration(jumps, document, plain.model, plain.folder)

    def _unlearnt(self, document: Document) -> list[str]:
        """Say where the network is no better than naming one class for all."""
        most = float(np.bincount(self._data.labels).max()) / self._data.n
        accuracy = document["before"]["clean"]["accuracy"]
        return [UNLEARNT.format(accuracy, most)] if accuracy <= most else []

    def _run(self) -> dict[str, Any]:
        """Return what every measurement depends on."""
        given = dataclasses.asdict(self._settings)
        ways = ["eps", "norm", "steps", "quantize", "attack_limit", "mean", "std", "seed"]
        return {
            "model": (self._plain.sha256, self._plain.external_data),
            "data": (self._data.sha256, self._data.n, self._data.bounds),
            "settings": {name: given[name] for name in (*ways, "batch_size", "device")},
            "versions": versions(),
        }

    def _at_most(self) -> AtMost:
        """Return what tells how much is left."""
        settings, data = self._settings, self._data
        made, given = attacks(settings, data.bounds), settings.strengths
        return AtMost(
            samples=data.n,
            attacked=min(settings.attack_limit, data.n),
            strengths=settings.points if given is None else len(given),
            sites=self._sites if settings.refine else 0,
            race=attacks_of(settings),
            stages={kind: len(numbers_of(made, kind)) for kind in get_args(Attacks)},
        )

    def _first_strength(self, statistics: Mapping[str, SiteStatistics]) -> float:
        """Return a strength to try first.

        Raises:
            DataError: No jump changes anything.
        """
        try:
            return first_strength(self._settings.scale, statistics)
        except ValueError as error:
            if self._settings.strengths is not None:
                return self._settings.strengths[0]
            raise DataError(f"there is nothing to calibrate: {error}") from error

    def prepare(
        self, store: Cache, work: Work | None = None
    ) -> tuple[dict[str, SiteStatistics], Measurements]:
        """Measure the inputs of all activations, and prepare to measure candidates.

        Args:
            store: Keeps what is measured.
            work: Is told of what is done.
        """
        work = Work() if work is None else work
        settings, by_channel = self._settings, self._settings.scale == "channel"
        work.start()
        statistics = kept_or_measured(
            self._plain.twin,
            self._data,
            store,
            batch_size=settings.batch_size,
            by_channel=by_channel,
            advance=functools.partial(work.did, "statistics"),
        )
        shapes = {name: site.shape for name, site in statistics.items() if site.shape is not None}
        network = Tunable(self._plain, shapes if by_channel else None)

        @functools.cache
        def jumps_of(candidate: float | Strengths) -> dict[str, Jump]:
            return network.rounded(_jumps(settings.scale, statistics, candidate))

        plan = Plan(
            jumps_of=jumps_of,
            spreads={name: float(site.overall.std[0]) for name, site in statistics.items()},
            stages=attacks(settings, self._data.bounds),
            attacks=attacks_of(settings),
            search=fingerprint({name: getattr(settings, name) for name in SEARCH}),
            seed=settings.seed,
            batch_size=settings.batch_size,
        )
        sample = chosen_sample(self._data, settings.attack_limit, settings.seed)
        return statistics, Measurements(network, self._data, sample, plan, store, work)


def _jumps(
    scale: Scale, statistics: Mapping[str, SiteStatistics], candidate: float | Strengths
) -> dict[str, Jump]:
    """Return the jumps of a strength, or of one for each site."""
    if isinstance(candidate, tuple):
        return per_site(scale, dict(zip(statistics, candidate, strict=True)), statistics)
    return jumps(scale, candidate, statistics)


def attacks(settings: Settings, bounds: Bounds) -> list[Stage]:
    """Return the attacks of the suite quick that follow gradients for many steps."""
    threat = Threat(
        eps=settings.radius, norm=settings.norm, bounds=bounds, quantize=settings.quantize
    )
    suite = stages("quick", threat, jumps=True, transfer=False, steps=settings.steps)
    return [stage for stage in suite if stage.needs_gradients and stage.name != FEW_STEPS]


def attacks_of(settings: Settings) -> Attacks:
    """Return which of them candidates are compared by."""
    return "native" if settings.objective == "paper" else "smooth"


def chosen_sample(data: Dataset, limit: int, seed: int) -> Sample:
    """Return the samples that attacks may use: spread over the data, then in random order."""
    x, y = data.spread(limit)
    order = np.random.default_rng(seed).permutation(len(y))
    return Sample(x[order], y[order])
