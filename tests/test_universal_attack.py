"""Universal perturbations in ``attack``: made on some samples, judged by the file on others."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from command import Command, document_of
from numpy.typing import NDArray
from support import MODELS, parse

import onnxfit
from onnxfit.cli_attack_universal import UNIVERSAL

torch = pytest.importorskip("torch")

from attack_support import Constant  # noqa: E402

from onnxfit.attacks import UniversalPerturbation  # noqa: E402
from onnxfit.attacks.evasion import UniversalEvasion  # noqa: E402
from onnxfit.data import Batch, Dataset, from_arrays  # noqa: E402
from onnxfit.verification import universal_attack  # noqa: E402
from onnxfit.verification.suites import Threat  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402
from onnxfit.verification.universal import (  # noqa: E402
    KINDS,
    UNFOLLOWED,
    Verdicts,
    best,
    followed,
    halves,
    patterns,
    perturbed,
)

DIGITS, TEST, VAL = (
    MODELS / name for name in ("digits_cnn.onnx", "digits_test.npz", "digits_val.npz")
)
FEW = ("--data", TEST, "--limit", "60")
WEIGHTS = np.array([1.0, -2.0, 0.5, 0.25])


class Line(NamedTuple):
    """A linear model of two classes, its samples, and how far each is from the other class."""

    model: Path
    data: Path
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    margins: NDArray[np.float64]


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """The logits 0 and w·x − ½, for samples that no perturbation of 0.1 takes to a bound."""
    text = (
        '<ir_version: 8, opset_import: ["": 17]> line (float[N,1,2,2] x) => (float[N,2] y) '
        "<float[4,2] w = {0, 1, 0, -2, 0, 0.5, 0, 0.25}, float[2] b = {0, 0.5}> "
        "{ flat = Flatten(x) y = Gemm(flat, w, b) }"
    )
    onnx.save(parse(text), tmp_path / "line.onnx")
    x = np.random.default_rng(0).uniform(0.2, 0.8, (200, 1, 2, 2)).astype(np.float32)
    scores = x.reshape(200, 4).astype(np.float64) @ WEIGHTS + 0.5
    y = (scores > 0).astype(np.int64)
    np.savez(tmp_path / "line.npz", x=x, y=y)
    return Line(tmp_path / "line.onnx", tmp_path / "line.npz", x, y, scores)


def only(line: Line, label: int, path: Path) -> Path:
    """Write the samples of one class."""
    np.savez(path, x=line.x[line.y == label], y=line.y[line.y == label])
    return path


def test_the_choices_are_those_of_the_modules() -> None:
    """They are written out so that --help is quick."""
    assert KINDS == UNIVERSAL


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_model_falls_as_far_as_it_must(
    norm: str, line: Line, tmp_path: Path, onnxfit_command: Command
) -> None:
    """Against the weights, by eps times their dual norm: the rate and the points are exact."""
    data, out = only(line, 1, tmp_path / "ones.npz"), tmp_path / "out.npz"
    arguments = ("--data", data, "--attack", "uap", "--eps", "0.1", "--norm", norm)
    document = document_of(onnxfit_command, "attack", line.model, *arguments, "-o", out)
    y = np.ones(int(line.y.sum()), np.int64)
    _, rows = halves(y, 0)
    reach = 0.1 * np.linalg.norm(WEIGHTS, 1 if norm == "linf" else 2)
    margins = line.margins[line.y == 1][rows]
    assert np.abs(margins - reach).min() > 1e-4
    expected = int((margins < reach).sum())
    assert 5 < expected < len(rows) - 5
    found = document["universal"]
    assert expected / len(rows) == found["evasion_rate"] == found["evasion_rate_of_correct"]
    assert len(rows) == found["n"]
    assert len(y) - len(rows) == found["made_on"]["n"]
    assert expected == document["deployed_success"]
    assert 1 - expected / len(rows) == pytest.approx(document["robust_accuracy"])
    assert 1 == document["clean"]["accuracy"]
    with np.load(out) as written:
        direction = np.sign(WEIGHTS) if norm == "linf" else WEIGHTS / np.linalg.norm(WEIGHTS)
        np.testing.assert_allclose(-0.1 * direction, written["delta"].ravel(), atol=1e-5)
        np.testing.assert_array_equal(margins < reach, written["success"])
        assert len(rows) == len(written["x"]) == len(written["y"]) == len(written["distance"])
        assert 0.1 >= written["distance"].max() > 0.0999
        left = written["x"][~written["success"]]
        np.testing.assert_array_equal(line.x[line.y == 1][rows][margins >= reach], left)


def test_a_target_is_aimed_at(line: Line, onnxfit_command: Command) -> None:
    """Samples of the other class are taken for it as far as the weights allow."""
    arguments = ("--data", line.data, "--attack", "uap", "--eps", "0.1", "--target", "1")
    found = document_of(onnxfit_command, "attack", line.model, *arguments)["universal"]
    _, rows = halves(line.y, 0)
    others = line.margins[rows][line.y[rows] == 0]
    expected = (others > -0.1 * np.abs(WEIGHTS).sum()).mean()
    assert 0.1 < expected == pytest.approx(found["to_target"])
    assert found["to_target_ci95"][0] < expected < found["to_target_ci95"][1]
    # No sample of the target's own class is lost.
    assert found["evasion_rate"] == pytest.approx(expected * len(others) / len(rows))


def seen_by(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """Note the samples that perturbations are made on."""
    seen: list[Batch] = []

    def noting(attacks: Any, target: Target, samples: Batch, **how: Any) -> Any:
        seen.append(samples)
        return followed(attacks, target, samples, **how)

    monkeypatch.setattr(universal_attack, "followed", noting)
    return seen


def test_what_it_is_made_on_is_not_what_it_is_measured_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, onnxfit_command: Command
) -> None:
    """Together the halves are the data, and they share no sample; other data is left whole."""
    seen, out = seen_by(monkeypatch), tmp_path / "out.npz"
    arguments = ("--attack", "uap", "--eps", "1/100000", "--seed", "3", "-o", out, "--force")
    document_of(onnxfit_command, "attack", DIGITS, *FEW, *arguments)
    with np.load(TEST) as data, np.load(VAL) as val, np.load(out) as written:
        everything = {x.tobytes() for x in data["x"][:60]}
        made, measured = ({x.tobytes() for x in part} for part in (seen[0].x, written["x"]))
        assert everything == made | measured
        assert not made & measured
        assert [30, 30] == [len(made), len(measured)]
        other = val["x"]
    document = document_of(onnxfit_command, "attack", DIGITS, *FEW, *arguments, "--made-on", VAL)
    np.testing.assert_array_equal(other, seen[1].x)
    assert str(VAL) == document["universal"]["made_on"]["path"]
    assert [450, 60] == [document["universal"]["made_on"]["n"], document["universal"]["n"]]


def test_samples_that_are_measured_on_are_left_out_where_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, onnxfit_command: Command
) -> None:
    """Also where another file holds them; how many is told."""
    seen, mixed = seen_by(monkeypatch), tmp_path / "mixed.npz"
    with np.load(TEST) as data, np.load(VAL) as val:
        x = np.concatenate([data["x"][55:70], val["x"][:20]])
        np.savez_compressed(mixed, x=x, y=np.concatenate([data["y"][55:70], val["y"][:20]]))
    arguments = ("--attack", "uap", "--eps", "1/100000", "--made-on", mixed)
    document = document_of(onnxfit_command, "attack", DIGITS, *FEW, *arguments)
    np.testing.assert_array_equal(x[5:], seen[0].x)
    assert [30, 5] == [document["universal"]["made_on"][key] for key in ("n", "left_out")]
    assert 60 == document["universal"]["n"]
    printed = onnxfit_command("attack", DIGITS, *FEW, *arguments).out
    assert f"made on                 30 samples of {mixed}, without 5 of --data\n" in printed
    # The first 60 of a file do not keep the others of the same file from being used.
    document = document_of(onnxfit_command, "attack", DIGITS, *FEW, *arguments[:-1], TEST)
    assert [389, 60] == [document["universal"]["made_on"][key] for key in ("n", "left_out")]


def test_many_samples_are_thinned_where_it_is_made(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than a limit are held in memory, and all others are measured on."""
    seen = seen_by(monkeypatch)
    monkeypatch.setattr(universal_attack, "LIMIT", 10)
    attack = UniversalPerturbation(eps=0.1)
    data, threat = from_arrays(line.x, line.y), Threat(eps=0.1)
    document = universal_attack.run(Target(line.model), data, "uap", [attack], threat=threat)
    assert [10, 100] == [len(seen[0].x), document["universal"]["n"]]


