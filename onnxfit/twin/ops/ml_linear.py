"""Linear models and support vector machines of ai.onnx.ml; their weights are attributes."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnxfit.twin.node import Node, Outputs
from onnxfit.twin.ops.ml import DOMAIN, flat, floats
from onnxfit.twin.ops.ml_scores import (
    labels_of,
    pick,
    transform,
    transform_of,
    with_complement,
    with_opposite,
)
from onnxfit.twin.registry import converter
from onnxfit.twin.transforms import transformed
from onnxfit.twin.values import Constant

# A kernel's name with gamma, coef0 and degree.
Kernel = tuple[str, float, float, float]


@converter("LinearRegressor", domain=DOMAIN)
def linear_regressor(node: Node) -> Outputs:
    targets = node.get("targets", 1)
    name = transform_of(node)
    if targets == 1 and name != "NONE":
        node.unsupported("ONNX Runtime does not transform a single target")
    weights = _matrix(node.get("coefficients"), targets)
    intercepts = node.get("intercepts")
    bias = floats(intercepts) if intercepts else None
    return node.emit(transform, node.emit(project, node.input(0), weights, bias), name)


@converter("LinearClassifier", domain=DOMAIN)
def linear_classifier(node: Node) -> Outputs:
    """Convert to scores and labels; one row of coefficients makes the scores of two classes."""
    name, labels = transform_of(node), labels_of(node, "classlabels_ints")
    intercepts = node.get("intercepts")
    if not intercepts:
        node.unsupported("ONNX Runtime cannot do without its intercepts")
    classes = len(intercepts)
    if classes != len(labels.value) and (classes, len(labels.value)) != (1, 2):
        node.unsupported(f"it has {len(labels.value)} labels for {classes} scores")
    weights = _matrix(node.get("coefficients"), classes)
    scores = node.emit(project, node.input(0), weights, floats(intercepts))
    if classes > 1:
        return node.emit(top_label, scores, labels), node.emit(transform, scores, name)
    if len(labels.value) == 1 or name not in ("NONE", "LOGISTIC"):
        node.unsupported("one score does not tell the labels of its classes")
    both = node.emit(with_complement, scores)
    if name == "LOGISTIC":
        both = node.emit(with_opposite, scores, name)
    return node.emit(sign_label, scores, labels), both


@converter("SVMRegressor", domain=DOMAIN)
def svm_regressor(node: Node) -> Outputs:
    """Convert a machine with support vectors, or a linear one without."""
    if transform_of(node) != "NONE":
        node.unsupported("ONNX Runtime does not transform a single target")
    supports, bias = node.get("n_supports", 0), floats(node.get("rho")[:1])
    x, weights = node.input(0), _matrix(node.get("coefficients"), 1)
    if supports:
        vectors = _matrix(node.get("support_vectors"), supports)
        x = node.emit(kernel_of, x, vectors, _kernel(node))
    y = node.emit(project, x, weights, bias)
    return node.emit(side, y) if node.get("one_class", 0) else y


@converter("SVMClassifier", domain=DOMAIN)
def svm_classifier(node: Node) -> Outputs:
    """Convert to a vote of the classes, pair by pair, and scores or probabilities."""
    sizes, labels = node.get("vectors_per_class"), labels_of(node, "classlabels_ints")
    if not sizes:
        node.unsupported("a machine without support vectors is not supported")
    if len(sizes) != len(labels.value) or len(sizes) < 2:
        node.unsupported(f"it has {len(labels.value)} labels for {len(sizes)} classes")
    vectors = _matrix(node.get("support_vectors"), sum(sizes))
    kernel = node.emit(kernel_of, node.input(0), vectors, _kernel(node))
    weights = pair_weights(node.get("coefficients"), sizes)
    scores = node.emit(project, kernel, Constant(weights), floats(node.get("rho")))
    votes = node.emit(vote, scores, len(sizes))
    first, second, name = node.get("prob_a"), node.get("prob_b"), transform_of(node)
    if first:
        z = node.emit(probabilities, scores, floats(first), floats(second), len(sizes))
    elif len(sizes) > 2:
        z = scores
    elif name in ("NONE", "LOGISTIC"):
        return node.emit(pick, labels, votes), node.emit(with_opposite, scores, name)
    else:
        node.unsupported("ONNX Runtime has no softmax of one score")
    return node.emit(pick, labels, votes), node.emit(transform, z, name)


def _matrix(numbers: tuple[float, ...], rows: int) -> Constant:
    return Constant(torch.tensor(numbers, dtype=torch.float32).reshape(rows, -1))


def _kernel(node: Node) -> Kernel:
    name = node.get("kernel_type", "LINEAR")
    if name not in ("LINEAR", "POLY", "RBF", "SIGMOID"):
        node.unsupported(f"there is no kernel_type {name!r}")
    gamma, constant, degree = node.get("kernel_params", (0.0, 0.0, 0.0))
    return (name, gamma, constant, degree)


def pair_weights(coefficients: tuple[float, ...], sizes: tuple[int, ...]) -> Tensor:
    """Return the weight of each support vector in the decision between each pair of classes.

    A class has a row of coefficients for each other class, in order, at its own vectors' columns.
    """
    count, total = len(sizes), sum(sizes)
    table = torch.tensor(coefficients[: (count - 1) * total], dtype=torch.float32)
    table = table.reshape(count - 1, total)
    starts = [sum(sizes[:i]) for i in range(count + 1)]
    rows = []
    for i in range(count):
        for j in range(i + 1, count):
            row = torch.zeros(total)
            row[starts[i] : starts[i + 1]] = table[j - 1, starts[i] : starts[i + 1]]
            row[starts[j] : starts[j + 1]] = table[i, starts[j] : starts[j + 1]]
            rows.append(row)
    return torch.stack(rows)


def rows_of(x: Tensor, like: Tensor) -> Tensor:
    """Return an input as rows in the type of the weights."""
    return (x[None] if x.dim() == 1 else x).to(like.dtype)


def project(x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    return functional.linear(rows_of(x, weights), weights, bias)


def kernel_of(x: Tensor, vectors: Tensor, kernel: Kernel) -> Tensor:
    """Compute the kernel of each row with each support vector."""
    name, gamma, constant, degree = kernel
    x = rows_of(x, vectors)
    if name == "RBF":
        center = vectors.mean(0)  # Near the vectors, squares of distances lose no digits.
        x, vectors = x - center, vectors - center
        squares = x.square().sum(1, keepdim=True) + vectors.square().sum(1)
        return torch.exp(-gamma * (squares - 2 * (x @ vectors.t())))
    products = x @ vectors.t()
    if name == "POLY":
        return (gamma * products + constant) ** degree
    return torch.tanh(gamma * products + constant) if name == "SIGMOID" else products


def vote(scores: Tensor, classes: int) -> Tensor:
    """Return the class that wins most pairs, the first of several."""
    votes = scores.new_zeros((len(scores), classes))
    pair = 0
    for i in range(classes):
        for j in range(i + 1, classes):
            wins = (scores[:, pair] > 0).to(scores.dtype)[:, None]
            unit = torch.eye(classes, dtype=scores.dtype, device=scores.device)
            votes = votes + wins * unit[i] + (1 - wins) * unit[j]
            pair += 1
    return votes.argmax(1)


def probabilities(scores: Tensor, first: Tensor, second: Tensor, classes: int) -> Tensor:
    """Couple the probabilities of pairs as Wu, Lin and Weng (2004) do, in at most 100 rounds."""
    pairs = torch.sigmoid(-(scores * first + second)).clamp(1e-7, 1 - 1e-7)
    table = [[scores.new_zeros(len(scores))] * classes for _ in range(classes)]
    pair = 0
    for i in range(classes):
        for j in range(i + 1, classes):
            table[i][j], table[j][i] = pairs[:, pair], 1 - pairs[:, pair]
            pair += 1
    r = torch.stack([torch.stack(row, 1) for row in table], 1)
    q = torch.diag_embed(r.square().sum(1)) - r * r.transpose(1, 2)
    p = scores.new_full((len(scores), classes), 1 / classes)
    going = torch.ones_like(p[:, :1], dtype=torch.bool)
    for _ in range(100):
        qp = (q @ p[..., None])[..., 0]
        pqp = (p * qp).sum(1, keepdim=True)
        going = going & ((qp - pqp).abs().amax(1, keepdim=True) >= 0.005 / classes)
        if not transformed() and not bool(going.any()):
            break
        p = torch.where(going, _round(p, q, qp, pqp), p)
    return p


def _round(p: Tensor, q: Tensor, qp: Tensor, pqp: Tensor) -> Tensor:
    """Move each probability in turn to where the error is least, and normalise."""
    for i in range(p.shape[1]):
        diagonal = q[:, i, i, None]
        change = (pqp - qp[:, i, None]) / diagonal
        unit = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)[i]
        scale = 1 + change
        pqp = (pqp + change * (change * diagonal + 2 * qp[:, i, None])) / scale / scale
        p, qp = (p + change * unit) / scale, (qp + change * q[:, i]) / scale
    return p


def top_label(scores: Tensor, labels: Any) -> Any:
    return pick(labels, scores.argmax(1))


def sign_label(scores: Tensor, labels: Any) -> Any:
    return pick(labels, (scores[:, 0] > 0).long())


def side(y: Tensor) -> Tensor:
    """Return 1 above 0, else −1."""
    return flat(torch.where(y > 0, 1.0, -1.0).to(y.dtype), y)
