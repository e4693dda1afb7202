"""Fine-tuning: the epochs, the choice by validation data, what is written and what is refused."""

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from support import MODELS

torch = pytest.importorskip("torch")

import onnxfit  # noqa: E402
from onnxfit.attacks.apgd import APGD  # noqa: E402
from onnxfit.data import from_arrays  # noqa: E402
from onnxfit.errors import DataError, ModelError  # noqa: E402
from onnxfit.finetuning.checkpoint import Checkpoint  # noqa: E402
from onnxfit.finetuning.finetuner import Finetuned, finetune  # noqa: E402
from onnxfit.finetuning.settings import Settings  # noqa: E402
from onnxfit.finetuning.terms.adversarial import Adversarial  # noqa: E402
from onnxfit.finetuning.terms.j_sigr import SelectiveInputGradient  # noqa: E402
from onnxfit.finetuning.terms.jacobian import Jacobian  # noqa: E402
from onnxfit.finetuning.terms.term import Batch, Threat  # noqa: E402
from onnxfit.finetuning.trainer import Diverged, Trainer  # noqa: E402
from onnxfit.finetuning.validation import Validator, Worth  # noqa: E402
from onnxfit.record import provenance, record_calibration  # noqa: E402
from onnxfit.twin.classifier import Classifier  # noqa: E402
from onnxfit.twin.jump_relu import jump_relus  # noqa: E402
from onnxfit.twin.ops.batch_normalization import learning_statistics  # noqa: E402

Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]

QUICK: dict[str, Any] = {
    "eps": 0.05,
    "epochs": 12,
    "batch_size": 25,
    "learning_rate": 0.02,
    "averaging": 1.0,
    "max_drop": 0.02,
    "steps": 4,
}
TEXT = """
<ir_version: 8, opset_import: ["" : 17], doc_string: "kept">
network (float[N, 6] x) => (float[N, 3] logits)
{
    hidden = Gemm<transB = 1>(x, w1, b1)
    active = Relu(hidden)
    seen = MatMul(active, w2)
    logits = Add(seen, b2)
}
"""


ROOT = """
g (float[N, 6] x) => (float[N, 6] root)
{
    half = Constant<value_float = 0.5>()
    above = Sub(x, half)
    root = Sqrt(above)
}
"""


def blobs(n: int, seed: int) -> Arrays:
    """Draw samples of three classes within 0 and 1, some of them between two classes."""
    random = np.random.default_rng(seed)
    centres = np.array([[0.3, 0.5], [0.7, 0.4], [0.5, 0.75]])
    y = np.arange(n) % 3
    x = np.concatenate([centres[y] + random.normal(0, 0.06, (n, 2)), random.random((n, 4))], 1)
    return x.clip(0, 1).astype(np.float32), y.astype(np.int64)


