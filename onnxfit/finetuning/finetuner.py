"""Train the weights of a model further, and put them back into its file."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto

from onnxfit import passes
from onnxfit.data import Bounds, Dataset
from onnxfit.errors import DataError
from onnxfit.finetuning.augmentation import kinds_for
from onnxfit.finetuning.checkpoint import Checkpoint
from onnxfit.finetuning.course import Course
from onnxfit.finetuning.document import LESS_ROBUST, Document, describe, summary
from onnxfit.finetuning.settings import Settings
from onnxfit.finetuning.trainer import Diverged
from onnxfit.finetuning.weights import choose_weights
from onnxfit.hardening import retrofit
from onnxfit.json_values import fingerprint, finite
from onnxfit.overlap import among
from onnxfit.record import record_finetuning
from onnxfit.twin.write_back import write_back
from onnxfit.verification.environment import versions
from onnxfit.verification.opening import Samples, opened
from onnxfit.verification.progress import Begin, silent
from onnxfit.verification.target import Target, classes_of

PARITY_SAMPLES = 64
# Samples that are read at a time.
_READ = 1024
NOTHING_YET = "No check was inside the budget yet: nothing is written"
SEEN = (
    "{} of the {} validation samples are training samples as well: what the weights are worth on "
    "other data is not known."
)
UNTRAINED = (
    "Not all weights of layers are trained: as masks, or because something else makes them "
    "constants, {} kept their values, {}."
)
# How many of them are named.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning gives.

    Attributes:
        model: The model with the weights of the best check within the budget; None where there
            was none.
        document: What is known of it, as JSON has it.
        interruption: What ended the training early, to be raised again once the model is written.
    """

    model: ModelProto | None
    document: Document
    interruption: KeyboardInterrupt | None = None


def finetune(  # noqa: PLR0913 - the options of the verb
    model: ModelProto | str | Path,
    data: Samples,
    validation: Samples,
    *,
    limit: int | None = None,
    bounds: Bounds = (0.0, 1.0),
    base_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    begin: Begin = silent,
    **settings: Any,
) -> Finetuned:
    """Train the weights of a classifier further so that it withstands attacks.

    Graph, names, opsets and metadata stay; only the values of weights change, and a record of the
    training is added. A BatchNorm keeps its statistics unless ``update_statistics`` is set.

    Args:
        model: A model or its path. A hardened one is trained with its jumps in place.
        data: Labelled training samples: a dataset, what :func:`onnxfit.data.open_data` opens, or
            arrays ``(x, y)``. They are held in memory.
        validation: Other samples: they say which weights are kept.
        limit: Take no more training samples, where ``data`` is no dataset.
        bounds: Smallest and largest value of a sample, where ``data`` is no dataset.
        base_dir: Folder of the external data of a model that is no path.
        checkpoint: A file that keeps the state of the training after every check; it stays.
        resume: Go on from that file, where it exists.
        begin: Is called with the work to be done, in samples, and a name.
        **settings: Those of :class:`onnxfit.finetuning.settings.Settings`: ``methods``, ``eps``,
            ``norm``, ``max_drop``, ``jump``, ``epochs`` and more.

    Raises:
        DataError: The samples are not for the model, of a single class, or too few for a batch.
        KeyboardInterrupt: Nothing was kept before Ctrl-C, which a note of it says where the
            training had begun; else it is in what is returned.
        ModelError: The model cannot be read or run, is no classifier, or has no weight to train;
            or the loss is not finite before any weights could be kept.
        ParityError: The twin and its file disagree.
        TypeError: There is no such setting.
        UnsupportedOperator: The twin cannot compute a node.
        ValueError: A setting is out of its range.
    """
    chosen = Settings(**settings)
    how: dict[str, Any] = {"mean": chosen.mean, "std": chosen.std, "device": chosen.device}
    given = target = Target(model, base_dir, **how)
    if chosen.jump is not None:
        hardened = retrofit(given.model, chosen.jump, base_dir=given.folder)
        target = Target(hardened, given.folder, **how)
    train = opened(data, limit, bounds, target)
    held_out = opened(validation, None, bounds, target)
    tuner = Finetuner(given, target, train, held_out, chosen, begin)
    return tuner.run(None if checkpoint is None else Path(checkpoint), resume=resume)