def test_the_verdict_is_that_of_the_file(line: Line) -> None:
    """A twin that takes everything for another class changes nothing of what is counted."""
    target, data = Target(line.model), from_arrays(line.x, line.y)
    threat = Threat(eps=0.1)
    plain = universal_attack.run(target, data, "chessboard", [], threat=threat)
    target.twin = Constant([0.0, 1.0])
    assert plain == universal_attack.run(target, data, "chessboard", [], threat=threat)
    assert 1 == plain["clean"]["accuracy"]


def hiding(folder: Path) -> tuple[Path, Path]:
    """Write a model whose jump only a smooth gate sees, and its samples.

    The class changes where the first unit begins to fire, at x = 0.6, of which the true slope knows
    nothing; the ReLU slope is outweighed by that of the second unit, which pulls the other way.
    """
    text = (
        '<ir_version: 8, opset_import: ["": 17]> hiding (float[N,2] x) => (float[N,2] y) '
        "<float[2,2] w = {1, 1, 0, 0}, float[2] b = {0, 0.3}, "
        "float[2,2] v = {0, 2, 0, -2.2}, float[2] c = {0, 1.2}> "
        "{ wide = Gemm(x, w, b) h = Relu(wide) y = Gemm(h, v, c) }"
    )
    onnx.save(onnxfit.retrofit(parse(text), 0.6), folder / "hiding.onnx")
    x = np.full((40, 2), 0.5, np.float32)
    x[:, 0] = np.linspace(0.52, 0.58, 40)
    np.savez(folder / "hiding.npz", x=x, y=np.zeros(40, np.int64))
    return folder / "hiding.onnx", folder / "hiding.npz"