def network(seed: int = 0, **changes: NDArray[Any]) -> onnx.ModelProto:
    """Make a network of two layers, trained for accuracy alone."""
    random = np.random.default_rng(seed)
    model = onnx.parser.parse_model(TEXT)
    weights = {
        "w1": random.normal(0, 0.8, (16, 6)),
        "b1": random.normal(0, 0.1, 16),
        "w2": random.normal(0, 0.4, (16, 3)),
        "b2": np.zeros(3),
    }
    for name, value in {**weights, **changes}.items():
        array = np.asarray(value, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    entry = model.metadata_props.add()
    entry.key, entry.value = "author", "somebody"
    return model


@pytest.fixture(scope="module")
def trained() -> onnx.ModelProto:
    """Return a network that was trained for accuracy, by the tool itself without any search."""
    settings = {**QUICK, "methods": {"jacobian": 1e-6}, "max_drop": 1.0, "epochs": 30}
    found = finetune(network(), blobs(300, 0), blobs(300, 1), **settings).model
    assert found is not None
    del found.metadata_props[1:]
    return found


def with_sparse_weight() -> onnx.ModelProto:
    """Return the network with its second weight as a sparse initializer."""
    model = network()
    dense = model.graph.initializer[2]
    values, at = np.array([1.0, -1.0, 0.5], np.float32), np.array([0, 10, 40])
    sparse = onnx.helper.make_sparse_tensor(
        onnx.numpy_helper.from_array(values, dense.name),
        onnx.numpy_helper.from_array(at, ""),
        list(dense.dims),
    )
    model.graph.initializer.remove(dense)
    model.graph.sparse_initializer.append(sparse)
    return model


def tuned(model: onnx.ModelProto, **settings: Any) -> Finetuned:
    """Fine-tune quickly."""
    return finetune(model, blobs(300, 0), blobs(300, 1), **{**QUICK, **settings})


def values(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Return the weights by name."""
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def test_it_becomes_more_robust_within_the_budget(trained: onnx.ModelProto) -> None:
    """More samples stay right under attack, beyond noise, and hardly fewer without one."""
    found = tuned(trained, eps=0.08, epochs=30)
    document = found.document
    assert document["difference"]["robust"]["ci95"][0] > 0.05
    assert document["difference"]["clean"]["accuracy"] >= -QUICK["max_drop"]
    assert "Of 300 validation samples APGD, 20 steps within 0.08 (linf)" in document["headline"]
    # Judged by what ONNX Runtime makes of the file, on points made for the new weights.
    assert found.model is not None
    x, y = blobs(600, 2)
    twin = Classifier(found.model)
    attack = onnxfit.attacks.PGD(eps=0.08, steps=20)
    logits = onnxfit.session(found.model).run(None, {"x": attack(twin, x, y)})[0]
    before = onnxfit.session(trained).run(None, {"x": attack(Classifier(trained), x, y)})[0]
    assert (logits.argmax(1) == y).mean() > (before.argmax(1) == y).mean() + 0.05


def test_only_values_of_weights_change(trained: onnx.ModelProto) -> None:
    """Graph, names, opsets, texts and metadata stay; one record is added."""
    model = tuned(trained, epochs=2, max_drop=1.0).model
    assert model is not None
    assert all((values(model)[name] != value).any() for name, value in values(trained).items())
    assert ["author", "onnxfit.finetuning"] == [entry.key for entry in model.metadata_props]
    plain = copy.deepcopy(model)
    del plain.metadata_props[1:]
    for tensor, source in zip(plain.graph.initializer, trained.graph.initializer, strict=True):
        assert tensor.dims == source.dims
        tensor.raw_data = source.raw_data
    assert trained == plain


def test_what_it_was_made_of_is_recorded(trained: onnx.ModelProto) -> None:
    """How, on which data, from which file, and what it brought on the validation data."""
    found = tuned(trained, epochs=2, max_drop=1.0, methods={"trades": 2.0}, seed=3)
    assert found.model is not None
    record = provenance(found.model)["finetuning"]
    assert found.document["model"]["sha256"] == record["source_sha256"]
    assert {"trades": 2.0} == record["methods"]
    assert (2, 3, False) == (record["epochs"], record["seed"], record["hardened"])
    data = found.document["data"]
    assert {name: data[name]["sha256"] for name in ("train", "validation")} == record["data"]
    assert found.document["after"]["robust"]["accuracy"] == record["after"]["robust"]


def test_a_training_can_be_repeated_by_its_record(trained: onnx.ModelProto) -> None:
    """With all settings, bounds, the number of samples and the versions; nothing twice."""
    asked = {"methods": {"jacobian": 0.01}, "seed": 3, "projections": 2, "weight_decay": 0.01}
    made = tuned(trained, epochs=2, max_drop=1.0, **asked).model
    assert made is not None
    record = provenance(made)["finetuning"]
    top = {name: record[name] for name in Settings.__dataclass_fields__ if name in record}
    assert top.keys() & record["settings"].keys() == {"epochs"}
    again = tuned(trained, **{**top, **record["settings"]}).model
    assert again is not None
    assert made.graph == again.graph
    assert Settings.__dataclass_fields__.keys() == {*top, *record["settings"]}
    assert {"train": 300, "validation": 300} == record["samples"]
    assert [0.0, 1.0] == record["bounds"]
    assert (onnxfit.__version__, torch.__version__) == tuple(
        record["versions"][name] for name in ("onnxfit", "torch")
    )


@pytest.mark.parametrize(("robust", "told"), [(40, True), (58, False), (80, False)])
def test_a_fall_of_the_worst_case_is_said_first(
    robust: int, told: bool, trained: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is more than chance; the file is given all the same. Both intervals are shown."""
    worths = [(90, 60), (89, robust)]

    def measured(*_: Any) -> Worth:
        clean, left = worths.pop(0)
        return Worth(first(clean), first(left))

    monkeypatch.setattr(Validator, "measure", measured)
    found = tuned(trained, epochs=1, max_drop=0.02)
    assert found.model is not None
    sentence = "The model is less robust than before."
    headline = found.document["headline"]
    assert told == headline.startswith(f"{sentence} Of 100 validation samples APGD")
    assert ([sentence] if told else []) == found.document["warnings"]
    low, high = (100 * limit for limit in found.document["difference"]["clean"]["ci95"])
    assert f"clean accuracy changes by -1.00 points ({low:+.2f} to {high:+.2f})." in headline
    assert found.document["difference"] == provenance(found.model)["finetuning"]["difference"]


def test_fine_tuned_weights_cannot_be_restored(trained: onnx.ModelProto) -> None:
    """The reason and the file to take are named; hardening it afterwards can be taken back."""
    model = tuned(trained, epochs=1, max_drop=1.0).model
    assert model is not None
    source = hashlib.sha256(trained.SerializeToString()).hexdigest()
    with pytest.raises(ModelError, match=f"weights were fine-tuned.*SHA-256 {source}"):
        onnxfit.restore(model)
    assert model == onnxfit.restore(onnxfit.retrofit(model, 0.1))
    hard = tuned(onnxfit.retrofit(trained, 0.1), epochs=1, max_drop=1.0).model
    assert hard is not None
    with pytest.raises(ModelError, match="weights were fine-tuned"):
        onnxfit.restore(hard)


def test_verifying_on_data_that_were_trained_on_is_warned_about(trained: onnx.ModelProto) -> None:
    """On the training samples and on those that chose the weights, not on others."""
    model = tuned(trained, epochs=1, max_drop=1.0).model
    assert model is not None
    warned = []
    for seed in (0, 1, 2):
        found = onnxfit.verify(model, blobs(300, seed), suite="quick", eps=0.05, steps=2)
        warned.append(
            any("weights were fine-tuned on this" in w for w in found.document["warnings"])
        )
    assert [True, True, False] == warned


def test_jumps_stay_in_place(trained: onnx.ModelProto) -> None:
    """With a jump the sites are hardened first; those of a hardened model are kept."""
    result = tuned(trained, epochs=2, max_drop=1.0, jump=0.9)
    found = result.model
    assert found is not None
    assert [0.9] == [pytest.approx(site.jump) for site in onnxfit.find_sites(found)]
    assert (values(found)["w1"] != values(trained)["w1"]).any()
    # Compared with the model as it was given, from which the budget is counted.
    assert tuned(trained, epochs=1).document["before"] == result.document["before"]
    assert result.document["with_jumps"] != result.document["before"]
    assert (
        hashlib.sha256(trained.SerializeToString()).hexdigest()
        == (provenance(found)["finetuning"]["source_sha256"])
    )
    document = onnxfit.verify(
        found, blobs(60, 2), baseline=trained, suite="quick", steps=2
    ).document
    assert "for the baseline" in document["headline"]
    assert "harden" not in document["headline"]
    again = tuned(onnxfit.retrofit(trained, 0.3), epochs=1, max_drop=1.0).model
    assert again is not None
    assert [0.3] == [pytest.approx(site.jump) for site in onnxfit.find_sites(again)]


def test_the_same_seed_gives_the_same_weights(trained: onnx.ModelProto) -> None:
    """Another seed gives others."""
    one, same, other = (
        tuned(trained, epochs=2, max_drop=1.0, seed=seed).model for seed in (5, 5, 6)
    )
    assert one == same
    assert one is not None
    assert other is not None
    assert (values(one)["w1"] != values(other)["w1"]).any()


class _Interrupting:
    """A progress that ends the program, as Ctrl-C does, after so many samples."""

    def __init__(self, after: int) -> None:
        self._left = after

    def __call__(self, total: float, what: str) -> "_Interrupting":
        return self

    def __enter__(self) -> Callable[..., None]:
        return self._advance

    def __exit__(self, *_: object) -> None:
        pass

    def _advance(self, count: float, *_: object) -> None:
        self._left -= int(count)
        if self._left < 0:
            raise KeyboardInterrupt


class _Failing(_Interrupting):
    """The same for a disk that is gone."""

    def _advance(self, count: float, *_: object) -> None:
        try:
            super()._advance(count)
        except KeyboardInterrupt:
            raise OSError("the disk is gone") from None


def test_an_interruption_keeps_the_best_so_far(trained: onnx.ModelProto) -> None:
    """Where nothing was kept yet it is an interruption like any other."""
    found = tuned(trained, max_drop=1.0, begin=_Interrupting(5 * 300))
    assert "interrupted" == found.document["stopped"]
    assert isinstance(found.interruption, KeyboardInterrupt)
    assert found.model is not None
    assert 5 == len(found.document["history"])
    with pytest.raises(KeyboardInterrupt):
        tuned(trained, begin=_Interrupting(100))


def test_a_training_goes_on_where_it_was(trained: onnx.ModelProto, tmp_path: Path) -> None:
    """In the end the weights are those of a training that was never interrupted."""
    checkpoint = tmp_path / "m.checkpoint"
    settings = {"epochs": 6, "max_drop": 0.004}
    whole = tuned(trained, **settings)
    with pytest.raises(OSError, match="gone"):
        tuned(trained, **settings, begin=_Failing(3 * 300 + 80), checkpoint=checkpoint)
    assert checkpoint.exists()
    again = tuned(trained, **settings, checkpoint=checkpoint, resume=True)
    assert whole.model == again.model
    for key in ("history", "before", "after", "headline"):
        assert whole.document[key] == again.document[key]


def test_a_checkpoint_that_cannot_be_written(trained: onnx.ModelProto, tmp_path: Path) -> None:
    """The training goes on without it, which is told; a folder that comes back is used."""
    checkpoint = tmp_path / "gone" / "m.checkpoint"
    settings = {"epochs": 2, "max_drop": 1.0}
    found = tuned(trained, **settings, checkpoint=checkpoint)
    assert tuned(trained, **settings).model == found.model
    expected = f"{checkpoint} could not be written: No such file or directory."
    assert [expected] == found.document["warnings"]
    kept = Checkpoint(checkpoint, "run")
    kept.save({"epoch": 1})
    assert expected == kept.complaint
    checkpoint.parent.mkdir()
    kept.save({"epoch": 2})
    assert {"epoch": 2} == kept.load()
    assert not kept.complaint


def test_images_go_on_where_they_were(tmp_path: Path) -> None:
    """With convolutions, augmentation and a term of gradients the weights are the same, too."""
    checkpoint = tmp_path / "m.checkpoint"
    with np.load(MODELS / "digits_val.npz") as data:
        x, y = data["x"][:120], data["y"][:120]
    settings: dict[str, Any] = {
        "methods": {"adversarial": 1.0, "jacobian": 1e-4},
        "augment": ("shift", "cutout", "tv"),
        "eps": 0.1,
        "epochs": 4,
        "batch_size": 30,
        "steps": 1,
        "max_drop": 1.0,
        "validation_limit": 20,
    }
    arguments = (MODELS / "digits_cnn.onnx", (x, y), (x, y))
    whole = finetune(*arguments, **settings)
    with pytest.raises(OSError, match="gone"):
        finetune(*arguments, **settings, checkpoint=checkpoint, begin=_Failing(2 * 120 + 40))
    again = finetune(*arguments, **settings, checkpoint=checkpoint, resume=True)
    assert whole.model == again.model


def test_a_checkpoint_of_another_training_is_refused(
    trained: onnx.ModelProto, tmp_path: Path
) -> None:
    """So is a file that is none."""
    checkpoint = tmp_path / "m.checkpoint"
    with pytest.raises(OSError, match="gone"):
        tuned(trained, begin=_Failing(2 * 300), checkpoint=checkpoint)
    with pytest.raises(DataError, match="is of another training"):
        tuned(trained, seed=1, checkpoint=checkpoint, resume=True)
    checkpoint.write_bytes(b"nothing")
    with pytest.raises(DataError, match="is no checkpoint"):
        tuned(trained, checkpoint=checkpoint, resume=True)


def test_a_loss_that_is_not_finite_ends_the_training(trained: onnx.ModelProto) -> None:
    """The step and the site are named; what was kept before is given back."""
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) at step \d .*, first in the logits"):
        tuned(trained, learning_rate=1e30)
    done = 0
    descend = Trainer._descend

    def failing(self: Trainer, x: Any, y: Any) -> float:
        nonlocal done
        done += 1
        if done > 40:
            for weight in self.weights.values():
                weight.data.fill_(math.nan)
        return descend(self, x, y)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_descend", failing)
        found = tuned(trained, max_drop=1.0)
    words = "diverged: the loss is nan at step 41 (epoch 4), first at the site 'active': take"
    assert found.document["stopped"].startswith(words)
    assert found.model is not None
    assert all(np.isfinite(value).all() for value in values(found.model).values())


def test_a_loss_that_is_not_finite_on_adversarial_points_alone() -> None:
    """The site is that of these points, though the samples themselves are far from it."""
    model = network()
    model.graph.node[0].input[0] = "root"
    for node in reversed(onnx.parser.parse_graph(ROOT).node):
        model.graph.node.insert(0, node)
    x, y = blobs(300, 0)
    x = 0.6 + 0.4 * x
    with pytest.raises(
        Diverged, match=r"the loss is nan at step \d+ .*, first at the site 'active'"
    ):
        finetune(model, (x, y), (x, y), **{**QUICK, "eps": 0.2})


def test_a_term_that_is_not_finite_is_named(trained: onnx.ModelProto) -> None:
    """Where every activation is."""
    with pytest.raises(
        Diverged, match=r"the loss is inf at step 1 .*, first in the term jacobian:"
    ):
        tuned(trained, methods={"jacobian": 3e38})


def test_weights_that_give_no_numbers_are_not_kept(trained: onnx.ModelProto) -> None:
    """A single step leaves them finite and so large that the logits are not."""
    with pytest.raises(Diverged, match="at step 2"):
        tuned(trained, learning_rate=1e30, batch_size=300, max_drop=1.0)


def test_without_weights_in_the_budget_nothing_is_given(trained: onnx.ModelProto) -> None:
    """The document says so, and keeps what was measured."""
    found = tuned(trained, epochs=2, max_drop=0.0, eps=0.5)
    assert found.model is None
    assert (
        "No check kept the budget of clean accuracy: no weights are written."
        == (found.document["headline"])
    )
    assert [False, False] == [record["inside"] for record in found.document["history"]]
    assert found.document["after"] is None


def test_the_best_check_is_what_is_kept(trained: onnx.ModelProto) -> None:
    """The document says of it what its check did, and it is one inside the budget."""
    document = tuned(trained, max_drop=0.03).document
    inside = [record for record in document["history"] if record["inside"]]
    assert 12 == len(document["history"]) >= len(inside) > 0
    after = {key: document["after"][key]["accuracy"] for key in ("clean", "robust")}
    assert after in [{key: record[key] for key in after} for record in inside]


def first(count: int) -> NDArray[np.bool_]:
    """Return a mask of a hundred samples of which the first are right."""
    return np.arange(100) < count


@pytest.mark.parametrize(
    ("clean", "robust", "peak", "expected"),
    [
        (80, 66, 66, True),  # the best so far is less robust than these, beyond noise
        (91, 55, 60, True),  # not told from the best, and cleaner
        (91, 54, 60, False),
        (91, 60, 65, True),
        (90, 61, 61, True),
        (90, 60, 60, False),
        (89, 65, 65, False),
    ],
)
def test_the_worst_case_decides(clean: int, robust: int, peak: int, expected: bool) -> None:
    """Of a hundred samples six are told apart; among fewer, clean accuracy decides."""
    kept, new = Worth(first(90), first(60)), Worth(first(clean), first(robust))
    assert expected is new.is_better_than(kept, Worth(first(0), first(peak)))


def test_small_losses_of_robustness_do_not_add_up(
    trained: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept is never told from the most robust of all checks, however many there were."""
    worths = [(95, 0), (96, 60), (97, 57), (98, 54), (97, 55), (97, 58), (96, 61)]

    def measured(*_: Any) -> Worth:
        clean, robust = worths.pop(0)
        return Worth(first(clean), first(robust))

    monkeypatch.setattr(Validator, "measure", measured)
    after = tuned(trained, max_drop=0.5, epochs=6).document["after"]
    assert (0.97, 0.58) == tuple(after[key]["accuracy"] for key in ("clean", "robust"))


def test_patience_ends_a_training(trained: onnx.ModelProto) -> None:
    """After so many checks without progress."""
    document = tuned(trained, epochs=200, patience=2, max_drop=0.0, eps=0.5).document
    assert "no progress" == document["stopped"]
    # A check every ten epochs.
    assert 20 == document["epochs"]


def test_a_rising_worst_case_is_progress(
    trained: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though what is kept stays, as long as it cannot be told from the most robust check."""
    worths = [(95, 0), (96, 60), (95, 61), (95, 62), (95, 62), (95, 62), (95, 62)]

    def measured(*_: Any) -> Worth:
        clean, robust = worths.pop(0)
        return Worth(first(clean), first(robust))

    monkeypatch.setattr(Validator, "measure", measured)
    document = tuned(trained, max_drop=0.5, epochs=6, patience=2).document
    assert ("no progress", 5) == (document["stopped"], document["epochs"])
    assert 0.6 == document["after"]["robust"]["accuracy"]


def test_weights_are_averaged_over_epochs() -> None:
    """As a moving average whose first steps follow closely; 0 takes them as they are."""
    x, y = (torch.from_numpy(array) for array in blobs(100, 0))
    for averaging, steps in ((1.0, 4), (0.0, 1)):
        settings = Settings(**{**QUICK, "averaging": averaging})
        twin = Classifier(network())
        trainer = Trainer(twin, x, y, settings, (0.0, 1.0), ())
        expected = {name: w.detach().clone() for name, w in trainer.weights.items()}
        for step in range(8):
            trainer._descend(x[:25], y[:25])
            share = max(1 / steps, 9 / (11 + step))
            for name, weight in trainer.weights.items():
                expected[name] += share * (weight.detach() - expected[name])
        last = {name: w.detach().clone() for name, w in trainer.weights.items()}
        with trainer.averaged():
            for name, weight in trainer.weights.items():
                torch.testing.assert_close(weight.detach(), expected[name])
                if not averaging:
                    torch.testing.assert_close(weight.detach(), last[name])
        for name, weight in trainer.weights.items():
            assert (weight == last[name]).all()


def test_the_learning_rate_rises_and_falls() -> None:
    """For a twentieth of the time up, then down as a cosine; or it stays."""
    x, y = (torch.from_numpy(array) for array in blobs(100, 0))
    rates = {}
    for schedule in ("cosine", "constant"):
        settings = Settings(**{**QUICK, "epochs": 50, "schedule": schedule})
        trainer = Trainer(Classifier(network()), x, y, settings, (0.0, 1.0), ())
        found = []
        for step in range(200):
            trainer._step = step
            found.append(trainer._rate())
        rates[schedule] = np.array(found) / QUICK["learning_rate"]
    assert rates["constant"][0] < 0.2
    assert (rates["constant"][10:] == 1).all()
    assert 0.9 < rates["cosine"].max() <= 1
    assert (np.diff(rates["cosine"][12:]) < 0).all()
    assert rates["cosine"][-1] < 1e-3


def with_batch_norm() -> onnx.ModelProto:
    """Return the network with a BatchNorm before its activation."""
    text = TEXT.replace(
        "active = Relu(hidden)", "n = BatchNormalization(hidden, g, s, m, v)\n active = Relu(n)"
    )
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(network().graph.initializer)
    extra = {"g": np.ones(16), "s": np.zeros(16), "m": np.full(16, 0.1), "v": np.full(16, 2.0)}
    for name, value in extra.items():
        tensor = onnx.numpy_helper.from_array(value.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    return model


@pytest.mark.parametrize(("update", "more"), [(False, set()), (True, {"m", "v"})])
def test_statistics_of_a_batch_norm_stay_unless_asked(update: bool, more: set[str]) -> None:
    """Its scale and shift are trained; mean and variance follow the data only where asked for."""
    model = with_batch_norm()
    found = tuned(model, epochs=2, max_drop=1.0, update_statistics=update)
    assert found.model is not None
    assert found.document["parity"]["agrees"]
    before, after = values(model), values(found.model)
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert {"w1", "b1", "w2", "b2", "g", "s"} | more == changed


def test_statistics_go_on_where_they_were(tmp_path: Path) -> None:
    """Half of a training and the rest of it give the statistics of a whole one."""
    settings: dict[str, Any] = {"epochs": 4, "max_drop": 1.0, "update_statistics": True}
    whole = tuned(with_batch_norm(), **settings).model
    kept = tmp_path / "kept"
    with pytest.raises(OSError, match="gone"):
        tuned(with_batch_norm(), checkpoint=kept, begin=_Failing(2 * 300 + 40), **settings)
    rest = tuned(with_batch_norm(), checkpoint=kept, resume=True, **settings).model
    assert whole is not None
    assert whole == rest


def test_statistics_are_learnt_as_by_pytorch() -> None:
    """A batch is normalised by its own statistics, which enter the running ones by a tenth."""
    twin = onnxfit.to_torch(with_batch_norm())
    x = torch.from_numpy(blobs(50, 0)[0])
    module = torch.nn.BatchNorm1d(16)
    module.load_state_dict(
        {"weight": twin.g, "bias": twin.s, "running_mean": twin.m, "running_var": twin.v},
        strict=False,
    )
    hidden = torch.nn.functional.linear(x, twin.w1, twin.b1)
    wanted = torch.nn.functional.relu(module(hidden)) @ twin.w2 + twin.b2
    before = twin(x)
    with learning_statistics():
        torch.testing.assert_close(twin(x), wanted)
        torch.testing.assert_close(twin.m, module.running_mean)
        torch.testing.assert_close(twin.v, module.running_var)
        with learning_statistics(0.0):
            after = twin(x)
    torch.testing.assert_close(twin.m, module.running_mean, rtol=0, atol=0)
    assert (before != after).any()
    torch.testing.assert_close(twin(x), after, rtol=0, atol=0)


def test_replaced_patches_are_no_samples_to_learn_of() -> None:
    """The statistics after a step of J-SIGR are those of the batch, as of the cross-entropy."""
    x, y = (torch.from_numpy(array) for array in blobs(50, 0))
    found = []
    for compute in (SelectiveInputGradient(), lambda batch: batch.cross_entropy):
        model = Classifier(with_batch_norm())
        batch = Batch(
            model=model,
            x=x.clone().requires_grad_(),
            y=y,
            threat=Threat(eps=0.05),
            generator=torch.Generator().manual_seed(0),
        )
        before = model.twin.m.clone()
        with learning_statistics():
            compute(batch)
        assert (before != model.twin.m).any()
        found.append(torch.stack([model.twin.m, model.twin.v]))
    assert torch.equal(*found)


def test_points_of_a_search_are_no_samples_to_learn_of() -> None:
    """The statistics follow the worst points at the end of a search, not those on the way."""
    x, y = (torch.from_numpy(array) for array in blobs(50, 0))
    found = []
    for steps in (1, 4):
        model = Classifier(with_batch_norm())
        batch = Batch(
            model=model,
            x=x,
            y=y,
            threat=Threat(eps=0.0, steps=steps),
            generator=torch.Generator().manual_seed(0),
        )
        before = model.twin.m.clone()
        with learning_statistics():
            Adversarial()(batch)
        assert (before != model.twin.m).any()
        found.append(torch.stack([model.twin.m, model.twin.v]))
    assert torch.equal(*found)


def test_a_weight_that_two_layers_share_stays_one() -> None:
    """Both layers have its new value."""
    text = TEXT.replace("MatMul(active, w2)", "MatMul(twice, w2)").replace(
        "seen =",
        "again = MatMul(active, w)\n twice = Relu(again)\n last = MatMul(twice, w)\n seen =",
    )
    model = onnx.parser.parse_model(text.replace("MatMul(twice, w2)", "MatMul(last, w2)"))
    model.graph.initializer.extend(network().graph.initializer)
    shared = np.random.default_rng(0).normal(0, 0.3, (16, 16)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(shared, "w"))
    found = tuned(model, epochs=2, max_drop=1.0)
    assert found.model is not None
    assert (values(found.model)["w"] != shared).any()
    assert found.document["parity"]["agrees"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 500}, r"has 300 samples, fewer than a batch of 500"),
        ({"augment": ("flip",)}, r"^augment takes images, C×H×W or H×W×C; the samples are 6$"),
    ],
)
def test_settings_that_do_not_fit_the_data(change: dict[str, Any], message: str) -> None:
    """They are refused before anything is computed."""
    with pytest.raises(DataError, match=message):
        tuned(network(), **change)


