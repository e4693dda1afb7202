"""Find the jumps that keep most samples right under attack, inside a budget of clean accuracy."""

import contextlib
import dataclasses
import functools
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxfit.calibration.activations import SiteStatistics, measure
from onnxfit.calibration.cache import Cache
from onnxfit.calibration.curve import measure_curve
from onnxfit.calibration.document import Findings, describe, of_sites, warnings
from onnxfit.calibration.measurements import Measurements, Plan, Sample
from onnxfit.calibration.reader import Reader, from_reader
from onnxfit.calibration.refinement import Refined, Strengths, corrected, refine
from onnxfit.calibration.result import Calibration
from onnxfit.calibration.scales import Jump, Scale, jumps, ladder, per_site
from onnxfit.calibration.selection import Race, boundary
from onnxfit.calibration.settings import Settings
from onnxfit.calibration.strengths import strengths_to_try
from onnxfit.calibration.tunable import Tunable
from onnxfit.data import Bounds, Dataset
from onnxfit.errors import DataError
from onnxfit.hardening import retrofit
from onnxfit.twin.jump_relu import jump_relus
from onnxfit.verification.environment import versions
from onnxfit.verification.opening import Samples, opened
from onnxfit.verification.progress import Begin, silent
from onnxfit.verification.suites import FEW_STEPS, Stage, Threat, stages
from onnxfit.verification.target import Target, classes_of

PARITY_SAMPLES = 64
# The settings that say which candidates are attacked, and when.
SEARCH = ("scale", "objective", "strengths", "points", "max_drop", "confidence", "refine")

HARDENED = "The model was hardened already: its jumps were taken back first."
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
        begin: Is called with an amount of work and its name; a context that gives what is called
            with the part that is done.
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
        sites = len({site.site for site in jump_relus(plain.twin)})
        # Every jump that a refinement takes must be inside, however many it tries.
        strictest = corrected(settings.budget, sites) if settings.refine else settings.budget
        needed = strictest.samples_needed
        if data.n < needed:
            raise DataError(
                f"a drop of at most {settings.max_drop:g} can only be shown with {needed} samples "
                f"or more, and there are {data.n}: take more samples or a larger max_drop"
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
        with contextlib.closing(Cache(cache, self._run())) as store:
            statistics, measured = self.prepare(store)
            strengths = self._strengths(statistics, measured)
            findings = self._choose(strengths, measured)
        jumps = measured.plan.jumps_of(findings.candidate)
        document = describe(findings, plain, self._data, settings)
        document["parity"] = dataclasses.asdict(parity)
        document["sites"] = of_sites(jumps, statistics, findings)
        document["warnings"] = [*plain.warnings("model", some), *warnings(document)]
        document["seconds"] = time.perf_counter() - began
        return Calibration(jumps, document, plain.model, plain.folder)

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

    def _statistics(self) -> dict[str, SiteStatistics]:
        """Measure the inputs of all activations before hardening."""
        with self._begin(self._data.n, "activations") as advance:
            return measure(
                self._plain.twin,
                self._data,
                batch_size=self._settings.batch_size,
                by_channel=self._settings.scale == "channel",
                advance=advance,
            )

    def prepare(self, store: Cache) -> tuple[dict[str, SiteStatistics], Measurements]:
        """Measure the inputs of all activations, and prepare to measure candidates.

        Args:
            store: Keeps what is measured.
        """
        settings, statistics = self._settings, self._statistics()
        shapes = {name: site.shape for name, site in statistics.items() if site.shape is not None}
        by_channel = shapes if settings.scale == "channel" else None
        network = Tunable(self._plain, by_channel)

        @functools.cache
        def jumps_of(candidate: float | Strengths) -> dict[str, Jump]:
            return network.rounded(_jumps(settings.scale, statistics, candidate))

        plan = Plan(
            jumps_of=jumps_of,
            spreads={name: float(site.overall.std[0]) for name, site in statistics.items()},
            stages=attacks(settings, self._data.bounds),
            attacks="native" if settings.objective == "paper" else "smooth",
            search=repr([getattr(settings, name) for name in SEARCH]),
            seed=settings.seed,
            batch_size=settings.batch_size,
        )
        sample = chosen_sample(self._data, settings.attack_limit, settings.seed)
        measured = Measurements(network, self._data, sample, plan, store)
        measured.begin = self._begin
        return statistics, measured

    def _strengths(
        self, statistics: Mapping[str, SiteStatistics], measured: Measurements
    ) -> list[float]:
        """Return what to try."""
        settings, before = self._settings, measured.clean(0.0)
        if settings.strengths is not None:
            return [float(strength) for strength in settings.strengths]
        try:
            first = ladder(settings.scale, statistics)
        except ValueError as error:
            raise DataError(f"there is nothing to calibrate: {error}") from error
        return strengths_to_try(
            settings.scale,
            first,
            settings.points,
            lambda strength: settings.budget.allows(before, measured.clean(strength)),
        )

    def _choose(self, strengths: Sequence[float], measured: Measurements) -> Findings:
        """Let those inside the budget race, and measure the curve.

        Raises:
            DataError: None is inside.
        """
        budget, before = self._settings.budget, measured.clean(0.0)
        edge = boundary(strengths, measured, budget)
        if edge < 0:
            raise DataError(f"no jump meets the budget, not even at the strength {strengths[0]:g}")
        heats: list[tuple[int, Sequence[float]]] = []
        race = Race(
            strengths[: edge + 1],
            measured,
            # A larger jump may cost less by chance, so that bisection alone is not enough.
            inside=lambda strength: budget.allows(before, measured.clean(strength)),
            heard=lambda count, left: heats.append((count, left)),
        )
        chosen = race.run()
        refined = (
            self._refined(chosen, strengths[edge], measured) if self._settings.refine else None
        )
        candidate = chosen if refined is None else refined.strengths
        curve = measure_curve(strengths, race, measured)
        # After the curve, whose adversarial points are tried on both.
        worst = measured.with_all_attacks().robust([0.0, candidate], measured.attacked)
        return Findings(
            curve=curve,
            chosen=[point.strength for point in curve].index(chosen),
            candidate=candidate,
            candidates=edge + 1 + (0 if refined is None else refined.tried),
            clean=measured.clean(candidate),
            worst=(worst[0.0], worst[candidate]),
            heats=heats,
            refined=refined,
        )

    def _refined(self, chosen: float, edge: float, measured: Measurements) -> Refined:
        """Look for a strength of each site; those that begin stay where all samples say so."""
        start = (chosen,) * len(measured.plan.jumps_of(chosen))
        highest = math.inf if self._settings.scale == "shared" else 1.0
        refined = refine(start, edge, measured, self._settings.budget, highest)
        found = measured.robust([start, refined.strengths], measured.attacked)
        if int(found[refined.strengths].sum()) > int(found[start].sum()):
            return refined
        return dataclasses.replace(refined, strengths=start, taken=0)


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


def chosen_sample(data: Dataset, limit: int, seed: int) -> Sample:
    """Return the samples that attacks may use: spread over the data, then in random order."""
    x, y = data.spread(limit)
    order = np.random.default_rng(seed).permutation(len(y))
    return Sample(x[order], y[order])
