"""The verb ``finetune`` as a user runs it."""

import dataclasses
import io
import itertools
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import Command, runner
from support import MODELS

torch = pytest.importorskip("torch")

from onnxfit import cli, cli_finetune  # noqa: E402
from onnxfit.cli_signals import ONCE_MORE, interrupted_once  # noqa: E402
from onnxfit.finetuning import finetuner  # noqa: E402
from onnxfit.finetuning.augmentation import KINDS  # noqa: E402
from onnxfit.finetuning.course import Course  # noqa: E402
from onnxfit.finetuning.settings import Settings  # noqa: E402
from onnxfit.finetuning.terms import TERMS  # noqa: E402
from onnxfit.record import provenance  # noqa: E402
from onnxfit.twin.write_back import write_back  # noqa: E402

DIGITS = MODELS / "digits_cnn.onnx"
DATA = ("--data", MODELS / "digits_val.npz", "--val", MODELS / "digits_test.npz")
QUICK = ("--eps", "0.1", "--epochs", "2", "--steps", "2", "--val-limit", "60")
GENTLE = ("--learning-rate", "1e-4")


@pytest.fixture
def onnxfit_command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line."""
    return runner(capsys)


def test_the_tuned_model_is_written(tmp_path: Path, onnxfit_command: Command) -> None:
    """Status 0; what is printed is one document, and nothing else lies beside the file."""
    out = tmp_path / "out.onnx"
    ran = onnxfit_command("finetune", DIGITS, *DATA, *QUICK, *GENTLE, "-o", out, "--json")
    assert 0 == ran.status, ran.err
    document: dict[str, Any] = json.loads(ran.out)
    assert [out] == list(tmp_path.iterdir())
    onnx.checker.check_model(str(out), full_check=True)
    assert str(out) == document["output"]
    assert [1, 2] == [record["epoch"] for record in document["history"]]
    assert ["shift"] == document["augment"]
    assert {"adversarial": 1.0} == document["methods"]
    assert document["data"]["train"]["sha256"] != document["data"]["validation"]["sha256"]
    record = provenance(onnx.load(out))["finetuning"]
    assert document["after"]["clean"]["accuracy"] == record["after"]["clean"]


def test_checks_are_printed(tmp_path: Path, onnxfit_command: Command) -> None:
    """As a table, with what they came to in a sentence."""
    out = tmp_path / "out.onnx"
    ran = onnxfit_command("finetune", DIGITS, *DATA, *QUICK, *GENTLE, "-o", out)
    assert 0 == ran.status, ran.err
    lines = [line.split() for line in ran.out.splitlines() if line.strip()]
    assert ["epoch", "loss", "clean", "robust", "budget"] == lines[0]
    assert ["1", "2"] == [line[0] for line in lines if line[-1:] in (["inside"], ["outside"])]
    assert "Of 60 validation samples APGD, 20 steps within 0.1 (linf), leaves" in ran.out
    assert ran.out.endswith(f"wrote {out}\n")


def test_nothing_is_written_outside_the_budget(tmp_path: Path, onnxfit_command: Command) -> None:
    """Status 1, and the reason."""
    out = tmp_path / "out.onnx"
    harsh = ("--learning-rate", "0.05", "--max-drop", "0")
    ran = onnxfit_command("finetune", DIGITS, *DATA, *QUICK, *harsh, "-o", out)
    assert 1 == ran.status
    assert ran.out.endswith("No check kept the budget of clean accuracy: no weights are written.\n")
    assert [] == list(tmp_path.iterdir())


def test_ctrl_c_writes_the_best_so_far(
    tmp_path: Path, onnxfit_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 130, as of every verb that is interrupted."""
    run_epoch = Course.run_epoch

    def interrupted(self: Any, advance: Any) -> None:
        if self.trainer.epoch == 2:
            raise KeyboardInterrupt
        run_epoch(self, advance)

    monkeypatch.setattr(Course, "run_epoch", interrupted)
    out = tmp_path / "out.onnx"
    more = ("--epochs", "9", "--max-drop", "1", "--val-limit", "20")
    ran = onnxfit_command("finetune", DIGITS, *DATA, *QUICK, *GENTLE, *more, "-o", out)
    assert 130 == ran.status
    assert "interrupted" in ran.out
    assert ran.err.endswith("Interrupted.\n")
    onnx.checker.check_model(str(out), full_check=True)
    monkeypatch.undo()
    ran = onnxfit_command(
        "finetune", DIGITS, *DATA, *QUICK, *GENTLE, *more, "-o", out, "--resume", "--json"
    )
    assert 0 == ran.status, ran.err
    assert 9 == json.loads(ran.out)["epochs"]
    assert [out] == list(tmp_path.iterdir())


