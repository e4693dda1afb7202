"""The verb ``calibrate`` as a user runs it."""

import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from command import Command, runner
from support import MODELS, parse, quiet

import onnxfit
from onnxfit.record import provenance

torch = pytest.importorskip("torch")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from onnxfit.attacks import PGD  # noqa: E402
from onnxfit.calibration.cache import Cache  # noqa: E402
from onnxfit.cli import main  # noqa: E402

DIGITS, ROBUST = MODELS / "digits_cnn.onnx", MODELS / "digits_cnn_pgd.onnx"
DATA = ("--data", MODELS / "digits_val.npz", "--limit", "80")
QUICK = ("--steps", "1", "--eps", "0.1", "--attack-limit", "8", "--points", "8")
FEW = (*DATA, *QUICK, "--max-drop", "0.05")
FILES = ["calibration.json", "report.html"]
# What x₀ says, by a linear layer, and what little x₁ moves, multiplied by fifty.
GAIN = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x) => (float[N,2] y)
<float[2,2] w = {0, 0, 1, -1}, float[2] b = {-0.5, 0.5},
 float[2,2] v = {-4, 4, 0, 0}, float[2] c = {2, -2}, float k = {50}> {
  m = MatMul(x, w) s = Add(m, b) h = Relu(s) t = Mul(h, k)
  n = MatMul(x, v) o = Add(n, c) y = Add(o, t)
}
"""


class Calibrated(NamedTuple):
    """A run with a report."""

    status: int
    out: str
    err: str
    folder: Path
    document: dict[str, Any]


def save(model: onnx.ModelProto, folder: Path, name: str = "m.onnx") -> Path:
    """Write a model."""
    onnx.save(model, folder / name)
    return folder / name


def below(folder: Path) -> dict[Path, bytes]:
    """Return every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def helpful(folder: Path) -> tuple[Path, Path]:
    """Write a model that a jump makes robust, and its data."""
    random = np.random.default_rng(0)
    y = np.arange(80) % 2
    x = np.stack([0.2 + 0.6 * y, 0.5 + random.uniform(-0.02, 0.02, 80)], 1)
    np.savez(folder / "d.npz", x=x.astype(np.float32), y=y)
    return save(parse(GAIN), folder), folder / "d.npz"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """The digits network, calibrated with a report."""
    folder = tmp_path_factory.mktemp("calibrated")
    arguments = ["calibrate", DIGITS, *FEW, "-o", folder / "out.onnx"]
    arguments += ["--report", folder / "report", "--json"]
    ran = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return Calibrated(ran.exit_code, ran.stdout, ran.stderr, folder, json.loads(ran.stdout))


def test_the_model_and_its_report_are_written(calibrated: Calibrated) -> None:
    """Status 0; what is printed is one document, that of the report."""
    assert 0 == calibrated.status, calibrated.err
    assert FILES == sorted(path.name for path in (calibrated.folder / "report").iterdir())
    assert ["out.onnx", "report"] == sorted(path.name for path in calibrated.folder.iterdir())
    text = (calibrated.folder / "report" / "calibration.json").read_text()
    assert calibrated.document == json.loads(text)
    assert str(calibrated.folder / "out.onnx") == calibrated.document["output"]
    assert len(calibrated.document["curve"]) >= 8


def test_the_model_has_the_jumps_of_the_document(calibrated: Calibrated) -> None:
    """It passes the checker, and tells how it was calibrated."""
    out = calibrated.folder / "out.onnx"
    onnx.checker.check_model(str(out), full_check=True)
    expected = {site["name"]: np.float32(site["jump"]) for site in calibrated.document["sites"]}
    found = onnxfit.inspect(out).jumps
    assert expected == {name: np.float32(jump) for name, jump in found.items()}  # type: ignore[arg-type]
    record = provenance(onnx.load(out))
    assert calibrated.document["data"]["sha256"] == record["calibration"]["data_sha256"]
    assert calibrated.document["model"]["sha256"] == record["source_sha256"]