def test_a_hardened_model_is_attacked_with_every_backward(
    tmp_path: Path, onnxfit_command: Command
) -> None:
    """The one that does most where it is made is told; the native one beside it finds nothing."""
    model, data = hiding(tmp_path)
    document = document_of(
        onnxfit_command, "attack", model, "--data", data, "--attack", "uap", "--eps", "0.1"
    )
    found = document["universal"]
    backwards = ["true", "relu", "smooth 0.05", "smooth 0.1", "smooth 0.2", "smooth 0.5"]
    assert backwards == [one["backward"] for one in found["tried"]]
    rates = {one["backward"]: one["measured"]["evasion_rate"] for one in found["tried"]}
    assert [0, 0] == [rates["true"], rates["relu"]]
    assert found["backward"].startswith("smooth")
    assert [1, 0, 1] == [
        found["evasion_rate"],
        document["robust_accuracy"],
        document["native"]["robust_accuracy"],
    ]


def test_networks_that_it_does_not_follow_are_told(
    tmp_path: Path, onnxfit_command: Command
) -> None:
    """A denoised model has one."""
    path = tmp_path / "m.onnx"
    onnxfit.save(onnxfit.denoise(MODELS / "digits_cnn.onnx", 0.05, steps=2), path)
    arguments = ("--data", MODELS / "digits_test.npz", "--limit", "20", "--eps", "0.1")
    result = onnxfit_command("attack", path, *arguments, "--attack", "uap")
    assert 0 == result.status, result.err
    assert UNFOLLOWED.format("model") in result.err


def test_the_native_gradient_alone_is_labelled(tmp_path: Path, onnxfit_command: Command) -> None:
    """Who asks for it is told what it misses."""
    model, data = hiding(tmp_path)
    arguments = (model, "--data", data, "--attack", "uap", "--eps", "0.1", "--backward", "true")
    result = onnxfit_command("attack", *arguments)
    assert 0 == result.status
    assert result.err.startswith(
        "These are native gradients alone: they do not see across the jumps."
    )
    assert "misclassified           0.0%" in result.out
    assert "tried" not in result.out


