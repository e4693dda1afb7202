"""The cache keeps what was measured through interruptions, and refuses what is not its own."""

import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from onnxfit.calibration import cache as cache_module
from onnxfit.calibration.cache import Cache
from onnxfit.errors import DataError

RUN = {"model": "a", "settings": {"eps": 0.1, "steps": None}, "data": (1, 2)}
NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)
MASK = np.array([True, False])

# Puts two names, and dies in the middle of the third.
KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from onnxfit.calibration.cache import Cache

cache = Cache(Path(sys.argv[1]), {"run": 1})
for i in range(2):
    cache.put(f"part-{i}", {"x": np.full(1000, i)})
cache._database.execute("BEGIN")
cache._database.execute("INSERT INTO part VALUES ('part-2', x'00')")
os._exit(9)
"""

# Tries to open a cache, and says why it cannot.
SECOND = """
import sys
from pathlib import Path
from onnxfit.calibration import cache
from onnxfit.errors import DataError

cache.PATIENCE = 0.05
try:
    cache.Cache(Path(sys.argv[1]), {})
except DataError as error:
    print(error)
    sys.exit(7)
"""

# Dies when it has begun to make the file.
KILLED_AT_THE_START = """
import os, sqlite3, sys
from pathlib import Path
from onnxfit.calibration import cache

class Connection(sqlite3.Connection):
    def execute(self, text, *values):
        if text.startswith("INSERT"):
            os._exit(9)
        return super().execute(text, *values)

connect = sqlite3.connect
sqlite3.connect = lambda *given, **more: connect(*given, **more, factory=Connection)
cache.Cache(Path(sys.argv[1]), {"run": 1})
"""


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a cache that another connection holds for itself."""
    monkeypatch.setattr(cache_module, "PATIENCE", 0.05)
    path = tmp_path / "cache"
    Cache(path, RUN).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield path


def test_what_is_put_is_got() -> None:
    """Arrays keep their names, types, shapes and values; other names give None."""
    with closing(Cache(None, RUN)) as cache:
        cache.put("a", {"numbers": NUMBERS, "mask": MASK, "tried": np.array(7)})
        cache.put("b", {})
        found = cache.get("a")
        assert found is not None
        assert {"numbers", "mask", "tried"} == set(found)
        assert ["float32", "bool"] == [found[name].dtype.name for name in ("numbers", "mask")]
        np.testing.assert_array_equal(NUMBERS, found["numbers"])
        np.testing.assert_array_equal(MASK, found["mask"])
        assert 7 == int(found["tried"])
        assert {} == cache.get("b")
        assert cache.get("c") is None


def test_a_second_put_takes_the_place_of_the_first() -> None:
    """All of its arrays, also those that have no successor."""
    with closing(Cache(None, RUN)) as cache:
        cache.put("a", {"numbers": NUMBERS, "mask": MASK})
        cache.put("a", {"numbers": NUMBERS + 1})
        found = cache.get("a")
        assert found is not None
        assert ["numbers"] == list(found)
        np.testing.assert_array_equal(NUMBERS + 1, found["numbers"])


def test_several_names_are_put_at_once() -> None:
    """Each with its arrays; none at all is nothing."""
    with closing(Cache(None, RUN)) as cache:
        cache.put_all({"a": {"numbers": NUMBERS}, "b": {"mask": MASK}})
        cache.put_all({})
        for name, key, expected in (("a", "numbers", NUMBERS), ("b", "mask", MASK)):
            found = cache.get(name)
            assert found is not None
            np.testing.assert_array_equal(expected, found[key])


def test_of_several_names_all_are_put_or_none(tmp_path: Path) -> None:
    """Where the last one fails, those before it are as they were."""
    path = tmp_path / "cache"
    with closing(Cache(path, RUN)) as cache:
        cache.put("a", {"x": MASK})
        body = "WHEN NEW.name = 'c' BEGIN SELECT RAISE(ABORT, 'no space'); END"
        cache._database.execute(f"CREATE TRIGGER t BEFORE INSERT ON part {body}")
        message = f"the cache {path} cannot be written: no space"
        with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
            cache.put_all({"a": {"x": NUMBERS}, "b": {"x": NUMBERS}, "c": {"x": NUMBERS}})
        found = cache.get("a")
        assert found is not None
        np.testing.assert_array_equal(MASK, found["x"])
        assert cache.get("b") is None


def test_objects_are_not_read() -> None:
    """A cache may come from anybody, and pickled objects can run programs."""
    with closing(Cache(None, RUN)) as cache:
        cache.put("a", {"x": np.array([None])})
        with pytest.raises(ValueError, match="allow_pickle=False"):
            cache.get("a")


def test_a_file_is_found_again_by_the_same_run(tmp_path: Path) -> None:
    """Whatever the order of its keys; an empty file is a new cache."""
    path = tmp_path / "cache"
    path.touch()
    with closing(Cache(path, RUN)) as cache:
        cache.put("a", {"mask": MASK})
    with closing(Cache(path, dict(reversed(RUN.items())))) as cache:
        found = cache.get("a")
    assert found is not None
    np.testing.assert_array_equal(MASK, found["mask"])


@pytest.mark.parametrize(
    "other", [{**RUN, "model": "b"}, {**RUN, "settings": {"eps": 0.2, "steps": None}}, {}]
)
def test_the_cache_of_another_run_is_refused(tmp_path: Path, other: dict[str, object]) -> None:
    """And left as it is."""
    path = tmp_path / "cache"
    with closing(Cache(path, RUN)) as cache:
        cache.put("a", {"mask": MASK})
    before = path.read_bytes()
    message = f"{path} is the cache of another model, data, settings or version"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        Cache(path, other)
    assert before == path.read_bytes()