def test_the_page_carries_the_headline(calibrated: Calibrated) -> None:
    """The report says what the document says."""
    page = (calibrated.folder / "report" / "report.html").read_text(encoding="utf-8")
    assert calibrated.document["headline"].split(":")[0] in page


def test_a_table_is_printed(
    calibrated: Calibrated, tmp_path: Path, onnxfit_command: Command
) -> None:
    """Without --json; the output lies beside the model by default."""
    model = save(onnx.load(DIGITS), tmp_path, "net.onnx")
    ran = onnxfit_command("calibrate", model, *FEW)
    assert 0 == ran.status
    assert calibrated.document["headline"].split(":")[0] in " ".join(ran.out.split())
    assert ran.out.endswith(f"wrote {tmp_path / 'net.jump.onnx'}\n")
    expected = (calibrated.folder / "out.onnx").read_bytes()
    assert expected == (tmp_path / "net.jump.onnx").read_bytes()


def test_no_gain_where_one_is_required(tmp_path: Path, onnxfit_command: Command) -> None:
    """Status 1 and no model; the report is written and says so."""
    out, report = tmp_path / "out.onnx", tmp_path / "report"
    required = ("--require-gain", "-o", out, "--report", report)
    ran = onnxfit_command("calibrate", DIGITS, *FEW, *required)
    assert 1 == ran.status
    assert not out.exists()
    assert "No model was written: no jump helps beyond noise.\n" in ran.err
    assert "wrote" in ran.out
    assert str(out) not in ran.out
    document = json.loads((report / "calibration.json").read_text())
    assert not document["improves"]
    assert document["headline"].startswith("The best jump found does not make the model more")


def test_a_gain_where_one_is_required(tmp_path: Path, onnxfit_command: Command) -> None:
    """Status 0, and the file keeps under attack what the source loses."""
    model, data = helpful(tmp_path)
    settings = ("--data", data, "--eps", "0.1", "--steps", "4", "--points", "8")
    budget = ("--max-drop", "0.05", "--attack-limit", "40", "--require-gain", "--json")
    ran = onnxfit_command("calibrate", model, *settings, *budget)
    assert 0 == ran.status, ran.err
    document = json.loads(ran.out)
    assert document["improves"]
    assert document["headline"].startswith("The model is more robust")
    assert document["before"]["robust_accuracy"] < 0.1
    assert 1 == document["after"]["robust_accuracy"]
    assert (tmp_path / "m.jump.onnx").exists()


def test_an_existing_output_is_replaced_if_asked_to(
    calibrated: Calibrated, tmp_path: Path, onnxfit_command: Command
) -> None:
    """--force replaces it in one step."""
    out = tmp_path / "out.onnx"
    out.write_text("old")
    assert 0 == onnxfit_command("calibrate", DIGITS, *FEW, "-o", out, "--force").status
    assert (calibrated.folder / "out.onnx").read_bytes() == out.read_bytes()
    assert [out] == list(tmp_path.iterdir())


BAD_USE: dict[str, tuple[tuple[str, ...], str]] = {
    "max-drop 0": (("--max-drop", "0"), "Invalid value for '--max-drop': 0 is not above 0."),
    "max-drop 2": (("--max-drop", "2"), "expected a max_drop between 0 and 1, got 2.0"),
    "confidence 1": (
        ("--confidence", "1"),
        "expected a confidence from 0.5 to below 1, got 1.0",
    ),
    "confidence 0.1": (
        ("--confidence", "0.1"),
        "expected a confidence from 0.5 to below 1, got 0.1",
    ),
    "eps 0": (("--eps", "0"), "Invalid value for '--eps': 0 is not above 0."),
    "points 7": (("--points", "7"), "Invalid value for '--points': 7 is not in the range x>=8."),
    "scale": (
        ("--scale", "layer"),
        "Invalid value for '--scale': 'layer' is not one of 'shared', 'quantile', 'channel'.",
    ),
}


