"""The verb ``verify``: the gate as a pipeline runs it."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from command import Command, runner
from support import MODELS, SHARED, parse

import onnxfit

torch = pytest.importorskip("torch")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

import masking_models  # noqa: E402

from onnxfit.attacks import PGD  # noqa: E402
from onnxfit.cli import main  # noqa: E402
from onnxfit.verification.target import Target  # noqa: E402

DIGITS, ROBUST = MODELS / "digits_cnn.onnx", MODELS / "digits_cnn_pgd.onnx"
TEST = MODELS / "digits_test.npz"
QUICK = ("--suite", "quick", "--steps", "8", "--eps", "0.1")
FEW = ("--data", TEST, "--limit", "60")
KEYS = {
    "schema_version",
    "model",
    "data",
    "clean",
    "attacks",
    "native",
    "worst_case",
    "baseline",
    "parity",
    "latency",
    "diagnostics",
    "rules",
    "universal",
    "verdict",
    "environment",
}


class Verified(NamedTuple):
    """A run with a report."""

    status: int
    out: str
    folder: Path
    result: dict[str, Any]


def save(model: onnx.ModelProto, folder: Path, name: str = "m.onnx") -> Path:
    """Write a model."""
    onnx.save(model, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network at jump 0.5."""
    return save(onnxfit.retrofit(DIGITS, 0.5), tmp_path_factory.mktemp("models"), "hard.onnx")


@pytest.fixture(scope="module")
def verified(hardened: Path, tmp_path_factory: pytest.TempPathFactory) -> Verified:
    """The hardened network, verified with a report."""
    folder = tmp_path_factory.mktemp("verified") / "report"
    arguments = ["verify", hardened, *FEW, *QUICK, "--report", folder, "--json"]
    ran = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return Verified(ran.exit_code, ran.stdout, folder, json.loads(ran.stdout))


def test_the_document_has_every_key(verified: Verified) -> None:
    """What is printed is result.json, with the keys of the contract."""
    assert verified.result == json.loads((verified.folder / "result.json").read_text())
    assert KEYS <= verified.result.keys()
    assert 1 == verified.result["schema_version"]
    assert {"path", "sha256", "sites", "jumps"} <= verified.result["model"].keys()
    assert {0.5} == set(verified.result["model"]["jumps"].values())
    assert 60 == verified.result["data"]["n"]
    for attack in verified.result["attacks"]:
        assert {
            "name",
            "settings",
            "norm",
            "eps",
            "robust_accuracy",
            "backward",
            "ci95",
            "twin_success",
            "deployed_success",
            "seconds",
        } <= attack.keys()


def test_the_large_jump_is_seen_through(verified: Verified) -> None:
    """Native gradients overstate, the surrogates find it, and the headline says what it costs."""
    result = verified.result
    native, worst = (result[key]["robust_accuracy"] for key in ("native", "worst_case"))
    assert worst <= native - 0.1
    assert worst < result["baseline"]["worst_case"]["robust_accuracy"]
    assert "less robust" in result["headline"]
    assert "more robust" not in result["headline"]
    found = {record["check"]: record for record in result["diagnostics"]}
    assert not found["native-gradients"]["passed"]
    assert all(record["passed"] for record in found.values() if record["gate"])


def test_a_significant_loss_fails_the_gate(verified: Verified) -> None:
    """Without other rules the model may not be less robust than its baseline."""
    assert 1 == verified.status
    assert "fail" == verified.result["verdict"]
    assert ["not_worse_than_baseline"] == [
        rule["rule"] for rule in verified.result["rules"] if not rule["passed"]
    ]


def test_the_corpus_fools_the_file(verified: Verified, hardened: Path) -> None:
    """Every kept input is misclassified by the file, near its sample, and as many as counted."""
    target = Target(hardened)
    with np.load(verified.folder / "adversarial.npz") as corpus, np.load(TEST) as data:
        assert (target.predictions(corpus["x"]) != corpus["y"]).all()
        moved = np.abs(corpus["x"].astype(np.float64) - data["x"][corpus["index"]])
        assert moved.max() <= 0.1
        np.testing.assert_array_equal(data["y"][corpus["index"]], corpus["y"])
        count = len(corpus["y"])
    clean, worst = verified.result["clean"], verified.result["worst_case"]
    assert count == round(60 * (clean["accuracy"] - worst["robust_accuracy"]))