def a_text(path: Path) -> None:
    """Write a text file."""
    path.write_text("accuracy, robust\n" * 50, encoding="utf-8")


def another_database(path: Path) -> None:
    """Write a database of something else."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")


def another_table(path: Path) -> None:
    """Write a database with a table of the same name."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE run (started TEXT)")


def no_run(path: Path) -> None:
    """Write a cache without the run that it belongs to."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE run (fingerprint TEXT)")


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (a_text, "file is not a database"),
        (another_database, "no such table: run"),
        (another_table, "no such column: fingerprint"),
        (no_run, "it names no run"),
    ],
)
def test_another_kind_of_file_is_refused(
    tmp_path: Path, write: Callable[[Path], None], why: str
) -> None:
    """In a sentence with the database's reason, and nothing is written to it."""
    path = tmp_path / "file"
    write(path)
    before = path.read_bytes() if path.is_file() else b""
    message = f"{path} is not a cache of onnxfit calibrate: {why}"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        Cache(path, RUN)
    assert before == (path.read_bytes() if path.is_file() else b"")


def test_a_cache_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    """In a sentence; whether it is a cache is not known."""
    message = f"the cache {tmp_path} cannot be opened"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        Cache(tmp_path, RUN)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """It is not made."""
    folder = tmp_path / "no" / "such"
    message = f"the folder {folder} does not exist"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        Cache(folder / "cache", RUN)
    assert [] == list(tmp_path.iterdir())


def test_a_cache_without_a_file_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is put into it is gone when it is closed, and another one is empty."""
    monkeypatch.chdir(tmp_path)
    with closing(Cache(None, RUN)) as cache, closing(Cache(None, RUN)) as other:
        cache.put("a", {"x": np.zeros(100_000)})
        assert other.get("a") is None
        assert [] == list(tmp_path.iterdir())


def test_what_was_put_survives_a_kill(tmp_path: Path) -> None:
    """A put that was not finished is as if it had never begun."""
    path = tmp_path / "cache"
    done = subprocess.run([sys.executable, "-c", KILLED, path], timeout=60, check=False)
    assert 9 == done.returncode
    with closing(Cache(path, {"run": 1})) as cache:
        for i in range(2):
            found = cache.get(f"part-{i}")
            assert found is not None
            np.testing.assert_array_equal(np.full(1000, i), found["x"])
        assert cache.get("part-2") is None
        cache.put("part-2", {"x": MASK})
        assert cache.get("part-2") is not None


def test_a_file_that_was_not_finished_is_begun_again(tmp_path: Path) -> None:
    """A process killed at its very start leaves nothing that the next one would refuse."""
    path = tmp_path / "cache"
    command = [sys.executable, "-c", KILLED_AT_THE_START, str(path)]
    assert 9 == subprocess.run(command, timeout=60, check=False).returncode
    with closing(Cache(path, {"run": 1})) as cache:
        cache.put("a", {"x": MASK})
        assert cache.get("a") is not None


def test_two_processes_cannot_share_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is refused from the start, between two writes as well; then it may go on."""
    monkeypatch.setattr(cache_module, "PATIENCE", 0.05)
    path = tmp_path / "cache"
    message = f"the cache {path} is in use by another process"
    for content in (NUMBERS, MASK):
        with closing(Cache(path, RUN)) as cache:
            for name in ("before", "after"):
                for run in (RUN, {"model": "another"}):
                    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
                        Cache(path, run)
                done = subprocess.run(
                    [sys.executable, "-c", SECOND, path],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert (7, f"{message}\n") == (done.returncode, done.stdout)
                cache.put(name, {"x": content})
    with closing(Cache(path, RUN)) as cache:
        found = cache.get("after")
        assert found is not None
        np.testing.assert_array_equal(MASK, found["x"])
    assert [path] == list(tmp_path.iterdir())


def test_a_cache_that_another_process_holds_is_not_opened(locked: Path) -> None:
    """Whatever that does with it."""
    message = f"the cache {locked} is in use by another process"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        Cache(locked, RUN)


def test_a_cache_that_is_let_go_soon_is_waited_for(tmp_path: Path) -> None:
    """As by a run that was interrupted just now."""
    path = tmp_path / "cache"
    with closing(sqlite3.connect(path, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(0.1, other.rollback)
        release.start()
        with closing(Cache(path, RUN)) as cache:
            cache.put("a", {"x": MASK})
        release.join()


def test_a_cache_of_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of another version may be: nothing in it is misread."""
    path = tmp_path / "cache"
    Cache(path, RUN).close()
    monkeypatch.setattr(cache_module, "FORMAT", cache_module.FORMAT + 1)
    message = f"{path} is the cache of another model, data, settings or version"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        Cache(path, RUN)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """As where the disk is full, or the file may only be read."""
    path = tmp_path / "cache"
    with closing(Cache(path, RUN)) as cache:
        cache._database.execute("PRAGMA query_only = ON")
        message = f"the cache {path} cannot be written: attempt to write a readonly database"
        with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
            cache.put("a", {"x": MASK})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """As where a part of it is damaged."""
    path = tmp_path / "cache"
    with closing(Cache(path, RUN)) as cache:
        with cache._database as database:
            database.execute("DROP TABLE part")
        message = f"the cache {path} cannot be read: no such table: part"
        with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
            cache.get("a")