def test_data_that_cannot_be_trained_on() -> None:
    """A single class, labels that the model has no logit for, samples of another shape."""
    x, y = blobs(300, 0)
    held_out = blobs(300, 1)
    with pytest.raises(DataError, match="all samples are of class 1"):
        finetune(network(), (x, np.ones_like(y)), held_out, **QUICK)
    with pytest.raises(DataError, match=r"label of sample \d+ is 7, but the model has 3 classes"):
        finetune(network(), (x, y), (held_out[0], held_out[1] + 5), **QUICK)
    with pytest.raises(DataError, match="takes samples of shape 6; those of the data are 5"):
        finetune(network(), (x[:, :5], y), held_out, **QUICK)
    wider = from_arrays(*held_out, bounds=(-1.0, 1.0))
    with pytest.raises(DataError, match=r"samples are within \(0.0, 1.0\), others \(-1.0, 1.0\)"):
        finetune(network(), (x, y), wider, **QUICK)


@pytest.mark.parametrize(
    "product",
    [
        "w = DequantizeLinear(w8, unit)\n seen = MatMul(active, w)",
        "w = Cast<to = 1>(w8)\n seen = MatMul(active, w)",
        "q, s, z = DynamicQuantizeLinear(active)\n p = MatMulInteger(q, w8, z)\n"
        "seen = Cast<to = 1>(p)",
    ],
)
def test_quantised_weights_are_refused(product: str) -> None:
    """Wherever a layer reads them, also as integers."""
    model = onnx.parser.parse_model(TEXT.replace("seen = MatMul(active, w2)", product))
    stored = {name: value for name, value in values(network()).items() if name != "w2"}
    stored["w8"] = np.arange(48, dtype=np.int8).reshape(16, 3)
    if "unit" in product:
        stored["unit"] = np.array(0.1, np.float32)
    for name, value in stored.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    with pytest.raises(
        ModelError, match=r"^the weight 'w8' is quantised: fine-tune the model, and"
    ):
        tuned(model)