def test_universal_perturbations_have_their_section(verified: Verified) -> None:
    """Both halves of the samples, both models, and a picture of what was made of each."""
    found = verified.result["universal"]
    assert [30, 30] == [found["made_on"], found["n"]]
    assert found["difference"]["p_value"] <= 1
    page = (verified.folder / "report.html").read_text()
    assert found["summary"] in page
    for name in ("hardened", "baseline"):
        assert f'alt="SGD-UAP of the {name}, magnified"' in page


def test_the_other_files_tell_the_same(verified: Verified) -> None:
    """Page and JUnit file carry the verdict and the headline."""
    page = (verified.folder / "report.html").read_text()
    assert verified.result["headline"].split(",")[0] in page
    suites = ET.parse(verified.folder / "junit.xml").getroot()  # noqa: S314 - our own file
    assert "1" == suites.get("failures")
    assert ["adversarial.npz", "junit.xml", "report.html", "result.json"] == sorted(
        path.name for path in verified.folder.iterdir()
    )


def test_saliency_is_measured_and_shown(verified: Verified) -> None:
    """The section has numbers of both models, and the page their table and the maps."""
    found = verified.result["saliency"]
    assert (6, None) == (found["n"], found["reason"])
    for side in ("model", "baseline"):
        measured = {name: record["n"] for name, record in found[side].items()}
        broken = {name: n for name, n in measured.items() if name.startswith(("stab", "noise"))}
        assert {6} == {n for name, n in measured.items() if name not in broken}
        assert 1 <= min(broken.values())
        assert all(-1 <= record["mean"] <= 1.5 for record in found[side].values())
    page = (verified.folder / "report.html").read_text()
    assert '<h2 id="saliency">' in page
    assert "Insertion AUC, by occlusion" in page
    for kind in ("gradient", "occlusion"):
        for place in ("input", "adversarial input"):
            assert 8 <= page.count(f"{kind} of the {place}")


def test_the_next_release_is_replayed_against_the_corpus(
    verified: Verified, onnxfit_command: Command
) -> None:
    """A file that is named is tried on another model first."""
    corpus = verified.folder / "adversarial.npz"
    ran = onnxfit_command("verify", ROBUST, *FEW, *QUICK, "--json", "--regression", corpus)
    replayed = json.loads(ran.out)["regression"]
    with np.load(corpus) as arrays:
        n = len(arrays["y"])
    assert n == replayed["n"]
    assert replayed["still_adversarial"] < n / 2
    assert str(corpus) == replayed["path"]


@pytest.mark.parametrize("model", [DIGITS, ROBUST])
def test_a_plain_model_is_its_own_baseline(model: Path, onnxfit_command: Command) -> None:
    """It passes where there is no rule, and trips no diagnostic."""
    ran = onnxfit_command("verify", model, *FEW, *QUICK, "--json")
    result = json.loads(ran.out)
    assert 0 == ran.status, result["diagnostics"]
    assert "pass" == result["verdict"]
    assert result["baseline"]["same_as_model"]
    assert result["baseline"]["worst_case"] == result["worst_case"]
    assert 0 == result["difference"]["robust_accuracy"]
    assert all(record["passed"] for record in result["diagnostics"] if record["gate"])
    assert "more robust" not in result["headline"]


