"""Losses of the twin."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from twin_support import agrees, node_model  # noqa: E402

from onnxfit.twin.module import Twin, to_torch  # noqa: E402

OPS = ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"]
WEIGHTS = np.array([0.5, 2, 1, 3], np.float32)


def attributes(reduction: str, ignored: int | None) -> str:
    """Write the attributes of a loss."""
    return f'reduction = "{reduction}"' + ("" if ignored is None else f", ignore_index = {ignored}")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("opset", [12, 13])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [None, 1, -1, 7])
def test_losses(op: str, opset: int, reduction: str, weighted: bool, ignored: int | None) -> None:
    """Of rows and of images, with weights of classes and labels that do not count."""
    random = np.random.default_rng(0)
    for shape, kind in (((5, 4), np.int32), ((2, 4, 3, 2), np.int64), ((2, 4, 1, 3, 2), np.int64)):
        labels = random.integers(0, 4, (shape[0], *shape[2:])).astype(kind)
        if ignored is not None:
            labels.ravel()[::3] = ignored
        given = {"x": random.normal(size=shape).astype(np.float32), "labels": labels}
        if weighted:
            given["weights"] = WEIGHTS
        outputs = "y log_prob" if op.startswith("Softmax") else "y"
        written = attributes(reduction, ignored)
        agrees(node_model(op, opset, given, "x labels weights", outputs, written), *given.values())


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_losses_differentiate(op: str, reduction: str) -> None:
    """By central differences, also where the sample is one of many under vmap."""
    given = {
        "x": np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32),
        "labels": np.array([[0, 3, 7], [1, 7, 2]]),
        "weights": WEIGHTS,
    }
    slots = "x labels weights"
    twin: Twin = to_torch(node_model(op, 13, given, slots, "y", attributes(reduction, 7))).double()
    x, labels, weights = (torch.from_numpy(array) for array in given.values())
    x, weights = x.double(), weights.double()
    assert torch.autograd.gradcheck(twin, (x.clone().requires_grad_(), labels, weights))
    backward = torch.func.jacrev(twin)(x, labels, weights)
    torch.testing.assert_close(torch.func.jacfwd(twin)(x, labels, weights), backward)
    many = torch.func.vmap(torch.func.jacrev(twin), (0, None, None))(
        torch.stack([x, x + 1, 2 * x]), labels, weights
    )
    torch.testing.assert_close(many[0], backward)
