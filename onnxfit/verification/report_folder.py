"""The folder that a verification writes: all files or none, and what an interruption leaves."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfit.attacks.ball import LEVELS
from onnxfit.data import Dataset
from onnxfit.errors import DataError
from onnxfit.report.html import render
from onnxfit.report.junit import junit
from onnxfit.verification import regression_corpus
from onnxfit.verification.journal import Journal
from onnxfit.verification.result import Result

RESULT, HTML, JUNIT = "result.json", "report.html", "junit.xml"
ADVERSARIAL = "adversarial.npz"
FILES = (RESULT, HTML, JUNIT, ADVERSARIAL)
UNFINISHED = ".unfinished"


class ReportFolder:
    """Where ``result.json``, ``report.html``, ``junit.xml`` and ``adversarial.npz`` go.

    Until all four are complete, they are in a folder ``.unfinished`` inside.

    Args:
        folder: Made if need be; its parent must exist.
        data: What is verified on.
        run: What the run depends on, for resuming it.
        resume: Go on with an unfinished run in the folder.
        quantize: Whether adversarial inputs are kept in 8 bits.
        inputs: Files that are read, and must not be written.

    Attributes:
        journal: What is done so far.

    Raises:
        DataError: The folder cannot be used.
        ModuleNotFoundError: A package that the report needs is not installed.
    """

    def __init__(
        self,
        folder: Path,
        data: Dataset,
        run: Mapping[str, Any],
        *,
        resume: bool,
        quantize: bool,
        inputs: Sequence[Path] = (),
    ) -> None:
        check_folder(folder, FILES, data.path, inputs)
        self._folder, self._data, self._quantize = folder, data, quantize
        self._unfinished = folder / UNFINISHED
        self.journal = Journal(self._unfinished, run, resume=resume)
        self._unfinished.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def corpus(self) -> Iterator[regression_corpus.Add]:
        """Give what adds adversarial inputs to ``adversarial.npz``."""
        path = self._unfinished / ADVERSARIAL
        with regression_corpus.writing(path, self._data.shape, quantized=self._quantize) as add:
            yield self._as_bytes(add) if self._quantize else add

    def _as_bytes(self, add: regression_corpus.Add) -> regression_corpus.Add:
        low, high = self._data.bounds

        def with_bytes(x: NDArray[Any], *others: Any) -> None:
            levels = np.rint((x.astype(np.float64) - low) * (LEVELS / (high - low)))
            add(levels.astype(np.uint8), *others)

        return with_bytes

    def publish(self, result: Result) -> None:
        """Put all files in their places, and forget what resuming would need."""
        texts = {
            RESULT: result.to_json(),
            HTML: render(result.document, result.exhibits, result.universal),
            JUNIT: junit(result.document),
        }
        for name, text in texts.items():
            (self._unfinished / name).write_text(text, encoding="utf-8")
        for name in FILES:
            (self._unfinished / name).replace(self._folder / name)
        self.journal.remove()


def check_folder(folder: Path, names: Sequence[str], data: Path, inputs: Sequence[Path]) -> None:
    """See that files can be written to the folder of a report.

    Args:
        folder: Of the report; its parent must exist.
        names: Of the files.
        data: What is read, a file or a folder.
        inputs: Files that must not be replaced.

    Raises:
        DataError: They cannot.
        ModuleNotFoundError: A package that the report needs is not installed.
    """
    import jinja2  # noqa: F401 - missing packages are told now, not in hours
    import matplotlib  # noqa: F401

    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    if not folder.parent.is_dir():
        raise DataError(f"the folder {folder.parent} does not exist")
    if data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
        raise DataError(f"{folder} lies in the folder of the data, {data}")
    for name in names:
        _check_target(folder / name, inputs)
    existing = folder if folder.exists() else folder.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise DataError(f"nothing can be written to {existing}: {error.strerror}") from error


def _check_target(path: Path, inputs: Sequence[Path]) -> None:
    """Refuse to write where something is that must stay."""
    if path.is_dir():
        raise DataError(f"{path} is a folder")
    if path.exists() and any(each.exists() and path.samefile(each) for each in inputs):
        raise DataError(f"the report would replace {path}, which is read")