RULES = {
    "min_clean": ("--min-clean", "0.99"),
    "min_robust": ("--min-robust", "0.9"),
    "max_slowdown": ("--max-slowdown", "0.01"),
    "max_drop": ("--max-drop", "0.05"),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_blocks(rule: str, tmp_path: Path, onnxfit_command: Command) -> None:
    """A rule that is not kept blocks the release with status 1, and is named."""
    jump = 3.0 if rule == "max_drop" else 0.5
    model = save(onnxfit.retrofit(DIGITS, jump), tmp_path)
    ran = onnxfit_command("verify", model, *FEW, *QUICK, *RULES[rule])
    assert 1 == ran.status
    assert f"FAILED     {rule}: " in ran.out
    assert ran.out.rstrip().endswith("fail")


def test_rules_that_are_kept_pass(tmp_path: Path, onnxfit_command: Command) -> None:
    """From a file; and what the command line says goes before it."""
    policy = tmp_path / "policy.toml"
    policy.write_text(
        'suite = "quick"\nsteps = 5\neps = "1/10"\nmin_clean = 0.9\nmin_robust = 0.99\n'
    )
    arguments = ("verify", ROBUST, *FEW, "--policy", policy, "--json")
    assert 1 == onnxfit_command(*arguments).status
    ran = onnxfit_command(*arguments, "--min-robust", "0.5")
    result = json.loads(ran.out)
    assert 0 == ran.status, result["rules"]
    assert ("quick", 0.1) == (result["suite"], result["eps"])
    assert {"min_clean": 0.9, "min_robust": 0.5} == {
        rule["rule"]: rule["bound"] for rule in result["rules"]
    }


@pytest.mark.slow
@pytest.mark.parametrize("masking", masking_models.MASKING, ids=lambda masking: masking.name)
def test_each_diagnostic_blocks(masking: Any, tmp_path: Path, onnxfit_command: Command) -> None:
    """A model whose evaluation cannot be trusted is blocked, for its own reason alone."""
    model = save(masking.build(), tmp_path)
    data = ("--data", TEST, "--limit", "150")
    suite = ("--suite", "quick", "--eps", masking.eps, "--min-clean", "0.5", "--json")
    ran = onnxfit_command("verify", model, *data, *suite)
    result = json.loads(ran.out)
    assert (1, "fail") == (ran.status, result["verdict"])
    assert [masking.check] == [
        record["check"]
        for record in result["diagnostics"]
        if record["gate"] and not record["passed"]
    ]
    assert all(rule["passed"] for rule in result["rules"])


def test_a_model_without_any_gradient_is_blocked(tmp_path: Path, onnxfit_command: Command) -> None:
    """Where no gradient passes at all, attacks that need one are left out, and the gate fails."""
    model = save(masking_models.integers(), tmp_path)
    ran = onnxfit_command("verify", model, *FEW, *QUICK)
    assert 1 == ran.status, ran.err
    assert "FAILED     zero-gradients: " in ran.out


def bad_models() -> dict[str, tuple[onnx.ModelProto, str]]:
    """Return models that are no classifiers of the digits, with what is said of them."""
    one = '<ir_version: 8, opset_import: ["": 17]> g (float[N,1,8,8] x) => (float[N,1] y) '
    two = '<ir_version: 8, opset_import: ["": 17]> g (float[N,8,8,1] x) => (float[N,10] y) '
    boxes = '<ir_version: 8, opset_import: ["": 17]> g (float[N,1,8,8] x) => (float[N,1,8,8] y) '
    return {
        "regression": (
            parse(one + "{ f = Flatten(x) \n y = ReduceMean <axes = [1]> (f) }"),
            "the model gives one number per sample, not the logits of at least two classes",
        ),
        "detection": (
            parse(boxes + "{ y = Relu(x) }"),
            "the first output of the model is 1×1×8×8 for 1 samples, not logits of N×classes",
        ),
        "channels last": (
            parse(two + "{ f = Flatten(x) \n y = Identity(f) }"),
            "the model's input 'x' takes samples of shape 8×8×1; those of the data are 1×8×8: the "
            "channels are first in the data and last in the model",
        ),
    }


@pytest.mark.parametrize("kind", bad_models())
def test_models_that_are_no_classifiers(
    kind: str, tmp_path: Path, onnxfit_command: Command
) -> None:
    """One sentence, status 2, nothing written."""
    model, sentence = bad_models()[kind]
    path = save(model, tmp_path)
    ran = onnxfit_command("verify", path, *FEW, *QUICK, "--report", tmp_path / "r")
    assert (2, "", f"Error: {sentence}\n") == ran
    assert not (tmp_path / "r").exists()


def arrays(**changes: Any) -> dict[str, Any]:
    """Return digits with something else in their place."""
    with np.load(TEST) as data:
        given = {"x": data["x"][:8], "y": data["y"][:8]}
    return {**given, **changes}


ZEROS = np.zeros((8, 1, 8, 8), np.float32)
BAD_DATA: dict[str, tuple[dict[str, Any], str]] = {
    "label": (
        arrays(y=np.array([0, 1, 2, 3, 10, 5, 6, 7])),
        "{}: the label of sample 4 is 10, but the model has 10 classes, 0 to 9",
    ),
    "NaN": (
        arrays(x=np.full((8, 1, 8, 8), np.nan, np.float32)),
        "{}: sample 0 has 64 of 64 values that are not within 0 and 1, such as nan",
    ),
    "the last NaN": (
        arrays(x=np.where(np.arange(8)[:, None, None, None] < 7, np.float32(0.5), np.nan) + ZEROS),
        "{}: sample 7 has 64 of 64 values that are not within 0 and 1, such as nan",
    ),
    "bounds": (
        arrays(x=np.full((8, 1, 8, 8), 255, np.float32)),
        "{}: sample 0 has 64 of 64 values that are not within 0 and 1, such as 255",
    ),
    "shape": (
        arrays(x=np.zeros((8, 1, 7, 8), np.float32)),
        "the model's input 'image' takes samples of shape 1×8×8; those of the data are 1×7×8",
    ),
    "order": (
        arrays(x=np.zeros((8, 8, 8, 1), np.float32)),
        "the model's input 'image' takes samples of shape 1×8×8; those of the data are 8×8×1: the "
        "channels are last in the data and first in the model",
    ),
    "empty": (
        arrays(x=np.zeros((0, 1, 8, 8), np.float32), y=np.zeros(0, np.int64)),
        "{}: the array 'x' is empty: its shape is 0×1×8×8",
    ),
}


@pytest.mark.parametrize("kind", BAD_DATA)
@pytest.mark.parametrize("verb", ["verify", "attack"])
def test_bad_data(kind: str, verb: str, tmp_path: Path, onnxfit_command: Command) -> None:
    """One sentence, status 2, nothing written."""
    content, sentence = BAD_DATA[kind]
    path = tmp_path / "d.npz"
    np.savez(path, **content)
    options = QUICK if verb == "verify" else ("--attack", "pgd")
    output = ("--report", tmp_path / "r") if verb == "verify" else ("-o", tmp_path / "o.npz")
    ran = onnxfit_command(verb, DIGITS, "--data", path, *options, *output)
    assert (2, "", f"Error: {sentence.format(path)}\n") == ran
    assert [path] == list(tmp_path.iterdir())


BAD_USE: dict[str, tuple[tuple[str, ...], str]] = {
    "eps 0": (("--eps", "0"), "Invalid value for '--eps': 0 is not above 0."),
    "eps -1": (("--eps=-1",), "Invalid value for '--eps': -1 is not above 0"),
    "bounds": (("--bounds", "1,0"), "'1,0' is not two numbers, the smaller one first."),
    "resume": (("--resume",), "--resume needs the DIR of the interrupted run."),
    "share": (("--min-clean", "1.5"), "Invalid value for '--min-clean': 1.5 is not from 0 to 1."),
}


@pytest.mark.parametrize("kind", BAD_USE)
def test_bad_usage(kind: str, onnxfit_command: Command) -> None:
    """One sentence and status 2."""
    arguments, sentence = BAD_USE[kind]
    ran = onnxfit_command("verify", DIGITS, *FEW, *arguments)
    assert 2 == ran.status
    assert sentence in ran.err


def test_a_policy_with_an_unknown_key(tmp_path: Path, onnxfit_command: Command) -> None:
    """The file and the key are named; status 2."""
    policy = tmp_path / "policy.toml"
    policy.write_text("min_cleen = 0.9\n")
    ran = onnxfit_command("verify", DIGITS, *FEW, "--policy", policy)
    assert 2 == ran.status
    assert ran.err.startswith(f"Error: {policy}: ")
    assert "min_cleen" in ran.err
    assert 1 == ran.err.count("\n")


def test_too_few_images_for_a_drop(onnxfit_command: Command) -> None:
    """How many are needed is said."""
    ran = onnxfit_command("verify", DIGITS, *FEW, *QUICK, "--max-drop", "0.01")
    assert 2 == ran.status
    assert "max_drop 0.01 needs at least 300 samples, and there are 60" in ran.err


def test_quantised_inputs_need_samples_on_the_levels(onnxfit_command: Command) -> None:
    """Digits have 17 shades, which are no levels of 8 bits."""
    ran = onnxfit_command("verify", DIGITS, *FEW, *QUICK, "--quantize")
    sentence = "the samples are not on the 256 levels of 8 bits between the bounds"
    assert (2, "", f"Error: {sentence}\n") == ran


def test_quantised_inputs_are_kept_in_bytes(tmp_path: Path, onnxfit_command: Command) -> None:
    """With --quantize every counted input is one of bytes, and fools the file as such."""
    with np.load(TEST) as data:
        x, y = np.rint(data["x"][:40] * 255).astype(np.uint8), data["y"][:40]
    np.savez(tmp_path / "d.npz", x=x, y=y)
    report = ("--report", tmp_path / "r", "--quantize")
    ran = onnxfit_command("verify", DIGITS, "--data", tmp_path / "d.npz", *QUICK, *report, "--json")
    assert 0 == ran.status
    with np.load(tmp_path / "r" / "adversarial.npz") as corpus:
        points, labels, index = corpus["x"], corpus["y"], corpus["index"]
    assert np.uint8 == points.dtype
    assert 5 < len(points)
    assert np.abs(points.astype(int) - x[index]).max() <= 25
    assert (Target(DIGITS).predictions(points.astype(np.float32) / 255) != labels).all()


def test_an_interrupted_run_is_resumed(
    hardened: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """Status 130, no report; then the same result as without a break, and nothing left over."""
    command = runner(capsys)
    arguments = ("verify", hardened, *FEW, *QUICK)
    command(*arguments, "--report", tmp_path / "whole")
    attack, calls = PGD._attack, 0

    def limited(self: PGD, search: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        attack(self, search)

    with monkeypatch.context() as patch:
        patch.setattr(PGD, "_attack", limited)
        ran = command(*arguments, "--report", tmp_path / "r")
    assert (130, "") == ran[:2]
    assert [".unfinished"] == [path.name for path in (tmp_path / "r").iterdir()]
    resumed = command(*arguments, "--report", tmp_path / "r", "--resume")
    assert 1 == resumed.status
    one, other = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "r")
    )
    for key in ("clean", "native", "worst_case", "difference", "curve", "verdict"):
        assert one[key] == other[key]
    bits = [(tmp_path / name / "adversarial.npz").read_bytes() for name in ("whole", "r")]
    assert len(bits[0]) == len(bits[1])
    assert not (tmp_path / "r" / ".unfinished").exists()


def test_probabilities_are_handled_and_said(tmp_path: Path, onnxfit_command: Command) -> None:
    """A Softmax at the end changes no verdict, and the document says what was done."""
    model = onnx.load(DIGITS)
    model.graph.node.append(onnx.helper.make_node("Softmax", [model.graph.output[0].name], ["p"]))
    model.graph.output[0].name = "p"
    path = save(model, tmp_path)
    found = []
    for each in (path, DIGITS):
        ran = onnxfit_command("verify", each, *FEW, *QUICK, "--json")
        found.append(json.loads(ran.out))
    said = "The model ends in a Softmax: the attacks use the logits before it."
    assert [said, *found[1]["warnings"]] == found[0]["warnings"]
    assert found[0]["native"] == found[1]["native"]


def test_what_only_looks_like_probabilities_is_said(
    tmp_path: Path, onnxfit_command: Command
) -> None:
    """A Softmax that is not the last node is warned about."""
    model = onnx.load(DIGITS)
    one = onnx.numpy_helper.from_array(np.array(1.0000001, np.float32), "one")
    model.graph.initializer.append(one)
    model.graph.node.extend(
        [
            onnx.helper.make_node("Softmax", [model.graph.output[0].name], ["q"]),
            onnx.helper.make_node("Mul", ["q", "one"], ["p"]),
        ]
    )
    model.graph.output[0].name = "p"
    path = save(model, tmp_path)
    said = "What the model gives looks like probabilities; the attacks take them as logits."
    assert f"warning    {said}" in onnxfit_command("verify", path, *FEW, *QUICK).out
    ran = onnxfit_command("attack", path, *FEW, "--attack", "fgsm")
    assert said in ran.err


def test_a_hardened_baseline_is_taken_back(hardened: Path, onnxfit_command: Command) -> None:
    """A bad model does not pass by being compared with itself."""
    ran = onnxfit_command("verify", hardened, "--baseline", hardened, *FEW, *QUICK, "--json")
    result = json.loads(ran.out)
    assert 1 == ran.status
    assert {} == result["baseline"]["model"]["jumps"]
    assert result["baseline"]["is_source"]


def test_another_baseline_is_not_called_the_source(
    hardened: Path, onnxfit_command: Command
) -> None:
    """What is compared is named for what it is."""
    ran = onnxfit_command("verify", hardened, "--baseline", ROBUST, *FEW, *QUICK, "--json")
    result = json.loads(ran.out)
    assert not result["baseline"]["is_source"]
    assert "for the baseline" in result["headline"]
    assert "hardening" not in result["headline"]


def test_a_baseline_of_other_classes_is_refused(
    hardened: Path, tmp_path: Path, onnxfit_command: Command
) -> None:
    """Two models that tell other classes apart cannot be compared."""
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,1,8,8] x) => (float[N,64] y) '
        "{ f = Flatten(x) \n y = Relu(f) }"
    )
    other = save(parse(text), tmp_path)
    ran = onnxfit_command("verify", hardened, "--baseline", other, *FEW, *QUICK)
    assert (2, "", "Error: the model knows 10 classes, its baseline 64\n") == ran


