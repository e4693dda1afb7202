"""The journal of a long run: what survives, and what it refuses to go on with."""

from pathlib import Path

import numpy as np
import pytest

from onnxfit.errors import DataError
from onnxfit.verification.journal import Journal

RUN = {"model": "a", "seed": 0}
ARRAYS = {"points": np.arange(6.0, dtype=np.float32).reshape(2, 3), "twin": np.array([True, False])}


def test_arrays_survive(tmp_path: Path) -> None:
    """Another run of the same kind finds the very arrays."""
    Journal(tmp_path / "j", RUN, resume=False).put("0-model-1", ARRAYS)
    found = Journal(tmp_path / "j", RUN, resume=True).get("0-model-1")
    assert found is not None
    for name, array in ARRAYS.items():
        assert array.dtype == found[name].dtype
        np.testing.assert_array_equal(array, found[name])


def test_what_was_not_put_is_not_there(tmp_path: Path) -> None:
    """A name that was never used has nothing."""
    journal = Journal(tmp_path / "j", RUN, resume=True)
    assert journal.get("0-model-0") is None


def test_a_new_run_starts_empty(tmp_path: Path) -> None:
    """Without resuming, what is there is removed."""
    Journal(tmp_path / "j", RUN, resume=False).put("a", ARRAYS)
    assert Journal(tmp_path / "j", RUN, resume=False).get("a") is None


def test_another_run_is_refused(tmp_path: Path) -> None:
    """Another seed makes another run, which cannot be gone on with; nothing is removed."""
    folder = tmp_path / "j"
    Journal(folder, RUN, resume=False).put("a", ARRAYS)
    with pytest.raises(DataError) as refused:
        Journal(folder, {**RUN, "seed": 1}, resume=True)
    assert (
        f"{folder} holds an unfinished run of another model, data or settings; start without "
        "--resume, which removes it" == str(refused.value)
    )
    assert Journal(folder, RUN, resume=True).get("a") is not None


def test_nothing_is_removed_that_is_not_a_journal(tmp_path: Path) -> None:
    """A folder of that name without the mark of a journal stays as it is."""
    (tmp_path / "j").mkdir()
    (tmp_path / "j" / "mine.txt").write_text("mine")
    Journal(tmp_path / "j", RUN, resume=False)
    assert "mine" == (tmp_path / "j" / "mine.txt").read_text()


def test_a_finished_run_leaves_nothing(tmp_path: Path) -> None:
    """At the end the folder is gone."""
    journal = Journal(tmp_path / "j", RUN, resume=False)
    journal.put("a", ARRAYS)
    journal.remove()
    assert not (tmp_path / "j").exists()


def test_without_a_folder_nothing_is_kept() -> None:
    """Where there is no place, a run starts from the beginning."""
    journal = Journal(None, RUN, resume=True)
    journal.put("a", ARRAYS)
    assert journal.get("a") is None
    journal.remove()
