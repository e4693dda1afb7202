"""The twin as an estimator of the Adversarial Robustness Toolbox."""

import builtins
import os
import re
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import pytest
from support import MODELS, ROOT

torch = pytest.importorskip("torch")
# It writes a file in the home folder when it is imported, and two workers of pytest that do so at
# the same time fail.
with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as home:
    patch.setenv("HOME", home)
    pytest.importorskip("art", reason="the Adversarial Robustness Toolbox is not installed")

from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch  # noqa: E402
from art.estimators.classification import PyTorchClassifier  # noqa: E402
from attack_support import Linear  # noqa: E402

import onnxfit  # noqa: E402
from onnxfit.attacks.art import as_art_classifier  # noqa: E402
from onnxfit.errors import ModelError  # noqa: E402
from onnxfit.twin.classifier import Classifier  # noqa: E402
from onnxfit.twin.preprocessing import Preprocessed  # noqa: E402


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    """Return images and labels."""
    with np.load(MODELS / "digits_test.npz") as data:
        return data["x"][:40], data["y"][:40]


@pytest.fixture(scope="module")
def twin() -> Any:
    """Return a hardened network behind its normalisation."""
    return Preprocessed(Classifier(onnxfit.retrofit(MODELS / "digits_cnn.onnx", 0.5)), 0.1, 1.1)


def test_the_estimator_describes_the_twin(twin: Any, digits: tuple[Any, Any]) -> None:
    """The file's shape, as many classes as logits, no optimizer, and the twin's own logits."""
    x, _ = digits
    estimator = as_art_classifier(twin, bounds=(0, 1))
    assert isinstance(estimator, PyTorchClassifier)
    assert (1, 8, 8) == estimator.input_shape
    assert 10 == estimator.nb_classes
    assert [0.0, 1.0] == np.asarray(estimator.clip_values).tolist()
    assert isinstance(estimator.loss, torch.nn.CrossEntropyLoss)
    assert estimator.optimizer is None
    with torch.no_grad():
        expected = twin(torch.from_numpy(x)).numpy()
    assert np.array_equal(expected, estimator.predict(x, batch_size=len(x)))


def test_its_gradient_is_that_of_the_cross_entropy(twin: Any, digits: tuple[Any, Any]) -> None:
    """In the units of the data, and with the slope that is set at the time."""
    x, y = digits
    estimator = as_art_classifier(twin)
    found = {}
    for mode in ("true", "relu"):
        onnxfit.set_backward(twin, mode)
        leaf = torch.from_numpy(x).clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(twin(leaf), torch.from_numpy(y))
        (expected,) = torch.autograd.grad(loss, leaf)
        found[mode] = estimator.loss_gradient(x, np.eye(10, dtype=np.float32)[y])
        np.testing.assert_allclose(expected.numpy(), found[mode], rtol=1e-4, atol=1e-7)
    onnxfit.set_backward(twin, "true")
    assert np.abs(found["true"] - found["relu"]).max() > 1e-3 * np.abs(found["true"]).max()


def test_attacks_break_it(twin: Any, digits: tuple[Any, Any]) -> None:
    """One step, and many."""
    x, y = digits
    estimator = as_art_classifier(twin)
    attacks = [
        FastGradientMethod(estimator, eps=0.3),
        ProjectedGradientDescentPyTorch(
            estimator, eps=0.2, eps_step=0.04, max_iter=10, verbose=False
        ),
    ]
    for attack in attacks:
        points = attack.generate(x, y)
        assert points.min() >= 0
        assert points.max() <= 1
        predictions = estimator.predict(points).argmax(1)
        assert (predictions != y).mean() > 0.3, type(attack).__name__


def test_shape_classes_and_bounds_can_be_given() -> None:
    """They are not looked for then; a module that is no file's twin needs its shape."""
    model = Linear([1.0, -2.0, 0.0])
    estimator = as_art_classifier(model, shape=(3,), classes=2, bounds=(-1.0, 2.0))
    assert ((3,), 2) == (estimator.input_shape, estimator.nb_classes)
    assert [-1.0, 2.0] == np.asarray(estimator.clip_values).tolist()
    assert 2 == as_art_classifier(model, shape=(3,)).nb_classes
    message = "^the shape of a sample is not known: give it as shape, without the batch$"
    with pytest.raises(ModelError, match=message):
        as_art_classifier(model)


def test_the_file_of_a_bare_twin_says_the_shape() -> None:
    """It needs no classifier around it."""
    estimator = as_art_classifier(onnxfit.to_torch(MODELS / "digits_cnn.onnx"))
    assert ((1, 8, 8), 10) == (estimator.input_shape, estimator.nb_classes)


def test_without_art_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which package is missing."""
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "art" or name.startswith("art."):
            raise ImportError("No module named 'art'")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    message = (
        "as_art_classifier needs the package adversarial-robustness-toolbox, which cannot be "
        "imported: No module named 'art'"
    )
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        as_art_classifier(Linear([1.0]), shape=(1,))


def test_the_example_prints_what_onnx_runtime_says() -> None:
    """The attack lowers the accuracy of the file, and more so with the smooth gate."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "art_attack.py", "--jump", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (0, "") == (done.returncode, done.stderr)
    lines = done.stdout.splitlines()
    assert ["clean", "attacked, its own slope", "attacked, a smooth gate"] == [
        line[:-6].strip() for line in lines
    ]
    clean, true, smooth = (float(line[-6:]) for line in lines)
    assert clean > 0.9
    assert smooth < true < clean - 0.2
