"""The gradient of a classifier's loss, or of a logit, with respect to every sample of a dataset."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit import npz
from onnxfit.data import Dataset
from onnxfit.errors import DataError, ModelError, ParityError
from onnxfit.replacing import replacing
from onnxfit.saliency import folder
from onnxfit.twin.classifier import as_logits
from onnxfit.twin.precision import full_precision

# How many samples of the first batch are computed alone, and how far they may then differ, as a
# share of the largest logit: rounding moves a quantised value by a step, in few samples by more.
_ALONE = 4
_TOLERANCE = 1e-2


class Gradients(NamedTuple):
    """What :func:`input_gradients` finds for a batch of n samples.

    Attributes:
        x: The samples, float32, n×….
        labels: int64, n.
        gradients: Of the loss of each sample, or of its chosen logit, with respect to the sample,
            in units of 1 / the data's bounds; float32, n×….
        logits: float32, n×classes.
        losses: The cross-entropy of each sample in nats, float32, n.
    """

    x: NDArray[np.float32]
    labels: NDArray[np.int64]
    gradients: NDArray[np.float32]
    logits: NDArray[np.float32]
    losses: NDArray[np.float32]

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The class with the largest logit, int64, n."""
        return self.logits.argmax(axis=1)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What :func:`export_gradients` wrote.

    Attributes:
        classes: Number of logits.
        accuracy: Share of samples whose largest logit is that of their label.
        zero: Number of samples whose gradient is 0 everywhere.
        not_finite: Number of samples whose gradient holds NaN or infinity.
    """

    classes: int
    accuracy: float
    zero: int
    not_finite: int


def input_gradients(
    twin: torch.nn.Module, data: Dataset, *, logit: int | None = None, batch_size: int = 64
) -> Iterator[Gradients]:
    """Yield gradients, logits and losses of all samples in order, a batch at a time.

    A sample's gradient is of its own loss, not of a mean, so that but for rounding the batch size
    does not matter. A module that mixes the samples of a batch is refused: some of the first batch
    are computed alone as well.

    Args:
        twin: Takes float32 samples, N×…, and returns logits, N×classes. It is put into evaluation
            mode and computes on the device of its first parameter.
        data: The samples.
        logit: Take the gradient of this logit, counted from 0, not of the cross-entropy loss.
        batch_size: Number of samples that are computed at a time.

    Raises:
        DataError: The data is damaged, or a label is not below the number of classes.
        ModelError: The module does not return logits, has not that many or a single one, whose
            cross-entropy is always 0, or no gradient reaches its input.
        ParityError: The module mixes the samples of a batch.
        ValueError: ``batch_size`` is less than 1.
    """
    twin.eval()
    device = device_of(twin)
    for number, (x, y) in enumerate(data.batches(batch_size)):
        inputs = torch.from_numpy(x).to(device).requires_grad_()
        with full_precision():
            logits = as_logits(twin(inputs), len(x))
            if number == 0:
                _check_classes(data, logits.shape[1], logit)
                _check_apart(twin, inputs.detach(), logits.detach())
            labels = torch.from_numpy(y).to(device)
            losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
            target = losses if logit is None else logits[:, logit]
            gradient = gradient_of(target.sum(), inputs)
        yield Gradients(x, y, _array(gradient), _array(logits), _array(losses))


def export_gradients(
    twin: torch.nn.Module,
    data: Dataset,
    output: str | Path,
    *,
    logit: int | None = None,
    batch_size: int = 64,
    pictures: str | Path | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> Exported:
    """Write gradients, logits, losses and labels of all samples to an ``.npz`` file.

    The file holds ``gradients``, ``logits``, ``losses`` and ``labels`` as :class:`Gradients` does,
    for all N samples. Memory is needed for a batch. An existing file is replaced at the end; where
    something fails, it stays as it was and nothing else is left.

    Args:
        twin: As in :func:`input_gradients`.
        data: As in :func:`input_gradients`.
        output: The file to write.
        logit: As in :func:`input_gradients`.
        batch_size: As in :func:`input_gradients`.
        pictures: Folder for a picture of each sample and its saliency map, made if need be; see
            :func:`onnxfit.saliency.folder.picture`. All older maps in it give way.
        advance: Is called with the number of samples after each batch.

    Raises:
        DataError: As in :func:`input_gradients`; the output cannot be written there; or pictures
            are asked for of samples that are no images.
        ModelError: As in :func:`input_gradients`.
        ParityError: As in :func:`input_gradients`.
        ModuleNotFoundError: Pictures are asked for, and Pillow is not installed.
    """
    classes = correct = zero = not_finite = 0
    output = Path(output)
    npz.check_target(output)
    if pictures is not None and Path(pictures).resolve() == output.resolve():
        raise DataError(f"{output} cannot be both the file and the folder of the pictures")
    with contextlib.ExitStack() as files:
        maps = None
        if pictures is not None:
            maps = files.enter_context(folder.writing(Path(pictures), data))
        # Both are finished before either is in its place, the file last.
        complete = files.enter_context(replacing(output))
        if maps is not None:
            files.push(_when_done(maps.publish))
        append = files.enter_context(npz.writing(complete))
        for batch in input_gradients(twin, data, logit=logit, batch_size=batch_size):
            append(
                gradients=batch.gradients,
                logits=batch.logits,
                losses=batch.losses,
                labels=batch.labels,
            )
            if maps is not None:
                maps.draw(batch.x, batch.gradients, batch.labels, batch.predictions)
            flat = batch.gradients.reshape(len(batch.x), -1)
            classes = batch.logits.shape[1]
            correct += int((batch.predictions == batch.labels).sum())
            zero += int((flat == 0).all(axis=1).sum())
            not_finite += int((~np.isfinite(flat)).any(axis=1).sum())
            advance(len(batch.x))
    return Exported(
        classes=classes,
        accuracy=correct / data.n,
        zero=zero,
        not_finite=not_finite,
    )


def _when_done(action: Callable[[], object]) -> Callable[..., None]:
    """Make the exit of a context that does something unless an error is on its way."""

    def leave(kind: object, *_: object) -> None:
        if kind is None:
            action()

    return leave


def _check_apart(twin: torch.nn.Module, inputs: torch.Tensor, logits: torch.Tensor) -> None:
    """Compare a batch with its first samples alone."""
    count = min(_ALONE, len(inputs))
    if len(inputs) == 1:
        return
    with torch.no_grad():
        alone = torch.cat([as_logits(twin(inputs[i : i + 1]), 1) for i in range(count)])
    finite = torch.nan_to_num(logits, posinf=0, neginf=0)
    near = {"rtol": 0, "atol": _TOLERANCE * float(finite.abs().max()), "equal_nan": True}
    same = [torch.allclose(alone[i], logits[i], **near) for i in range(count)]
    # A value may lie within rounding of the jump of a JumpReLU, but not so in most samples.
    if 2 * sum(same) < count:
        raise ParityError(
            "the model mixes the samples of a batch: alone they have other logits than in a batch "
            f"of {len(inputs)}, so that gradients would depend on the batch size"
        )


def _check_classes(data: Dataset, classes: int, logit: int | None) -> None:
    """Check the labels, and the logit that is asked for."""
    if classes == 1 and logit is None:
        raise ModelError(
            "the model has one logit, and the cross-entropy of one class is always 0: "
            "ask for the gradient of logit 0"
        )
    data.check_classes(classes)
    if logit is not None and not 0 <= logit < classes:
        raise ModelError(
            f"the model has {classes} logits, 0 to {classes - 1}, but no logit {logit}"
        )


def gradient_of(
    total: torch.Tensor,
    leaf: torch.Tensor,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> torch.Tensor:
    """Return the gradient of a sum with respect to what it was computed from.

    Args:
        total: The sum.
        leaf: What it was computed from.
        retain_graph: Keep the graph for another gradient.
        create_graph: Make the gradient part of a graph; the other one is kept then.

    Raises:
        ModelError: It does not depend on it.
    """
    gradient = None
    if total.requires_grad:
        (gradient,) = torch.autograd.grad(
            total,
            leaf,
            retain_graph=retain_graph or create_graph,
            create_graph=create_graph,
            allow_unused=True,
        )
    if gradient is None:
        raise ModelError("no gradient reaches the model's input: its logits do not depend on it")
    return gradient


def device_of(module: torch.nn.Module) -> torch.device:
    """Return where the first tensor of a module is."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().float().cpu().numpy()
    return array