def test_too_few_samples_to_compare(hardened: Path, onnxfit_command: Command) -> None:
    """With four samples no loss is significant, and the gate does not pass on them."""
    ran = onnxfit_command("verify", hardened, "--data", TEST, "--limit", "4", *QUICK)
    sentence = "to compare two models takes at least 5 samples, and there are 4: with fewer no "
    assert (2, "", f"Error: {sentence}loss is significant\n") == ran


def test_a_loss_that_no_rule_looks_at_is_said(hardened: Path, onnxfit_command: Command) -> None:
    """Another rule takes the place of the comparison, which is warned about."""
    ran = onnxfit_command("verify", hardened, *FEW, *QUICK, "--min-clean", "0.5")
    assert 0 == ran.status
    said = "The model is less robust than its baseline, and no rule looks at that."
    assert f"warning    {said}" in ran.out


def test_the_report_replaces_nothing_that_is_read(
    verified: Verified, hardened: Path, tmp_path: Path, onnxfit_command: Command
) -> None:
    """Data, models and policy may not lie where a file of the report goes."""
    folder = tmp_path / "r"
    folder.mkdir()
    corpus = folder / "adversarial.npz"
    corpus.write_bytes((verified.folder / "adversarial.npz").read_bytes())
    before = corpus.read_bytes()
    ran = onnxfit_command("verify", hardened, "--data", corpus, *QUICK, "--report", folder)
    assert (2, "", f"Error: the report would replace {corpus}, which is read\n") == ran
    assert before == corpus.read_bytes()
    assert [corpus] == list(folder.iterdir())