@pytest.mark.parametrize("kind", BAD_USE)
def test_bad_usage(kind: str, tmp_path: Path, onnxfit_command: Command) -> None:
    """One sentence and status 2; nothing is written."""
    arguments, sentence = BAD_USE[kind]
    output = ("-o", tmp_path / "out.onnx", "--report", tmp_path / "r", "--cache", tmp_path / "c")
    ran = onnxfit_command("calibrate", DIGITS, *FEW, *arguments, *output)
    assert (2, "") == ran[:2]
    assert ran.err.endswith(f"Error: {sentence}\n")
    assert {} == below(tmp_path)


def exists(folder: Path) -> tuple[tuple[object, ...], str]:
    """Put something where the output goes."""
    (folder / "out.onnx").write_text("old")
    return (), f"{folder / 'out.onnx'} exists; give --force to replace it"


def nan_pixels(folder: Path) -> tuple[tuple[object, ...], str]:
    """Put a NaN into the last sample."""
    with np.load(MODELS / "digits_val.npz") as file:
        x, y = file["x"][:80].copy(), file["y"][:80]
    x[79, 0, 3, 3] = np.nan
    np.savez(folder / "d.npz", x=x, y=y)
    sentence = "sample 79 has 1 of 64 values that are not within 0 and 1, such as nan"
    return ("--data", folder / "d.npz"), f"{folder / 'd.npz'}: {sentence}"


def too_few(folder: Path) -> tuple[tuple[object, ...], str]:
    """Leave the budget at its default."""
    del folder
    sentence = (
        "a drop of at most 0.01 can only be shown with 299 samples or more, and there are 80: take "
        "more samples or a larger max_drop"
    )
    return ("--max-drop", "0.01"), sentence


def no_folder_for_the_output(folder: Path) -> tuple[tuple[object, ...], str]:
    """Name a folder that is not there, which must not be told after hours."""
    return ("-o", folder / "no" / "o.onnx"), f"the folder {folder / 'no'} does not exist"


def no_folder_for_the_report(folder: Path) -> tuple[tuple[object, ...], str]:
    """Name a folder in one that is not there."""
    return ("--report", folder / "no" / "r"), f"the folder {folder / 'no'} does not exist"


def a_report_that_cannot_be_written(folder: Path) -> tuple[tuple[object, ...], str]:
    """Name a folder where nothing can be written, whoever asks; also not to be told after hours."""
    del folder
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    return ("--report", "/proc/r"), "nothing can be written to /proc: No such file or directory"


def no_folder_for_the_cache(folder: Path) -> tuple[tuple[object, ...], str]:
    """Name a cache in a folder that is not there."""
    return ("--cache", folder / "no" / "c"), f"the folder {folder / 'no'} does not exist"


def images(folder: Path) -> Path:
    """Make a folder of images by class."""
    image = pytest.importorskip("PIL.Image")
    for name in ("0", "1"):
        (folder / "images" / name).mkdir(parents=True)
        image.new("L", (8, 8)).save(folder / "images" / name / "a.png")
    return folder / "images"


def report_in_the_data(folder: Path) -> tuple[tuple[object, ...], str]:
    """Write the report where the images are."""
    data = images(folder)
    inside = f"{data / 'r'} lies in the folder of the data, {data}"
    return ("--data", data, "--report", data / "r"), inside


def output_in_the_data(folder: Path) -> tuple[tuple[object, ...], str]:
    """Write the model where the images are."""
    data = images(folder)
    inside = f"{data / 'o.onnx'} lies in the folder of the data, {data}"
    return ("--data", data, "-o", data / "o.onnx"), inside


def cache_in_the_data(folder: Path) -> tuple[tuple[object, ...], str]:
    """Keep the cache where the images are."""
    data = images(folder)
    inside = f"{data / '0' / 'c'} lies in the folder of the data, {data}"
    return ("--data", data, "--cache", data / "0" / "c"), inside


