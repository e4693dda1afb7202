"""``adversarial.npz``: what was misclassified once, for the next release to be replayed against."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.data import Bounds, Dataset, open_data
from onnxfit.data_sources import times
from onnxfit.errors import DataError
from onnxfit.npz import Member, member
from onnxfit.npz import writing as writing_arrays

# NumPy gives every string of an array the same room.
_NAME = np.dtype("<U64")
_ROWS = 1024

Add = Callable[[NDArray[Any], NDArray[Any], NDArray[Any], Sequence[str]], None]


class Predicts(Protocol):
    """What a corpus is replayed on; :class:`onnxfit.verification.target.Target` is one."""

    def predictions(self, x: torch.Tensor, /) -> NDArray[np.int64]:
        """Return the classes that the deployed file names for samples, N."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Corpus:
    """Samples that an earlier release misclassified.

    Attributes:
        path: The file.
        n: How many there are.
        samples: They and their labels; None where there are none.
        index: Of each in the data that it was made from, int64 of shape N.
        attacks: Name of the attack that made it, of shape N.
    """

    path: Path
    n: int
    samples: Dataset | None
    index: NDArray[np.int64]
    attacks: NDArray[np.str_]


@contextlib.contextmanager
def writing(path: Path, shape: Sequence[int], *, quantized: bool = False) -> Iterator[Add]:
    """Give a function that adds samples, and write the corpus at the end, whole or not at all.

    ``add(x, y, index, attack)`` takes samples N×…, labels, places in the data and names of
    attacks, of which 64 characters are kept, one each per sample; N may be 0.

    Args:
        path: The ``.npz`` file.
        shape: Of one sample.
        quantized: The samples are uint8; otherwise they are float32, as they were replayed.

    Raises:
        DataError: The file cannot be written where it should be.
        ValueError: Samples are not of this shape and type, or the arrays are not equally long.
    """
    dtype = np.uint8 if quantized else np.float32
    with writing_arrays(path) as append:

        def add(
            x: NDArray[Any], y: NDArray[Any], index: NDArray[Any], attack: Sequence[str]
        ) -> None:
            if not len(x) == len(y) == len(index) == len(attack):
                lengths = ", ".join(str(len(array)) for array in (x, y, index, attack))
                raise ValueError(f"expected arrays of one length, got {lengths}")
            append(
                x=x,
                y=np.asarray(y, np.int64),
                index=np.asarray(index, np.int64),
                attack=np.asarray(attack, _NAME),
            )

        # So the file has its arrays, and their types, even where nothing is added.
        add(np.empty((0, *shape), dtype), np.empty(0), np.empty(0), [])
        yield add


def read(
    path: str | Path, shape: Sequence[int], bounds: Bounds, *, classes: int | None = None
) -> Corpus:
    """Open a corpus and check all of it.

    Args:
        path: The ``.npz`` file that an earlier verification wrote.
        shape: Of a sample of the model.
        bounds: Smallest and largest value of a sample; uint8 is mapped evenly onto them.
        classes: How many the model knows, if labels are to be checked against it.

    Raises:
        DataError: The file is missing or damaged, lacks an array, or its samples are of another
            shape, not finite or outside the bounds, or a label is none of the model's classes.
    """
    path = Path(path)
    x, y, index, attack = (member(path, name) for name in ("x", "y", "index", "attack"))
    _check_columns(path, x, index, attack)
    if x.shape[1:] != (expected := tuple(shape)):
        raise DataError(
            f"{path}: the samples are {times(x.shape[1:])}, and the model's are {times(expected)}"
        )
    empty = not x.shape[0] and not y.shape[0]
    samples = None if empty else open_data(path, bounds=bounds)
    if samples is not None:
        if classes is not None and (top := int(samples.labels.max())) >= classes:
            raise DataError(f"{path}: there is a label {top}, and the model has {classes} classes")
        for _ in samples.batches(_ROWS):
            pass
    return Corpus(
        path=path,
        n=x.shape[0],
        samples=samples,
        index=index.read().astype(np.int64),
        attacks=attack.read(),
    )


def _check_columns(path: Path, x: Member, index: Member, attack: Member) -> None:
    for column, kinds, what in ((index, "iu", "integers"), (attack, "U", "names")):
        if column.dtype.kind not in kinds or column.shape != x.shape[:1]:
            found = f"{column.dtype} of shape {times(column.shape) or '()'}"
            raise DataError(
                f"{path}: the array {column.name!r} is {found}, not {what}, one per sample of 'x'"
            )


def replay(target: Predicts, corpus: Corpus, batch_size: int) -> int:
    """Count the samples of a corpus that a model still misclassifies.

    Memory is needed for a batch, not for the corpus.

    Raises:
        DataError: The file was damaged since it was opened.
        ValueError: ``batch_size`` is less than 1.
    """
    if corpus.samples is None:
        return 0
    return sum(
        int((target.predictions(torch.from_numpy(batch.x)) != batch.y).sum())
        for batch in corpus.samples.batches(batch_size)
    )


def carry_over(corpus: Corpus, found: set[int], add: Add) -> None:
    """Add the samples of a corpus to another, but for those whose places in the data are found.

    Args:
        corpus: The earlier one; it may be the file that the other takes the place of.
        found: Places in the data that the other corpus has a sample of already.
        add: What :func:`writing` gave.
    """
    if corpus.samples is None:
        return
    start = 0
    for x, y in corpus.samples.batches(_ROWS):
        rows = np.arange(start, start + len(x))
        keep = ~np.isin(corpus.index[rows], list(found))
        chosen = rows[keep]
        add(x[keep], y[keep], corpus.index[chosen], list(corpus.attacks[chosen]))
        start += len(x)