def test_the_choice_is_made_where_it_is_made(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other half has no part in it: what is chosen by its own result looks too good."""
    seen = []

    def second(verdicts: Verdicts, goal: int | None) -> int:
        seen.append((verdicts.labels.tolist(), goal))
        return 1

    monkeypatch.setattr(universal_attack, "best", second)
    data, threat = from_arrays(line.x[:199], line.y[:199]), Threat(eps=0.1)
    document = universal_attack.run(Target(line.model), data, "perlin", [], threat=threat, goal=0)
    assert [(line.y[halves(line.y[:199], 0)[0]].tolist(), 0)] == seen
    found = document["universal"]
    assert found["tried"][1]["settings"] == found["settings"]
    assert found["tried"][1]["measured"].items() <= found.items()


def test_the_best_does_most_to_those_that_were_right() -> None:
    """The others are wrong anyway; with a class to aim at it is who gets there, of the others."""
    labels, before = np.array([0, 0, 0, 1]), np.array([0, 0, 2, 2])
    after = np.array([[0, 0, 1, 2], [0, 1, 0, 1], [0, 0, 2, 0]])
    verdicts = Verdicts(labels=labels, before=before, after=after)
    assert [1, 0, 2] == [best(verdicts, goal) for goal in (None, 1, 0)]
    assert [[], [1], []] == [np.flatnonzero(fooled).tolist() for fooled in verdicts.fooled]
    assert 0 == best(Verdicts(labels=labels, before=1 - labels, after=after))


@pytest.mark.parametrize("kind", ["chessboard", "perlin"])
def test_what_needs_no_model_is_measured_on_the_same_half(
    kind: str, tmp_path: Path, onnxfit_command: Command
) -> None:
    """So that all three compare; the parameters are chosen on the other half."""
    outs = {name: tmp_path / f"{name}.npz" for name in ("uap", kind)}
    found = {
        name: document_of(
            onnxfit_command, "attack", DIGITS, *FEW, "--attack", name, "--eps", "0.2", "-o", out
        )
        for name, out in outs.items()
    }
    with np.load(outs["uap"]) as one, np.load(outs[kind]) as other:
        np.testing.assert_array_equal(one["y"], other["y"])
        np.testing.assert_array_equal(
            one["x"][~one["success"] & ~other["success"]],
            other["x"][~one["success"] & ~other["success"]],
        )
        target = Target(DIGITS)
        with np.load(TEST) as data:
            x, y = data["x"][:60], data["y"][:60]
        rows = halves(y, 0)[1]
        points = perturbed(x[rows], other["delta"], Threat(eps=0.2))
        wrong = target.predictions(points) != y[rows]
        assert 0.2 == pytest.approx(np.abs(other["delta"]).max())
    universal = found[kind]["universal"]
    assert wrong.mean() == universal["evasion_rate"]
    assert "none" == universal["backward"]
    assert found[kind]["native"] is None
    best = max(one["made_on"]["evasion_rate_of_correct"] for one in universal["tried"])
    chosen = [one for one in universal["tried"] if one["settings"] == universal["settings"]]
    assert [best] == [one["made_on"]["evasion_rate_of_correct"] for one in chosen]


def test_the_parameters_that_are_tried() -> None:
    """Several cells that fit twice; periods within the image, all within eps, by the seed."""
    threat = Threat(eps=0.1, norm="l2")
    cells = [one.settings["cell"] for one in patterns("chessboard", (3, 8, 6), threat, 0)]
    assert [1, 2, 4] == cells
    noises = patterns("perlin", (1, 8, 8), threat, 0)
    assert all(2 <= one.settings["period"] <= 8 for one in noises)
    assert {1, 2, 3, 4} == {one.settings["octaves"] for one in noises}
    assert all(0.0999 < np.linalg.norm(one.delta) <= 0.1 for one in noises)
    again, other = (patterns("perlin", (1, 8, 8), threat, seed) for seed in (0, 1))
    assert [one.settings for one in noises] == [one.settings for one in again]
    assert [one.settings for one in noises] != [one.settings for one in other]


def test_points_that_8_bits_hold(onnxfit_command: Command, tmp_path: Path) -> None:
    """With --quantize they are levels, no farther than eps; samples that are none are refused."""
    with np.load(TEST) as data:
        x, y = (data["x"][:40] * 255).round().astype(np.uint8), data["y"][:40]
    np.savez(tmp_path / "bytes.npz", x=x, y=y)
    out = tmp_path / "out.npz"
    arguments = ("--attack", "uap", "--eps", "51/255", "--quantize", "-o", out)
    document = document_of(
        onnxfit_command, "attack", DIGITS, "--data", tmp_path / "bytes.npz", *arguments
    )
    assert document["deployed_success"] > 0
    with np.load(out) as written:
        levels = written["x"].astype(np.float64) * 255
        np.testing.assert_allclose(levels, levels.round(), atol=1e-4)
    result = onnxfit_command("attack", DIGITS, *FEW, *arguments, "--force")
    assert 2 == result.status
    assert "the samples are not on the 256 levels of 8 bits" in result.err


@pytest.mark.parametrize("seed", range(3))
def test_halves_hold_every_class(seed: int) -> None:
    """A class of two or more samples is in both; sizes differ by one at most."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(9), [1, 2, 3, 5, 8, 13, 21, 1, 7]))
    first, second = halves(labels, seed)
    assert list(range(len(labels))) == sorted([*first, *second])
    assert 0 <= len(first) - len(second) <= 1
    counts = [np.bincount(labels[half], minlength=9) for half in (first, second)]
    assert np.abs(counts[0] - counts[1]).max() <= 1
    assert (np.diff(first) > 0).all()
    assert (np.diff(second) > 0).all()
    assert not np.array_equal(first, halves(labels, seed + 1)[0])


def test_the_same_seed_gives_the_same(onnxfit_command: Command) -> None:
    """Another one splits otherwise."""
    arguments = (DIGITS, *FEW, "--attack", "uap", "--eps", "0.2", "--seed")
    first, again, other = (
        document_of(onnxfit_command, "attack", *arguments, seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first["universal"] != other["universal"]


def test_what_is_printed(onnxfit_command: Command) -> None:
    """Shares with their intervals, where it was made, and what was tried."""
    arguments = (DIGITS, *FEW, "--attack", "chessboard", "--eps", "0.2", "--target", "8")
    result = onnxfit_command("attack", *arguments)
    assert (0, "") == (result.status, result.err)
    for text in (
        "robust accuracy",
        "of 30 samples",
        f"made on                30 samples of {TEST}",
        "made with              cell ",
        "taken for class 8      ",
        "taken for class 8, measured on",
        "cell 4",
    ):
        assert text in result.out, text


def test_counts_of_classes() -> None:
    """−1 stands for NaN: misclassified, and never taken for a class."""
    labels, before, after = (np.array(each) for each in ([0, 1, 1, 0], [0, 1, 0, 0], [0, -1, 1, 1]))
    found = UniversalEvasion.counted(labels, before, after, 1)
    expected = {"n": 4, "n_correct": 3, "evaded": 2, "evaded_correct": 2}
    assert UniversalEvasion(**expected, n_others=2, reached=1) == found
    assert {"evasion_rate": 0.5, "to_target": 0.5}.items() <= found.record.items()
    assert "to_target" not in UniversalEvasion.counted(labels, before, after).record


BAD: dict[str, tuple[tuple[object, ...], str]] = {
    "class": (
        ("--attack", "uap", "--target", "10"),
        "the model has 10 classes, 0 to 9, but no class 10",
    ),
    "class of a pattern": (("--attack", "perlin", "--target", "10"), "but no class 10"),
    "target": (
        ("--attack", "pgd", "--target", "1"),
        "--target goes with --attack uap, chessboard, perlin alone.",
    ),
    "made on": (
        ("--attack", "fgsm", "--made-on", VAL),
        "--made-on goes with --attack uap, chessboard, perlin alone.",
    ),
    "the same": (
        ("--attack", "uap", "--made-on", TEST, "--limit", "1000"),
        f"{TEST} is what the perturbation is measured on",
    ),
    "missing": (("--attack", "uap", "--made-on", "nothing.npz"), "nothing.npz cannot be read"),
    "resume": (("--attack", "uap", "--resume"), "--resume does not go with --attack uap"),
    "steps": (("--attack", "uap", "--steps", "5"), "the attack uap has no setting steps"),
    "queries": (
        ("--attack", "perlin", "--queries", "5"),
        "the attack perlin has no setting queries",
    ),
    "backward": (
        ("--attack", "chessboard", "--backward", "all"),
        "the attack chessboard has no setting backward",
    ),
    "source": (
        ("--attack", "uap", "--source", DIGITS),
        "--source goes with --attack transfer, which needs one.",
    ),
    "one": (
        ("--attack", "uap", "--limit", "1"),
        f"{TEST} is a single sample, which cannot be split in two",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_usage(case: str, onnxfit_command: Command) -> None:
    """One sentence and status 2."""
    arguments, sentence = BAD[case]
    result = onnxfit_command("attack", DIGITS, *FEW, *arguments)
    assert 2 == result.status
    assert sentence in result.err
    assert "" == result.out


def test_patterns_need_images(tmp_path: Path, onnxfit_command: Command) -> None:
    """Vectors have no fields; nothing is written."""
    model, data = hiding(tmp_path)
    out = tmp_path / "out.npz"
    expected = "Error: expected the shape of an image, C×H×W or H×W×C, got (2,)\n"
    for kind in ("chessboard", "perlin"):
        arguments = ("--data", data, "--attack", kind, "-o", out)
        result = onnxfit_command("attack", model, *arguments)
        assert (2, "", expected) == result
    assert not out.exists()


def test_made_on_samples_of_another_shape(line: Line, onnxfit_command: Command) -> None:
    """They are for another model."""
    arguments = ("--data", TEST, "--attack", "uap", "--made-on", line.data)
    result = onnxfit_command("attack", DIGITS, *arguments)
    assert 2 == result.status
    assert result.err.startswith("Error: ")


def test_samples_by_number(line: Line) -> None:
    """Those with the numbers and no others, in order, however they are read."""
    data: Dataset = from_arrays(line.x, line.y)
    rows = np.array([0, 3, 4, 99, 199])
    for size in (1, 7, 500):
        taken = data.taken(rows, size)
        np.testing.assert_array_equal(line.x[rows], taken.x)
        np.testing.assert_array_equal(line.y[rows], taken.y)