class Finetuner:
    """A fine-tuning of a model on samples.

    Args:
        given: The model.
        target: The same with the jumps that it gets; its twin is trained.
        train: Its training samples.
        validation: Others, which say which weights are kept.
        settings: How.
        begin: As in :func:`finetune`.

    Raises:
        DataError, ModelError: As :func:`finetune`.
    """

    def __init__(
        self,
        given: Target,
        target: Target,
        train: Dataset,
        validation: Dataset,
        settings: Settings,
        begin: Begin,
    ) -> None:
        self._given, self._target, self._settings, self._begin = given, target, settings, begin
        self._train, self._validation = train, validation
        for each in (train, validation):
            target.classifier.check(each.shape)
            classes_of(target, each)
        if train.bounds != validation.bounds:
            raise DataError(f"the samples are within {train.bounds}, others {validation.bounds}")
        if len(np.unique(train.labels)) < 2:
            raise DataError(f"{train.path}: all samples are of class {train.labels[0]}")
        if train.n < settings.batch_size:
            raise DataError(
                f"{train.path} has {train.n} samples, fewer than a batch of {settings.batch_size}"
            )
        passes.refuse(target.model, "restore it, fine-tune, and apply it again")
        self._choice = choose_weights(target, statistics=settings.update_statistics)
        self._augment = kinds_for(train.shape, settings.augment)
        self._seen = int(among(validation.batches(_READ), train).sum())

    def run(self, checkpoint: Path | None = None, *, resume: bool = False) -> Finetuned:
        """Train, choose, write back and describe.

        Raises:
            KeyboardInterrupt, ModelError, ParityError: As :func:`finetune`.
        """
        began = time.perf_counter()
        some = self._validation.spread(PARITY_SAMPLES).x
        parity = self._target.parity(some)
        run = self._run()
        kept = Checkpoint(checkpoint, run)
        state = kept.load() if resume else None
        course = Course(
            self._given,
            self._target,
            self._train,
            self._validation,
            self._settings,
            self._augment,
        )
        if state is not None:
            course.resume(state)
        stopped, interruption = self._follow(course, kept)
        document = describe(course, self._settings, self._given, self._train, self._validation)
        document["run"], document["stopped"] = run, stopped
        document["epochs"] = course.trainer.epoch
        document["augment"], document["fixed"] = list(self._augment), self._choice.fixed
        complaints = [] if kept.complaint is None else [kept.complaint]
        warnings = self._given.warnings("model", some)
        if course.best is not None and course.best.worth.is_less_robust_than(course.before):
            warnings.append(LESS_ROBUST)
        document["warnings"] = [*warnings, *self._warnings(), *complaints]
        document["environment"] = {
            "versions": versions(),
            "device": str(self._target.device),
            "threads": torch.get_num_threads(),
            "seed": self._settings.seed,
        }
        model = None
        if course.best is not None:
            course.load(course.best)
            target = self._target
            model = write_back(target.model, target.classifier.twin, target.folder)
            record_finetuning(model, self._given.sha256, finite(summary(document)))
            parity = self._written(model).parity(some)
        document["parity"] = dataclasses.asdict(parity)
        document["seconds"] = time.perf_counter() - began
        return Finetuned(model, document, interruption)

    def _follow(self, course: Course, kept: Checkpoint) -> tuple[str, KeyboardInterrupt | None]:
        """Train to the end; return why it ended, and the interruption that did it."""
        settings, epoch = self._settings, course.trainer.epoch
        size = course.trainer.steps_per_epoch * settings.batch_size
        try:
            with self._begin(float((settings.epochs - epoch) * size), "training") as advance:
                while not course.is_over:
                    course.run_epoch(lambda count: advance(count, None, course.words))
                    if course.is_due:
                        course.check()
                        kept.save(course.state())
        except KeyboardInterrupt as interruption:
            if course.best is None:
                interruption.add_note(NOTHING_YET)
                raise
            return "interrupted", interruption
        except Diverged as error:
            if course.best is None:
                raise
            return f"diverged: {error}", None
        return ("no progress" if course.is_stuck else "all epochs"), None

    def _run(self) -> str:
        """Return the fingerprint of what the training depends on."""
        return fingerprint(
            {
                "model": (self._given.sha256, self._given.external_data),
                "data": [(d.sha256, d.n, d.bounds) for d in (self._train, self._validation)],
                "settings": dataclasses.asdict(self._settings),
                "versions": versions(),
            }
        )

    def _warnings(self) -> list[str]:
        """Return what a reader should know of the data and the layers, in sentences."""
        train, validation, found = self._train, self._validation, []
        if untrained := self._choice.untrained:
            names = [repr(name) for name in untrained[:_NAMED]]
            names += ["…"] * (len(untrained) > _NAMED)
            found.append(UNTRAINED.format(len(untrained), ", ".join(names)))
        if self._seen:
            found.append(SEEN.format(self._seen, validation.n))
        if self._settings.max_drop * validation.n < 1:
            found.append(
                f"One of the {validation.n} validation samples is more than a drop of "
                f"{self._settings.max_drop:g}: take more samples or a larger max_drop."
            )
        if missing := sorted({*train.labels.tolist()} - {*validation.labels.tolist()}):
            classes = ", ".join(map(str, missing))
            found.append(f"The validation data has no sample of class {classes}.")
        return found

    def _written(self, model: ModelProto) -> Target:
        """Open what is to be written."""
        settings = self._settings
        return Target(
            model,
            self._target.folder,
            mean=settings.mean,
            std=settings.std,
            device=settings.device,
        )