def text_as_cache(folder: Path) -> tuple[tuple[object, ...], str]:
    """Name a text file as the cache."""
    (folder / "c.txt").write_text("not a database, and longer than its header is\n" * 20)
    sentence = "is not a cache of onnxfit calibrate: file is not a database"
    return ("--cache", folder / "c.txt"), f"{folder / 'c.txt'} {sentence}"


def output_as_cache(folder: Path) -> tuple[tuple[object, ...], str]:
    """Write the model over the cache."""
    twice = "cannot be two of the files that are written"
    return ("--cache", folder / "out.onnx"), f"{folder / 'out.onnx'} {twice}"


def output_in_the_report(folder: Path) -> tuple[tuple[object, ...], str]:
    """Write the model over the page."""
    page = folder / "r" / ".." / "r" / "report.html"
    return (
        "-o",
        page,
    ), f"{folder / 'r' / 'report.html'} cannot be two of the files that are written"


def labels_beyond_the_classes(folder: Path) -> tuple[tuple[object, ...], str]:
    """Label a sample 10."""
    with np.load(MODELS / "digits_val.npz") as file:
        x, y = file["x"][:80], file["y"][:80].copy()
    y[5] = 10
    np.savez(folder / "d.npz", x=x, y=y)
    sentence = "the label of sample 5 is 10, but the model has 10 classes, 0 to 9"
    return ("--data", folder / "d.npz"), f"{folder / 'd.npz'}: {sentence}"


BAD_INPUT: tuple[Callable[[Path], tuple[tuple[object, ...], str]], ...] = (
    exists,
    nan_pixels,
    too_few,
    no_folder_for_the_output,
    no_folder_for_the_report,
    a_report_that_cannot_be_written,
    no_folder_for_the_cache,
    report_in_the_data,
    output_in_the_data,
    cache_in_the_data,
    text_as_cache,
    output_as_cache,
    output_in_the_report,
    labels_beyond_the_classes,
)


@pytest.mark.parametrize("make", BAD_INPUT, ids=lambda make: make.__name__)
def test_bad_input(make: Any, tmp_path: Path, onnxfit_command: Command) -> None:
    """One sentence and status 2; nothing is written."""
    arguments, sentence = make(tmp_path)
    before = below(tmp_path)
    given = (*FEW, "-o", tmp_path / "out.onnx", "--report", tmp_path / "r", *arguments)
    ran = onnxfit_command("calibrate", DIGITS, *given)
    assert (2, "", f"Error: {sentence}\n") == ran
    assert before == below(tmp_path)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "{ f = Flatten(x) y = Sigmoid(f) }",
            "the model has no Relu and no Clip with the lower bound 0. ",
        ),
        (None, "{} is not an ONNX file: it is a text file"),
    ],
)
def test_bad_models(
    text: str | None, sentence: str, tmp_path: Path, onnxfit_command: Command
) -> None:
    """One sentence and status 2; nothing is written."""
    path = tmp_path / "m.onnx"
    if text is None:
        path.write_text("no model\n")
    else:
        header = '<ir_version: 8, opset_import: ["": 17]> g (float[N,1,8,8] x) => (float[N,64] y) '
        save(parse(header + text), tmp_path)
    ran = onnxfit_command("calibrate", path, *FEW, "--report", tmp_path / "r")
    assert (2, "") == ran[:2]
    assert ran.err.startswith(f"Error: {sentence.format(path)}")
    assert 1 == ran.err.count("\n")
    assert [path] == list(tmp_path.iterdir())


def test_a_gain_that_no_sample_could_show_is_not_asked_for(
    tmp_path: Path, onnxfit_command: Command
) -> None:
    """A refinement takes the first attacked samples for itself; that is told at once."""
    asked = ("--refine", "--require-gain", "--attack-limit", "256")
    ran = onnxfit_command("calibrate", DIGITS, *FEW, *asked, "-o", tmp_path / "o.onnx")
    sentence = (
        "--refine with --require-gain needs an --attack-limit above 256: so many samples make the "
        "refinement, and others tell whether anything was gained."
    )
    assert (2, "") == ran[:2]
    assert ran.err.endswith(f"Error: {sentence}\n")
    assert [] == list(tmp_path.iterdir())