def test_the_corpus_forgets_nothing(
    verified: Verified, hardened: Path, tmp_path: Path, onnxfit_command: Command
) -> None:
    """What fooled an earlier release stays in the corpus when a later run finds less."""
    folder = tmp_path / "r"
    folder.mkdir()
    corpus = folder / "adversarial.npz"
    corpus.write_bytes((verified.folder / "adversarial.npz").read_bytes())
    with np.load(corpus) as arrays:
        before = {int(index): x for index, x in zip(arrays["index"], arrays["x"], strict=True)}
    weak = ("--suite", "quick", "--steps", "2", "--eps", "0.001")
    ran = onnxfit_command("verify", hardened, *FEW, *weak, "--report", folder, "--json")
    assert len(before) == json.loads(ran.out)["regression"]["still_adversarial"]
    with np.load(corpus) as arrays:
        after = {int(index): x for index, x in zip(arrays["index"], arrays["x"], strict=True)}
    assert before.keys() == after.keys()
    for index, point in before.items():
        np.testing.assert_array_equal(point, after[index])


def test_a_run_on_other_weights_is_not_resumed(
    tmp_path: Path, onnxfit_command: Command, monkeypatch: Any
) -> None:
    """The journal knows external weights, not only the file that names them."""
    folders = []
    for source in (DIGITS, ROBUST):
        folders.append(tmp_path / source.stem)
        folders[-1].mkdir()
        onnx.save(
            onnx.load(source),
            folders[-1] / "m.onnx",
            save_as_external_data=True,
            location="w.bin",
            size_threshold=0,
        )
    model = folders[0] / "m.onnx"
    attack = PGD._attack

    def stopped(self: PGD, search: Any) -> None:
        if self.loss == "margin":
            raise KeyboardInterrupt
        attack(self, search)

    arguments = ("verify", model, *FEW, *QUICK, "--report", tmp_path / "r")
    with monkeypatch.context() as patch:
        patch.setattr(PGD, "_attack", stopped)
        assert 130 == onnxfit_command(*arguments).status
    (folders[0] / "w.bin").write_bytes((folders[1] / "w.bin").read_bytes())
    ran = onnxfit_command(*arguments, "--resume")
    assert 2 == ran.status
    assert "holds an unfinished run of another model, data or settings" in ran.err
    again = onnxfit_command(*arguments)
    assert "An unfinished run in" in again.err
    assert 0 == again.status


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--norm", "l2"), "the suite paper has norms and units of its own"),
        (("--quantize",), "the suite paper has norms and units of its own"),
        (("--min-robust", "0.5"), "the suite paper finds no worst case"),
    ],
)
def test_what_the_papers_suite_has_not(
    options: tuple[str, ...], sentence: str, hardened: Path, onnxfit_command: Command
) -> None:
    """Settings that would mean nothing are refused."""
    ran = onnxfit_command("verify", hardened, *FEW, "--suite", "paper", *options)
    assert 2 == ran.status
    assert sentence in ran.err