def test_models_that_cannot_be_trained() -> None:
    """Half precision, and a network without weights."""
    half = onnx.parser.parse_model(TEXT.replace("float[", "float16["))
    for name, value in values(network()).items():
        tensor = onnx.numpy_helper.from_array(value.astype(np.float16), name)
        half.graph.initializer.append(tensor)
    with pytest.raises(ModelError, match=r"^the weight 'w1' is float16: fine-tune the m"):
        tuned(half)
    # Only inside.
    mixed = onnx.parser.parse_model(
        TEXT.replace(
            "hidden = Gemm<transB = 1>(x, w1, b1)",
            "h = Cast<to = 10>(x)\ng = Gemm<transB = 1>(h, w1, b1)\n hidden = Cast<to = 1>(g)",
        )
    )
    for name, value in values(network()).items():
        kind = np.float16 if name in ("w1", "b1") else np.float32
        mixed.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(kind), name))
    with pytest.raises(ModelError, match=r"^the weight 'w1' is float16: fine-tune the m"):
        tuned(mixed)
    with pytest.raises(ModelError, match=r"^the weight 'w2' is sparse: write its zeros out, and"):
        tuned(with_sparse_weight())
    with pytest.raises(ModelError, match="no BatchNormalization whose statistics could be updated"):
        tuned(network(), update_statistics=True)
    bare = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        bare (float[N, 6] x) => (float[N, 6] y) { y = Relu(x) }
        """
    )
    with pytest.raises(ModelError, match="no floating-point weight that could be trained"):
        tuned(bare)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": {}}, "expected methods and their weights by name, at least one, got {}"),
        ({"methods": {"magic": 1.0}}, "there is no method 'magic', there are adversarial, trades"),
        ({"methods": {"trades": 0.0}}, "expected a weight of trades > 0, got 0"),
        ({"methods": {"adversarial": 1.5}}, "weight of adversarial of at most 1, got 1.5"),
        ({"norm": "l1"}, "expected a norm of linf or l2, got 'l1'"),
        ({"schedule": "step"}, "expected a schedule of cosine or constant, got 'step'"),
        ({"eps": 0.0}, "expected eps > 0, got 0.0"),
        ({"learning_rate": math.inf}, "expected learning_rate > 0, got inf"),
        ({"averaging": -1.0}, "expected averaging >= 0, got -1.0"),
        ({"max_drop": 1.5}, "expected max_drop from 0 to 1, got 1.5"),
        ({"epochs": 0}, "expected epochs >= 1, got 0"),
        ({"epochs": 1.5}, "expected a whole number for epochs, got 1.5"),
        ({"epochs": "3"}, "expected a whole number for epochs, got '3'"),
        ({"projections": -1}, "expected projections >= 0, got -1"),
        ({"device": "gpu"}, "expected a device of cpu or cuda, got 'gpu'"),
        ({"seed": -1}, "expected seed >= 0, got -1"),
        ({"methods": ["trades"]}, "expected methods and their weights by name, at least one, got"),
        ({"augment": "shift"}, "expected several names as augment, got 'shift'"),
        ({"augment": ("blur",)}, "expected an augment of shift, flip, cutout or tv, got 'blur'"),
    ],
)
def test_a_setting_out_of_range(change: dict[str, Any], message: str) -> None:
    """One sentence names it."""
    with pytest.raises(ValueError, match=message):
        Settings(**change)


@dataclass
class Seen:
    """Notes what a term is given at each step."""

    batches: list[Batch] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Note what the adversarial term is given."""
    found = Seen()
    compute = Adversarial.__call__

    def noted(self: Adversarial, batch: Batch) -> Any:
        found.batches.append(batch)
        found.modes += [site.backward_mode for site in jump_relus(batch.model)]
        return compute(self, batch)

    monkeypatch.setattr(Adversarial, "__call__", noted)
    return found