def test_the_cache_of_another_run_is_refused(tmp_path: Path, onnxfit_command: Command) -> None:
    """Other settings of the attacks, another model: what is kept stays."""
    cache, out = tmp_path / "c", tmp_path / "o.onnx"
    kept = ("--cache", cache, "-o", out)
    assert 0 == onnxfit_command("calibrate", DIGITS, *FEW, *kept).status
    out.unlink()
    before = cache.read_bytes()
    sentence = f"Error: {cache} is the cache of another model, data, settings or version\n"
    for model, other in ((ROBUST, ()), (DIGITS, ("--eps", "0.2")), (DIGITS, ("--limit", "70"))):
        ran = onnxfit_command("calibrate", model, *FEW, *other, *kept)
        assert (2, "") == ran[:2]
        assert ran.err.endswith(sentence)
        assert before == cache.read_bytes()
        assert not out.exists()


def test_an_interrupted_run_goes_on_where_it_was(
    calibrated: Calibrated, tmp_path: Path, monkeypatch: Any, onnxfit_command: Command
) -> None:
    """Status 130 and the cache alone; then the same document with fewer attacks."""
    attack, calls, stop = PGD._attack, 0, 40

    def counted(self: PGD, search: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        attack(self, search)

    monkeypatch.setattr(PGD, "_attack", counted)
    cache, out = tmp_path / "cache", tmp_path / "out.onnx"
    arguments = ("calibrate", DIGITS, *FEW, "--cache", cache, "-o", out)
    ran = onnxfit_command(*arguments, "--report", tmp_path / "r")
    assert (130, "") == ran[:2]
    assert ran.err.endswith("Interrupted.\n")
    assert "kept" not in ran.err
    assert [cache] == list(tmp_path.iterdir())
    calls = 0
    alone = onnxfit_command("calibrate", DIGITS, *FEW, "-o", out)
    assert "Nothing was kept; with --cache FILE it would have been.\n" in alone.err
    calls, stop = 0, 0
    again = onnxfit_command(*arguments, "--json")
    assert 0 == again.status
    resumed = calls
    found = json.loads(again.out)
    for key in ("curve", "before", "after", "strength", "sites", "race", "headline"):
        assert calibrated.document[key] == found[key]
    calls = 0
    third = onnxfit_command(*arguments, "--json", "--force")
    assert 0 == calls
    assert found["curve"] == json.loads(third.out)["curve"]
    assert 0 < resumed
    calls = 0
    assert 0 == onnxfit_command("calibrate", DIGITS, *FEW, "-o", out, "--force").status
    assert resumed + 30 < calls


def test_external_data_goes_with_the_output(tmp_path: Path, capsys: Any) -> None:
    """OUT finds its weights beside it, and the calibration is that of the same weights inside."""
    command = runner(capsys)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    onnx.save(
        onnx.load(DIGITS),
        source / "m.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    out = target / "m.onnx"
    ran = command("calibrate", source / "m.onnx", *FEW, "-o", out, "--copy-data", "--json")
    assert 0 == ran.status, ran.err
    assert ["m.onnx", "w.bin"] == sorted(path.name for path in target.iterdir())
    document = json.loads(ran.out)
    assert ["w.bin"] == list(document["model"]["external_data"])
    session = onnxruntime.InferenceSession(
        str(out), quiet(optimise=False), providers=["CPUExecutionProvider"]
    )
    inside = onnxfit.retrofit(DIGITS, jumps={s["name"]: s["jump"] for s in document["sites"]})
    other = onnxruntime.InferenceSession(
        inside.SerializeToString(), quiet(optimise=False), providers=["CPUExecutionProvider"]
    )
    with np.load(MODELS / "digits_test.npz") as file:
        feed = {"image": file["x"][:16]}
    np.testing.assert_array_equal(session.run(None, feed)[0], other.run(None, feed)[0])


def test_a_hardened_model_is_calibrated_anew(
    calibrated: Calibrated, tmp_path: Path, onnxfit_command: Command
) -> None:
    """Its own jumps are taken back, so that the output is that of its source."""
    model = save(onnxfit.retrofit(DIGITS, 0.9), tmp_path, "hard.onnx")
    given = ("-o", tmp_path / "out.onnx", "--json")
    ran = onnxfit_command("calibrate", model, *FEW, *given)
    assert 0 == ran.status
    assert str(model) == json.loads(ran.out)["model"]["path"]
    assert "The model was hardened already: its jumps were taken back first.\n" in ran.err
    expected = onnx.load(calibrated.folder / "out.onnx")
    assert expected == onnx.load(tmp_path / "out.onnx")


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_what_the_report_needs_is_told_first(
    package: str, tmp_path: Path, onnxfit_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 3 before anything is attacked."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(PGD, "_attack", lambda *_: pytest.fail("attacked"))
    given = ("-o", tmp_path / "out.onnx", "--report", tmp_path / "r")
    ran = onnxfit_command("calibrate", DIGITS, *FEW, *given)
    assert 3 == ran.status
    assert "pip install 'onnxfit[report]'" in ran.err
    assert [] == list(tmp_path.iterdir())


def test_warnings_go_to_stderr(tmp_path: Path, onnxfit_command: Command) -> None:
    """So that stdout stays one document; they are in it as well."""
    out = ("-o", tmp_path / "o.onnx", "--json", "--objective", "paper")
    ran = onnxfit_command("calibrate", DIGITS, *FEW, *out)
    (said,) = json.loads(ran.out)["warnings"]
    assert said.startswith("The jump was chosen by native gradients alone")
    assert f"{said}\n" in ran.err


def test_warnings_are_printed_once(tmp_path: Path, onnxfit_command: Command) -> None:
    """Without --json they stand below the tables."""
    out = ("-o", tmp_path / "o.onnx", "--objective", "paper")
    ran = onnxfit_command("calibrate", DIGITS, *FEW, *out)
    said = "The jump was chosen by native gradients alone"
    assert 1 == ran.out.count(f"warning    {said}")
    assert 1 == (ran.out + ran.err).count(said)


def test_a_cache_in_use_is_refused(tmp_path: Path, onnxfit_command: Command) -> None:
    """One sentence and status 2, as while another calibration measures."""
    cache, out = tmp_path / "c", tmp_path / "o.onnx"
    with closing(Cache(cache, {})):
        ran = onnxfit_command("calibrate", DIGITS, *FEW, "--cache", cache, "-o", out)
    assert (2, "", f"Error: the cache {cache} is in use by another process\n") == ran
    assert [cache] == list(tmp_path.iterdir())


def test_verifying_on_the_data_of_the_calibration_warns(
    tmp_path: Path, onnxfit_command: Command
) -> None:
    """On other data nothing is said."""
    said = (
        "The jumps were calibrated on this very data, so that the model looks better on it than "
        "on other data: verify on data that the calibration has not seen."
    )
    model, data = helpful(tmp_path)
    with np.load(data) as file:
        np.savez(tmp_path / "other.npz", x=file["x"][::-1], y=file["y"][::-1])
    settings = ("--eps", "0.1", "--steps", "1")
    budget = ("--max-drop", "0.05", "--attack-limit", "8", "--points", "8")
    assert 0 == onnxfit_command("calibrate", model, "--data", data, *settings, *budget).status
    for path, count in ((data, 1), (tmp_path / "other.npz", 0)):
        suite = ("--suite", "quick", "--limit", "10", "--json")
        ran = onnxfit_command("verify", tmp_path / "m.jump.onnx", "--data", path, *settings, *suite)
        assert count == json.loads(ran.out)["warnings"].count(said)