def test_python_returns_the_document(hardened: Path) -> None:
    """The function takes arrays, and gives what the command line prints."""
    with np.load(TEST) as data:
        samples = (data["x"][:20], data["y"][:20])
    result = onnxfit.verify(hardened, samples, suite="quick", eps=0.1, steps=5)
    assert isinstance(result.passed, bool)
    assert result["worst_case"] == json.loads(result.to_json())["worst_case"]
    assert result.headline == result["headline"]
    assert 20 == result["data"]["n"]


def test_the_papers_suite(hardened: Path, onnxfit_command: Command) -> None:
    """It has the paper's attacks and measures, and claims no worst case."""
    ran = onnxfit_command("verify", hardened, *FEW, "--suite", "paper", "--json")
    result = json.loads(ran.out)
    assert 0 == ran.status, ran.err
    names = ["ifgsm", "deepfool-linf", "deepfool-l2", "trust-region-l2"]
    adaptive = "trust-region-adaptive-l2"
    own = [*names, *(f"transfer-{name}" for name in names)]
    assert [*own, adaptive, f"transfer-{adaptive}"] == [a["name"] for a in result["attacks"]]
    for attack in result["attacks"]:
        assert {"accuracy", "mean_relative_perturbation", "mean_absolute_perturbation"} <= (
            attack.keys()
        )
    assert "native gradients alone" in result["headline"]
    assert result["worst_case"] is None
    assert result["universal"] is None


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not there")
def test_the_authors_network(tmp_path: Path, onnxfit_command: Command) -> None:
    """At jump 1 and eps 0.1 the paper's network looks better and is worse, as was measured."""
    lenet = SHARED / "models" / "derived" / "jumprelu_lenet_baseline.onnx"
    model = save(onnxfit.retrofit(lenet, 1.0), tmp_path)
    data = ("--data", SHARED / "data" / "mnist_0_4999.npz", "--limit", "200")
    normalised = ("--mean", "0.1307", "--std", "0.3081")
    suite = ("--suite", "quick", "--steps", "40", "--eps", "0.1", "--json")
    result = json.loads(onnxfit_command("verify", model, *data, *normalised, *suite).out)
    assert result["native"]["robust_accuracy"] >= 0.8
    assert result["worst_case"]["robust_accuracy"] <= 0.66
    assert "less robust" in result["headline"] or "no difference" in result["headline"]