def test_terms_are_given_the_threat(trained: onnx.ModelProto, seen: Seen) -> None:
    """Norm, bounds and steps as asked for; the radius grows for a twentieth of the time."""
    x, y = blobs(300, 0)
    data = (2 * x - 1, y)
    wide = {"norm": "l2", "eps": 0.3, "epochs": 5}
    train, held_out = (from_arrays(*data, bounds=(-1.0, 1.0)) for _ in range(2))
    finetune(trained, train, held_out, **{**QUICK, **wide, "max_drop": 1.0})
    threats = [batch.threat for batch in seen.batches]
    assert {("l2", (-1.0, 1.0), 4)} == {(t.norm, t.bounds, t.steps) for t in threats}
    assert 60 == len(threats)
    assert 0 < threats[0].eps < threats[1].eps < 0.3
    assert {0.3} == {threat.eps for threat in threats[3:]}


def test_the_search_sees_across_jumps(trained: onnx.ModelProto, seen: Seen) -> None:
    """By a smooth gate; where there is no jump gradients are what they are."""
    tuned(trained, epochs=1, max_drop=1.0)
    assert {"true"} == set(seen.modes)
    seen.modes.clear()
    tuned(trained, epochs=1, max_drop=1.0, jump=0.2)
    assert {"smooth"} == set(seen.modes)