def test_ctrl_c_before_anything_was_kept(
    tmp_path: Path, onnxfit_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written, which is told; and where checks outside the budget can go on from."""
    run_epoch, out, stop = Course.run_epoch, tmp_path / "out.onnx", [0]

    def interrupted(self: Any, advance: Any) -> None:
        if self.trainer.epoch == stop[0]:
            raise KeyboardInterrupt
        run_epoch(self, advance)

    monkeypatch.setattr(Course, "run_epoch", interrupted)
    harsh = ("--learning-rate", "0.05", "--max-drop", "0", "--val-limit", "20")
    for stop[0], later in ((0, ""), (1, f"; --resume goes on from {out}.checkpoint")):
        ran = onnxfit_command("finetune", DIGITS, *DATA, *QUICK, *harsh, "-o", out)
        assert (130, "") == (ran.status, ran.out)
        told = f"No check was inside the budget yet: nothing is written{later}.\nInterrupted.\n"
        assert ran.err.endswith(told)
        assert not out.exists()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise, also where these tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("numbers", list(itertools.product(("SIGINT", "SIGTERM"), repeat=2)))
def test_a_second_signal_does_not_lose_the_best(
    numbers: tuple[str, str],
    tmp_path: Path,
    onnxfit_command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the weights are put into the file; nothing false is said of them."""
    first, second = (getattr(signal, name) for name in numbers)
    run_epoch = Course.run_epoch

    def interrupted(self: Any, advance: Any) -> None:
        if self.trainer.epoch == 1:
            os.kill(os.getpid(), first)
        run_epoch(self, advance)

    def interrupted_again(*arguments: Any) -> Any:
        os.kill(os.getpid(), second)
        return write_back(*arguments)

    monkeypatch.setattr(Course, "run_epoch", interrupted)
    monkeypatch.setattr(finetuner, "write_back", interrupted_again)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    out = tmp_path / "out.onnx"
    loose = ("--max-drop", "1")
    ran = onnxfit_command("finetune", DIGITS, *DATA, *QUICK, *GENTLE, *loose, "-o", out)
    status, word = {"SIGINT": (130, "Interrupted"), "SIGTERM": (143, "Terminated")}[numbers[0]]
    assert (status, f"{ONCE_MORE}\n{word}.\n") == (ran.status, ran.err)
    assert f"wrote {out}" in ran.out
    onnx.checker.check_model(str(out), full_check=True)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_third_signal_ends_what_hangs(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the second one is passed over, though nobody can be told; it is as before afterwards."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    before, ended = signal.getsignal(signal.SIGINT), 0
    with cli._ending_cleanly(), interrupted_once():
        for _ in range(4):
            try:
                os.kill(os.getpid(), number)
            except KeyboardInterrupt:
                ended += 1
    assert 3 == ended
    assert before == signal.getsignal(signal.SIGINT)


def test_ctrl_c_while_the_result_is_written(
    tmp_path: Path, onnxfit_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a training that is over nothing is lost: --resume writes it."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finetuner, "write_back", interrupted)
    out = tmp_path / "out.onnx"
    command = ("finetune", DIGITS, *DATA, *QUICK, "--max-drop", "1", "-o", out)
    ran = onnxfit_command(*command)
    told = f"--resume goes on from {out}.checkpoint.\nInterrupted.\n"
    assert (130, told) == (ran.status, ran.err)
    assert not out.exists()
    monkeypatch.undo()
    monkeypatch.setattr(Course, "run_epoch", None)
    assert 0 == onnxfit_command(*command, "--resume").status
    assert out.exists()


def test_resume_goes_on(
    tmp_path: Path, onnxfit_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the checkpoint beside the file; without it from the beginning."""
    out, settings = tmp_path / "out.onnx", (*QUICK, *GENTLE, "--max-drop", "1", "--epochs", "3")
    epochs: list[int] = []
    run_epoch = Course.run_epoch

    def noted(self: Any, advance: Any) -> None:
        if epochs == [0, 1]:
            epochs.append(-1)
            raise OSError(5, "the disk is gone")
        epochs.append(self.trainer.epoch)
        run_epoch(self, advance)

    monkeypatch.setattr(Course, "run_epoch", noted)
    command = ("finetune", DIGITS, *DATA, *settings, "-o", out)
    assert 2 == onnxfit_command(*command).status
    assert [tmp_path / "out.onnx.checkpoint"] == list(tmp_path.iterdir())
    ran = onnxfit_command(*command)
    assert 2 == ran.status
    assert "out.onnx.checkpoint exists; give --force to replace it" in ran.err
    assert 0 == onnxfit_command(*command, "--resume").status
    assert [0, 1, -1, 2] == epochs
    assert [out] == list(tmp_path.iterdir())
    ran = onnxfit_command(*command, "--force", "--resume")
    assert 0 == ran.status
    assert "out.onnx.checkpoint: the training begins anew." in ran.err
    assert [0, 1, -1, 2, 0, 1, 2] == epochs


def test_resume_replaces_only_what_the_training_wrote(
    tmp_path: Path, onnxfit_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other file needs --force, a model that was fine-tuned in another way included."""
    run_epoch, out = Course.run_epoch, tmp_path / "out.onnx"
    settings = (*QUICK, *GENTLE, "--max-drop", "1", "--val-limit", "20")

    def interrupted(self: Any, advance: Any) -> None:
        if self.trainer.epoch == 1:
            raise KeyboardInterrupt
        run_epoch(self, advance)

    command = ("finetune", DIGITS, *DATA, *settings, "-o", out)
    assert 0 == onnxfit_command(*command, "--seed", "1").status
    other = out.read_bytes()
    monkeypatch.setattr(Course, "run_epoch", interrupted)
    assert 130 == onnxfit_command(*command, "--force").status
    monkeypatch.undo()
    mine = out.read_bytes()
    for content in (b"mine", DIGITS.read_bytes(), other):
        out.write_bytes(content)
        ran = onnxfit_command(*command, "--resume")
        assert (2, content) == (ran.status, out.read_bytes())
        assert f"{out} exists; give --force to replace it" in ran.err
    assert 0 == onnxfit_command(*command, "--resume", "--force").status
    whole = out.read_bytes()
    monkeypatch.setattr(Course, "run_epoch", interrupted)
    assert 130 == onnxfit_command(*command, "--force").status
    monkeypatch.undo()
    assert mine == out.read_bytes()
    assert 0 == onnxfit_command(*command, "--resume").status
    assert whole == out.read_bytes()


def test_the_training_outlives_a_full_disk(
    tmp_path: Path, onnxfit_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint stays until the model is written."""

    def failing(*_: Any, **options: Any) -> None:
        if not options.get("dry_run"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli_finetune, "write_model", failing)
    out = tmp_path / "out.onnx"
    command = ("finetune", DIGITS, *DATA, *QUICK, *GENTLE, "-o", out)
    assert 2 == onnxfit_command(*command).status
    assert [tmp_path / "out.onnx.checkpoint"] == list(tmp_path.iterdir())
    monkeypatch.undo()
    monkeypatch.setattr(Course, "run_epoch", None)
    assert 0 == onnxfit_command(*command, "--resume").status
    assert [out] == list(tmp_path.iterdir())


def test_sigterm_has_its_own_status(
    tmp_path: Path, onnxfit_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best weights so far are written all the same."""
    run_epoch = Course.run_epoch

    def terminated(self: Any, advance: Any) -> None:
        if self.trainer.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        run_epoch(self, advance)

    monkeypatch.setattr(Course, "run_epoch", terminated)
    out = tmp_path / "out.onnx"
    ran = onnxfit_command("finetune", DIGITS, *DATA, *QUICK, "--max-drop", "1", "-o", out)
    assert 143 == ran.status
    assert out.exists()


def test_the_checkpoint_takes_no_files_place(tmp_path: Path, onnxfit_command: Command) -> None:
    """Neither that of the model nor that of the data, and no other one's without --force."""
    model = tmp_path / "out.onnx.checkpoint"
    model.write_bytes(DIGITS.read_bytes())
    for force in ((), ("--force",), ("--resume",)):
        ran = onnxfit_command("finetune", model, *DATA, *QUICK, "-o", tmp_path / "out.onnx", *force)
        assert 2 == ran.status
        assert "is the input" in ran.err
    ran = onnxfit_command("finetune", DIGITS, *DATA, *QUICK, "-o", tmp_path / "out.onnx")
    assert (2, DIGITS.read_bytes()) == (ran.status, model.read_bytes())
    assert [model] == list(tmp_path.iterdir())


def test_warnings_are_shown(tmp_path: Path, onnxfit_command: Command) -> None:
    """On stderr, of data that say less than they seem to."""
    same = ("--data", MODELS / "digits_val.npz", "--val", MODELS / "digits_val.npz")
    out = tmp_path / "out.onnx"
    tight = ("--max-drop", "0.001")
    ran = onnxfit_command("finetune", DIGITS, *same, *QUICK, *tight, "-o", out, "--json")
    warnings = json.loads(ran.out)["warnings"]
    assert warnings == ran.err.splitlines()
    assert ["450 of the 450 validation s", "One of the 450 validation s"] == [
        warning[:27] for warning in warnings
    ]


def test_what_click_offers_is_what_there_is() -> None:
    """The names are written out there, so that --help need not import torch."""
    assert tuple(TERMS) == cli_finetune.METHODS
    assert tuple(KINDS) == cli_finetune.AUGMENTATIONS


def test_the_defaults_that_the_help_shows_are_those_of_python() -> None:
    """Click holds some as text, which is read as a number is."""
    shown = {
        option.name: option.default
        for option in cli_finetune.finetune.params
        if getattr(option, "show_default", False)
    }
    own = {"epochs", "learning_rate", "schedule", "weight_decay", "averaging", "projections"}
    assert {*own, "max_drop", "validation_limit", "batch_size", "seed"} <= shown.keys()
    for name, default in dataclasses.asdict(Settings()).items():
        if name in shown and name not in ("mean", "std"):
            assert default == type(default)(shown[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "magic=1"), "'magic' is none of adversarial, trades, jacobian"),
        (("--method", "trades=x"), "'x' is not a number."),
        (("--method", "trades=0"), "the weight of trades is not above 0."),
        (("--method", "jacobian"), "jacobian needs a weight, such as jacobian=0.001."),
        (("--method", "trades", "--method", "trades=2"), "'trades' is given twice."),
        (("--method", "adversarial=2"), "a weight of adversarial of at most 1, got 2.0"),
        (("--augment", "none", "--augment", "flip"), "'none' goes with nothing else."),
        (("--eps", "0"), "0 is not above 0."),
        (("--max-drop", "2"), "expected max_drop from 0 to 1, got 2.0"),
        (("--batch-size", "1000"), "has 450 samples, fewer than a batch of 1000"),
        (("--jump", "-1"), "-1 is not a finite number of at least 0."),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: tuple[str, ...], message: str, tmp_path: Path, onnxfit_command: Command
) -> None:
    """Status 2, nothing written."""
    out = tmp_path / "out.onnx"
    ran = onnxfit_command("finetune", DIGITS, *DATA, *QUICK, *arguments, "-o", out)
    assert 2 == ran.status
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert [] == list(tmp_path.iterdir())


def test_files_are_not_confused(tmp_path: Path, onnxfit_command: Command) -> None:
    """An existing file needs --force; neither model nor data is overwritten."""
    out = tmp_path / "out.onnx"
    out.write_bytes(b"mine")
    ran = onnxfit_command("finetune", DIGITS, *DATA, *QUICK, "-o", out)
    assert (2, b"mine") == (ran.status, out.read_bytes())
    assert "exists; give --force to replace it" in ran.err
    ran = onnxfit_command("finetune", DIGITS, *DATA, *QUICK, "-o", DIGITS, "--force")
    assert 2 == ran.status
    assert "is the input" in ran.err


def test_labels_are_needed(tmp_path: Path, onnxfit_command: Command) -> None:
    """The file that has none is named."""
    bare = tmp_path / "bare.npz"
    with np.load(MODELS / "digits_val.npz") as data:
        np.savez(bare, x=data["x"])
    ran = onnxfit_command(
        "finetune", DIGITS, "--data", bare, *DATA[2:], *QUICK, "-o", tmp_path / "out.onnx"
    )
    assert 2 == ran.status
    assert "bare.npz" in ran.err
    assert [bare] == list(tmp_path.iterdir())


def test_weights_of_another_file(tmp_path: Path, onnxfit_command: Command) -> None:
    """What is trained is in the model, what stays is in the file beside it, as it was."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    source, out = tmp_path / "in" / "m.onnx", tmp_path / "out" / "m.onnx"
    onnx.save(
        onnx.load(DIGITS),
        source,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    before = (tmp_path / "in" / "weights.bin").read_bytes()
    ran = onnxfit_command("finetune", source, *DATA, *QUICK, *GENTLE, "-o", out, "--copy-data")
    assert 0 == ran.status, ran.err
    assert {"m.onnx", "weights.bin"} == {path.name for path in out.parent.iterdir()}
    assert before == (out.parent / "weights.bin").read_bytes()
    assert before == (tmp_path / "in" / "weights.bin").read_bytes()
    bare = onnx.load(out, load_external_data=False)
    outside = {
        t.name for t in bare.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL
    }
    assert outside
    assert all(name.rpartition(".")[2] in ("running_mean", "running_var") for name in outside)
    ran = onnxfit_command("finetune", DIGITS, *DATA, *QUICK, *GENTLE, "-o", tmp_path / "whole.onnx")
    assert 0 == ran.status, ran.err
    whole = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in onnx.load(tmp_path / "whole.onnx").graph.initializer
    }
    for tensor in onnx.load(out).graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), whole[tensor.name])


def test_probabilities_are_trained_by_the_logits_before(
    tmp_path: Path, onnxfit_command: Command
) -> None:
    """A Softmax at the end stays, and the weights come out as without it."""
    model = onnx.load(DIGITS)
    (logits,) = model.graph.output
    model.graph.node.append(onnx.helper.make_node("Softmax", [logits.name], ["probabilities"]))
    logits.name = "probabilities"
    onnx.save(model, tmp_path / "soft.onnx")
    written = {}
    for name, source in (("soft", tmp_path / "soft.onnx"), ("plain", DIGITS)):
        out = tmp_path / f"{name}.tuned.onnx"
        ran = onnxfit_command("finetune", source, *DATA, *QUICK, *GENTLE, "-o", out)
        assert 0 == ran.status, ran.err
        written[name] = onnx.load(out)
    assert "Softmax" == written["soft"].graph.node[-1].op_type
    assert written["plain"].graph.initializer == written["soft"].graph.initializer


def test_folders_of_images(tmp_path: Path, onnxfit_command: Command) -> None:
    """Samples may be image files, a folder for each class; the same come out as of arrays."""
    image = pytest.importorskip("PIL.Image")
    data: list[object] = []
    arrays: list[object] = []
    for option, name in (("--data", "digits_val"), ("--val", "digits_test")):
        with np.load(MODELS / f"{name}.npz") as file:
            x, y = np.rint(file["x"][:120] * 255).astype(np.uint8), file["y"][:120]
        order = np.argsort(y, kind="stable")
        for row in order:
            folder = tmp_path / name / str(y[row])
            folder.mkdir(parents=True, exist_ok=True)
            image.fromarray(x[row, 0]).save(folder / f"{row:03}.png")
        np.savez(tmp_path / f"{name}.npz", x=x[order], y=y[order])
        data += [option, tmp_path / name]
        arrays += [option, tmp_path / f"{name}.npz"]
    weights = []
    for number, given in enumerate((data, arrays)):
        out = tmp_path / f"{number}.onnx"
        loose = ("--max-drop", "1")
        ran = onnxfit_command("finetune", DIGITS, *given, *QUICK, *GENTLE, *loose, "-o", out)
        assert 0 == ran.status, ran.err
        weights.append(onnx.load(out).graph.initializer)
    assert weights[0] == weights[1]
