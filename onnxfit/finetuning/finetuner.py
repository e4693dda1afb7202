"""Train the weights of a model further, and put them back into its file."""

import copy
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from onnxfit.data import Bounds, Dataset
from onnxfit.errors import DataError, ModelError
from onnxfit.finetuning.checkpoint import Checkpoint
from onnxfit.finetuning.document import Document, Record, describe, summary
from onnxfit.finetuning.settings import Settings
from onnxfit.finetuning.trainer import Diverged, Trainer
from onnxfit.finetuning.validation import Validator, Worth
from onnxfit.hardening import record_finetuning, retrofit
from onnxfit.json_values import fingerprint, finite
from onnxfit.twin.write_back import write_back
from onnxfit.verification.environment import versions
from onnxfit.verification.opening import Samples, opened
from onnxfit.verification.progress import Begin, silent
from onnxfit.verification.target import Target, classes_of

# How often the validation data is attacked on the way.
CHECKS = 20
PARITY_SAMPLES = 64
# The part of the loss that the samples themselves get: at most, and after a check outside the
# budget so much more, after one inside so much less.
MOST_CLEAN, MORE_CLEAN, LESS_CLEAN = 0.5, 0.1, 0.05
INTERRUPTED = "interrupted"


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning gives.

    Attributes:
        model: The model with the weights of the best check within the budget; None where there
            was none.
        document: What is known of it, as JSON has it.
    """

    model: ModelProto | None
    document: Document


def finetune(  # noqa: PLR0913 - the options of the verb
    model: ModelProto | str | Path,
    data: Samples,
    validation: Samples,
    *,
    limit: int | None = None,
    bounds: Bounds = (0.0, 1.0),
    base_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
    begin: Begin = silent,
    **settings: Any,
) -> Finetuned:
    """Train the weights of a classifier further so that it withstands attacks.

    Graph, names, opsets and metadata stay; only the values of weights change, and a record of the
    training is added. A BatchNorm keeps its statistics.

    Args:
        model: A model or its path. A hardened one is trained with its jumps in place.
        data: Labelled training samples: a dataset, what :func:`onnxfit.data.open_data` opens, or
            arrays ``(x, y)``. They are held in memory.
        validation: Other samples: they say which weights are kept.
        limit: Take no more training samples, where ``data`` is no dataset.
        bounds: Smallest and largest value of a sample, where ``data`` is no dataset.
        base_dir: Folder of the external data of a model that is no path.
        checkpoint: A file that keeps the state of the training, so that the next call goes on from
            there; it is deleted in the end, but not where Ctrl-C ended the training.
        begin: Is called with the work to be done, in samples, and a name.
        **settings: Those of :class:`onnxfit.finetuning.settings.Settings`: ``methods``, ``eps``,
            ``norm``, ``max_drop``, ``jump``, ``epochs`` and more.

    Raises:
        DataError: The samples are not for the model, of a single class, or too few for a batch.
        ModelError: The model cannot be read or run, is no classifier, or has no weight to train;
            or the loss is not finite before any weights could be kept.
        ParityError: The twin and its file disagree.
        UnsupportedOperator: The twin cannot compute a node.
        ValueError: A setting is out of its range.
    """
    chosen = Settings(**settings)
    if chosen.jump is not None:
        model, base_dir = _with_jump(model, chosen.jump, base_dir)
    target = Target(model, base_dir, mean=chosen.mean, std=chosen.std, device=chosen.device)
    train = opened(data, limit, bounds, target)
    held_out = opened(validation, None, bounds, target)
    tuner = Finetuner(target, train, held_out, chosen, begin)
    return tuner.run(None if checkpoint is None else Path(checkpoint))


def _with_jump(
    model: ModelProto | str | Path, jump: float, base_dir: str | Path | None
) -> tuple[ModelProto, Path | None]:
    """Return a model with a jump at every site, and the folder of its external data."""
    from onnxfit.files import folder_of

    folder = folder_of(model, base_dir)
    return retrofit(model, jump, base_dir=folder), folder


class Finetuner:
    """A fine-tuning of a model on samples.

    Args:
        target: The model.
        train: Its training samples.
        validation: Others, which say which weights are kept.
        settings: How.
        begin: As in :func:`finetune`.

    Raises:
        DataError, ModelError: As :func:`finetune`.
    """

    def __init__(
        self,
        target: Target,
        train: Dataset,
        validation: Dataset,
        settings: Settings,
        begin: Begin,
    ) -> None:
        self._target, self._settings, self._begin = target, settings, begin
        self._train, self._validation = train, validation
        for each in (train, validation):
            target.classifier.check(each.shape)
            classes_of(target, each)
        if len(np.unique(train.labels)) < 2:
            raise DataError(f"{train.path}: all samples are of class {train.labels[0]}")
        if train.n < settings.batch_size:
            raise DataError(
                f"{train.path} has {train.n} samples, fewer than a batch of {settings.batch_size}"
            )
        if target.classifier.dtype is not torch.float32:
            raise ModelError(
                f"the model computes in {str(target.classifier.dtype).removeprefix('torch.')}: "
                "fine-tune the float32 model it was made of, and convert that"
            )
        if not list(target.twin.parameters()):
            raise ModelError("the model has no floating-point weight that could be trained")
        self._augment = self._kinds(train.shape)

    def _kinds(self, shape: tuple[int, ...]) -> Sequence[str]:
        """Return what is made of samples of a shape."""
        images = len(shape) == 3 and shape[0] in (1, 3)
        if self._settings.augment is None:
            return ("shift",) if images else ()
        if self._settings.augment and not images:
            size = "×".join(map(str, shape))
            raise DataError(f"augment takes images of 1 or 3 channels, the samples are {size}")
        return tuple(self._settings.augment)

    def run(self, checkpoint: Path | None = None) -> Finetuned:
        """Train, choose, write back and describe.

        Raises:
            ModelError, ParityError: As :func:`finetune`.
        """
        began = time.perf_counter()
        parity = self._target.parity(self._validation.spread(PARITY_SAMPLES).x)
        course = _Course(self._target, self._train, self._validation, self._settings, self._augment)
        kept = Checkpoint(checkpoint, self._run())
        if (state := kept.load()) is not None:
            course.resume(state)
        stopped = self._follow(course, kept)
        model = None
        if course.best is not None:
            course.load_best()
            target = self._target
            model = write_back(target.model, target.classifier.twin, target.folder)
        document = describe(
            course.records,
            course.before,
            course.best_worth,
            self._settings,
            self._target,
            self._train,
            self._validation,
        )
        document["stopped"], document["epochs"] = stopped, course.trainer.epoch
        document["augment"] = list(self._augment)
        document["parity"] = dataclasses.asdict(parity)
        document["environment"] = {
            "versions": versions(),
            "device": str(self._target.device),
            "threads": torch.get_num_threads(),
            "seed": self._settings.seed,
        }
        if model is not None:
            record_finetuning(model, self._target.sha256, finite(summary(document)))
            self._check_written(model, document)
        document["seconds"] = time.perf_counter() - began
        if stopped != INTERRUPTED:
            kept.remove()
        return Finetuned(model, document)

    def _follow(self, course: "_Course", kept: Checkpoint) -> str:
        """Train to the end; return why it ended."""
        settings, epoch = self._settings, course.trainer.epoch
        size = course.trainer.steps_per_epoch * settings.batch_size
        try:
            with self._begin(float((settings.epochs - epoch) * size), "training") as advance:
                while course.trainer.epoch < settings.epochs:
                    course.run_epoch(lambda count: advance(count, None, course.words))
                    if course.is_due:
                        course.check()
                        kept.save(course.state())
                        if course.is_stuck:
                            return "no progress"
        except KeyboardInterrupt:
            if course.best is None:
                raise
            return INTERRUPTED
        except Diverged as error:
            if course.best is None:
                raise
            return f"diverged: {error}"
        return "all epochs"

    def _run(self) -> str:
        """Return the fingerprint of what the training depends on."""
        target = self._target
        return fingerprint(
            {
                "model": (target.sha256, target.external_data),
                "data": [(d.sha256, d.n, d.bounds) for d in (self._train, self._validation)],
                "settings": dataclasses.asdict(self._settings),
                "versions": versions(),
            }
        )

    def _check_written(self, model: ModelProto, document: Document) -> None:
        """Compare the file that is to be written with the twin it was made of.

        Raises:
            ParityError: They disagree.
        """
        settings = self._settings
        written = Target(
            model,
            self._target.folder,
            mean=settings.mean,
            std=settings.std,
            device=settings.device,
        )
        found = written.parity(self._validation.spread(PARITY_SAMPLES).x)
        document["parity"] = dataclasses.asdict(found)


class _Course:
    """The state of a training: the epochs, the checks, and the best weights so far."""

    def __init__(
        self,
        target: Target,
        train: Dataset,
        validation: Dataset,
        settings: Settings,
        augment: Sequence[str],
    ) -> None:
        self._settings, self._model = settings, target.twin
        rows = _attacked(validation, settings)
        x, y = _tensors(validation, target.device)
        self._validator = Validator(x, y, rows, settings, validation.bounds)
        self.before = self._validator.measure(self._model)
        x, y = _tensors(train, target.device)
        self.trainer = Trainer(self._model, x, y, settings, train.bounds, augment)
        self.records: list[Record] = []
        self.best: dict[str, torch.Tensor] | None = None
        self.best_worth: Worth | None = None
        self._loss, self._since = 0.0, 0

    @property
    def words(self) -> str:
        """What is done, for a progress bar."""
        words = f"epoch {self.trainer.epoch + 1} of {self._settings.epochs}"
        if self.best_worth is not None:
            words += f", robust {self.best_worth.robust.mean():.1%}"
        return words

    @property
    def is_due(self) -> bool:
        """Whether the validation data is to be attacked now."""
        every = max(1, round(self._settings.epochs / CHECKS))
        epoch = self.trainer.epoch
        return epoch % every == 0 or epoch == self._settings.epochs

    @property
    def is_stuck(self) -> bool:
        """Whether there was no progress for as many checks as the settings allow."""
        return self._settings.patience is not None and self._since >= self._settings.patience

    def run_epoch(self, advance: Any) -> None:
        """Train on all samples once."""
        self._loss = self.trainer.run_epoch(advance)

    def check(self) -> None:
        """Measure the averaged weights, and keep them if they are the best within the budget.

        While the budget is exceeded, the samples themselves get a larger part of the loss.
        """
        clean_share = self.trainer.clean_share
        with self.trainer.averaged():
            worth = self._validator.measure(self._model)
            drop = float(self.before.clean.mean() - worth.clean.mean())
            inside = drop <= self._settings.max_drop + 1e-12
            better = self.best_worth is None or worth.value > self.best_worth.value
            if inside and better:
                self.best = {n: w.detach().clone() for n, w in self.trainer.weights.items()}
                self.best_worth = worth
        self._since = 0 if inside and better else self._since + 1
        share = self.trainer.clean_share + (-LESS_CLEAN if inside else MORE_CLEAN)
        self.trainer.clean_share = min(max(share, 0.0), MOST_CLEAN)
        self.records.append(
            {
                "epoch": self.trainer.epoch,
                "loss": self._loss,
                "clean": float(worth.clean.mean()),
                "robust": float(worth.robust.mean()),
                "inside": inside,
                "clean_share": clean_share,
            }
        )

    def load_best(self) -> None:
        """Give the module the best weights."""
        assert self.best is not None  # noqa: S101 - asked before
        for name, weight in self.trainer.weights.items():
            weight.data = self.best[name]

    def state(self) -> dict[str, Any]:
        """Return what :meth:`resume` goes on from."""
        worth = self.best_worth
        return {
            "trainer": self.trainer.state(),
            "records": copy.deepcopy(self.records),
            "best": self.best,
            "worth": None
            if worth is None
            else [torch.from_numpy(mask) for mask in (worth.clean, worth.robust)],
            "since": self._since,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.trainer.resume(state["trainer"])
        self.records, self._since = state["records"], state["since"]
        self.best = state["best"]
        if state["worth"] is not None:
            self.best_worth = Worth(*(mask.numpy() for mask in state["worth"]))


def _attacked(data: Dataset, settings: Settings) -> NDArray[np.int64]:
    return data.spread_rows(settings.validation_limit)


def _tensors(data: Dataset, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Read all samples into memory."""
    parts = list(data.batches(1024))
    x = torch.from_numpy(np.concatenate([part.x for part in parts]))
    return x.to(device), torch.from_numpy(data.labels.copy()).to(device)