def test_checks_see_across_jumps(trained: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two losses, and with jumps by the native slope and two smooth gates as well."""
    used: list[tuple[str, str, str]] = []
    attack = APGD._attack

    def noted(self: APGD, search: Any) -> None:
        used.append((self.loss, self.backward, self.norm))
        attack(self, search)

    monkeypatch.setattr(APGD, "_attack", noted)
    tuned(trained, epochs=1, max_drop=1.0)
    assert {("ce", "true", "linf"), ("margin", "true", "linf")} == set(used)
    used.clear()
    tuned(trained, epochs=1, max_drop=1.0, jump=0.2, norm="l2")
    slopes = {(loss, mode, "l2") for loss in ("ce", "margin") for mode in ("true", "smooth")}
    assert slopes == set(used)


def test_images_are_made_anew(seen: Seen) -> None:
    """Shifted by default; not where nothing is asked for."""
    text = TEXT.replace("float[N, 6] x", "float[N, 1, 4, 15] x").replace(
        "Gemm<transB = 1>(x, w1, b1)", "Gemm<transB = 1>(flat, w1, b1)"
    )
    model = onnx.parser.parse_model(text.replace("hidden =", "flat = Flatten(x)\n hidden ="))
    weights = network(w1=np.random.default_rng(0).normal(0, 0.2, (16, 60))).graph.initializer
    model.graph.initializer.extend(weights)
    random = np.random.default_rng(0)
    x, y = random.random((50, 1, 4, 15)).astype(np.float32), np.arange(50) % 3
    known = {tuple(sample.ravel().tolist()) for sample in x}
    for augment, shares in ((None, (0.1, 0.6)), ((), (1.0, 1.0))):
        seen.batches.clear()
        found = finetune(
            model, (x, y), (x, y), **{**QUICK, "epochs": 4, "max_drop": 1.0, "augment": augment}
        )
        assert (["shift"] if augment is None else []) == found.document["augment"]
        samples = [tuple(s) for batch in seen.batches for s in batch.x.flatten(1).tolist()]
        same = sum(sample in known for sample in samples) / len(samples)
        assert shares[0] <= same <= shares[1]


def test_the_budget_steers_the_loss(trained: onnx.ModelProto) -> None:
    """Outside it the methods give up a part of the loss, step by step to half."""
    outside = tuned(trained, eps=0.5, max_drop=0.0, epochs=8).document["history"]
    assert [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5] == [
        pytest.approx(record["clean_share"]) for record in outside
    ]
    inside = tuned(trained, max_drop=1.0, epochs=3).document["history"]
    assert [0.0, 0.0, 0.0] == [record["clean_share"] for record in inside]


@pytest.mark.parametrize(
    ("drop", "expected"), [(2, [0.0, 0.0, 0.0]), (3, [0.0, 0.1, 0.2]), (5, [0.0, 0.1, 0.2])]
)
def test_half_of_the_budget_is_aimed_at(
    drop: int, expected: list[float], trained: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of a hundred samples may be lost: after three the samples count for more."""
    worths = [0, drop, drop, drop]

    def measured(*_: Any) -> Worth:
        return Worth(np.arange(100) >= worths.pop(0), np.ones(10, np.bool_))

    monkeypatch.setattr(Validator, "measure", measured)
    found = tuned(trained, max_drop=0.04, epochs=3)
    history = found.document["history"]
    assert expected == [pytest.approx(record["clean_share"]) for record in history]
    assert [drop <= 4] * 3 == [record["inside"] for record in history]
    assert (found.model is not None) == (drop <= 4)


def test_the_loss_is_a_sum_of_its_terms() -> None:
    """Adversarial training takes the place of the cross-entropy, others are added."""
    x, y = (torch.from_numpy(array) for array in blobs(60, 0))

    def losses(methods: dict[str, float], clean_share: float) -> tuple[float, float, float]:
        settings = Settings(**{**QUICK, "methods": methods, "projections": 0})
        trainer = Trainer(Classifier(network()), x, y, settings, (0.0, 1.0), ())
        trainer.clean_share = clean_share
        parts = []
        for take in (trainer.loss, Adversarial(), Jacobian(0)):
            batch = Batch(
                model=trainer.model,
                x=x.clone().requires_grad_(),
                y=y,
                threat=Threat(eps=0.05),
                generator=torch.Generator().manual_seed(0),
            )
            parts.append(float(take(batch).detach()))
        cross_entropy = float(batch.cross_entropy.detach())
        adversarial, jacobian = parts[1:]
        rest = 1 - clean_share
        share = methods.get("adversarial", 0.0) * rest
        expected = (1 - share) * cross_entropy + share * adversarial
        return parts[0], expected + rest * methods.get("jacobian", 0.0) * jacobian, share

    for methods in ({"adversarial": 1.0}, {"adversarial": 0.5, "jacobian": 0.1}, {"jacobian": 1.0}):
        for clean_share in (0.0, 0.3):
            found, expected, _ = losses(methods, clean_share)
            assert found == pytest.approx(expected, rel=1e-5)


def test_a_network_of_nan_is_worth_nothing() -> None:
    """NaN is no class, not even class 0."""
    model = network(b2=np.full(3, np.nan))
    x, y = (torch.from_numpy(array) for array in blobs(60, 0))
    rows = np.arange(20)
    worth = Validator(x, y, rows, Settings(eps=0.1), (0.0, 1.0)).measure(Classifier(model))
    assert not worth.clean.any()
    assert not worth.robust.any()


def test_weights_that_gradients_do_not_reach() -> None:
    """One sentence, not torch's."""
    text = TEXT.replace(
        "logits = Add(seen, b2)", "p = Cast<to = 7>(seen)\n logits = Cast<to = 1>(p)"
    )
    model = onnx.parser.parse_model(text)
    for tensor in network().graph.initializer[:3]:
        model.graph.initializer.append(tensor)
    with pytest.raises(ModelError, match=r"gradient"):
        tuned(model)


def test_a_record_of_calibration_is_marked(trained: onnx.ModelProto) -> None:
    """Its figures are of the earlier weights, its jumps and data still those of the model."""
    hard = onnxfit.retrofit(trained, 0.1)
    record_calibration(hard, {"data_sha256": "0", "accuracy": 0.5})
    model = tuned(hard, epochs=1, max_drop=1.0).model
    assert model is not None
    expected = {"data_sha256": "0", "accuracy": 0.5, "before_finetuning": True}
    assert expected == provenance(model)["calibration"]
    keys = [entry.key for entry in hard.metadata_props]
    assert [*keys, "onnxfit.finetuning"] == [entry.key for entry in model.metadata_props]


def test_samples_that_are_trained_and_chosen_on_are_counted(trained: onnx.ModelProto) -> None:
    """Wherever they are in other arrays, and whatever their order and labels."""
    (x, y), (other, labels) = blobs(300, 0), blobs(300, 1)
    mixed = np.concatenate([other[:40], x[[7, 3, 7]]]), np.concatenate([labels[:40], [0, 1, 2]])
    document = finetune(trained, (x, y), mixed, **{**QUICK, "epochs": 1}).document
    (found,) = [warning for warning in document["warnings"] if "training samples" in warning]
    assert found.startswith("3 of the 43 validation samples are training samples as well: what")


def test_tuning_twice_keeps_both_records(trained: onnx.ModelProto) -> None:
    """So that verify still warns of the first data."""
    once = tuned(trained, epochs=1, max_drop=1.0).model
    assert once is not None
    twice = finetune(once, blobs(300, 4), blobs(300, 5), **{**QUICK, "epochs": 1, "max_drop": 1.0})
    assert twice.model is not None
    warned = [
        any(
            "weights were fine-tuned on this" in warning
            for warning in onnxfit.verify(
                twice.model, blobs(300, seed), suite="quick", eps=0.05, steps=2
            ).document["warnings"]
        )
        for seed in (0, 1, 4, 5, 6)
    ]
    assert [True, True, True, True, False] == warned


def test_the_document_has_what_defines_the_result(trained: onnx.ModelProto) -> None:
    """All settings, and the bounds that eps is in units of."""
    document = tuned(trained, epochs=1, max_drop=1.0).document
    assert document["settings"]["learning_rate"] == QUICK["learning_rate"]
    assert [0.0, 1.0] == document["data"]["validation"]["bounds"]
    assert [] == document["warnings"]
    found = finetune(trained, blobs(300, 0), blobs(2, 1), **{**QUICK, "epochs": 1}).document
    assert "The validation data has no sample of class 2." in found["warnings"]
