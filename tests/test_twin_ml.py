"""Tabular models of ai.onnx.ml in the twin, beside ONNX Runtime."""

import re
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

torch = pytest.importorskip("torch")

from twin_support import agrees, runtime_outputs  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

rng = np.random.default_rng(0)
ROWS = rng.standard_normal((12, 3)).astype(np.float32)
ROWS[0, 0], ROWS[1] = 0.0, 0.0
HOLES = np.where(rng.random(ROWS.shape) < 0.2, np.nan, ROWS).astype(np.float32)
TYPED = [ROWS, ROWS.astype(np.float64), (ROWS * 3).astype(np.int64), (ROWS * 3).astype(np.int32)]
WORDS = np.array([["a", "b"], ["c", "zz"]], dtype=object)


def model(op: str, x: Any, outputs: str = "float", version: int = 1, **attributes: Any) -> Any:
    """Write a model of one operator; the outputs' types are named one after the other."""
    kinds = {"float": 1, "int64": 7, "string": 8, "int32": 6, "double": 11, "int16": 5}
    kind = 8 if x.dtype == object else helper.np_dtype_to_tensor_dtype(x.dtype)
    names = [f"y{index}" for index, _ in enumerate(outputs.split())]
    node = helper.make_node(op, ["x"], names, domain="ai.onnx.ml", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, [None] * x.ndim)],
        [
            helper.make_tensor_value_info(name, kinds[output], None)
            for name, output in zip(names, outputs.split(), strict=True)
        ],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize("x", [*TYPED, ROWS[2]])
@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Scaler", {"offset": [0.5], "scale": [2.0]}),
        ("Scaler", {"offset": [0.5, 1.0, -1.0], "scale": [2.0, 3.0, 4.0]}),
        ("Normalizer", {"norm": "MAX"}),
        ("Normalizer", {"norm": "L1"}),
        ("Normalizer", {"norm": "L2"}),
        ("FeatureVectorizer", {"inputdimensions": [3]}),
    ],
)
def test_feature_preparation_agrees(op: str, attributes: Any, x: Any) -> None:
    """Scaling and normalising rows, those of zeros too, of every type."""
    agrees(model(op, x, **attributes), x)


@pytest.mark.parametrize(
    ("op", "x", "output", "attributes"),
    [
        ("Binarizer", ROWS, "float", {"threshold": 0.3}),
        ("Imputer", ROWS, "float", {"imputed_value_floats": [9.0], "replaced_value_float": 0.0}),
        (
            "Imputer",
            HOLES,
            "float",
            {"imputed_value_floats": [9.0, 8.0, 7.0], "replaced_value_float": float("nan")},
        ),
        ("Imputer", TYPED[2], "int64", {"imputed_value_int64s": [9], "replaced_value_int64": 0}),
        ("OneHotEncoder", TYPED[2], "float", {"cats_int64s": [0, 1, -1]}),
        ("OneHotEncoder", ROWS, "float", {"cats_int64s": [0, 1, -1]}),
        ("OneHotEncoder", WORDS, "float", {"cats_strings": ["c", "a"]}),
    ],
)
def test_encoders_agree(op: str, x: Any, output: str, attributes: Any) -> None:
    """Thresholds, missing values and categories."""
    agrees(model(op, x, output, **attributes), x)


NUMBERS = np.array([[1, 5, 3], [9, 2, 5]])
FLOATS = np.array([1.5, np.nan, -0.0, 7.0], np.float32)


@pytest.mark.parametrize(
    ("version", "x", "output", "attributes"),
    [
        (1, WORDS, "int64", {"classes_strings": ["c", "a"]}),
        (1, NUMBERS, "string", {"classes_strings": ["c", "a"], "default_string": "none"}),
        (2, WORDS, "int64", {"keys_strings": ["c", "a"], "values_int64s": [3, 4]}),
        (2, WORDS, "string", {"keys_strings": ["c", "a"], "values_strings": ["x", "y"]}),
        (2, NUMBERS, "float", {"keys_int64s": [5, 1, 9], "values_floats": [3.0, 4.0, 5.0]}),
        (4, NUMBERS, "string", {"keys_int64s": [5, 1], "values_strings": ["3", "4"]}),
        (4, FLOATS, "int64", {"keys_floats": [np.nan, 1.5, 0.0], "values_int64s": [3, 4, 9]}),
    ],
)
def test_label_encoder_agrees(version: int, x: Any, output: str, attributes: Any) -> None:
    """Labels are looked up in tables of every version, NaN too."""
    agrees(model("LabelEncoder", x, output, version, **attributes), x)


def test_label_encoder_of_tensors_agrees() -> None:
    """Keys and values may be tensors of other types."""
    tensors = {
        "keys_tensor": onnx.numpy_helper.from_array(np.array(["c", "a"], dtype=object)),
        "values_tensor": onnx.numpy_helper.from_array(np.array([5, 2], np.int16)),
        "default_tensor": onnx.numpy_helper.from_array(np.array([9], np.int16)),
    }
    agrees(model("LabelEncoder", WORDS, "int16", 4, **tensors), WORDS)
    tensors = {
        "keys_tensor": onnx.numpy_helper.from_array(np.array([1.5, 7.0])),
        "values_tensor": onnx.numpy_helper.from_array(np.array([0.1, 0.2])),
        "default_tensor": onnx.numpy_helper.from_array(np.array([0.3])),
    }
    x = FLOATS.astype(np.float64)
    agrees(model("LabelEncoder", x, "double", 4, **tensors), x)


@pytest.mark.parametrize(("x", "output"), [(WORDS, "int64"), (NUMBERS, "string")])
def test_category_mapper_agrees(x: Any, output: str) -> None:
    """Categories are mapped both ways."""
    mapping: dict[str, Any] = {"cats_strings": ["c", "a"], "cats_int64s": [5, 9]}
    agrees(model("CategoryMapper", x, output, **mapping), x)


def labels(classes: int, kind: str) -> tuple[str, dict[str, Any]]:
    """Return the type of the labels, and them under the name that most operators use."""
    names = {"string": ["a", "b", "c", "d"][:classes], "int64": [5, 7, 9, 2][:classes]}
    return kind, {f"classlabels_{'strings' if kind == 'string' else 'ints'}": names[kind]}


@pytest.mark.parametrize("x", TYPED)
@pytest.mark.parametrize("kind", ["int64", "string"])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_linear_classifier_agrees(transform: str, kind: str, x: Any) -> None:
    """Scores of several classes, in each transformation."""
    output, given = labels(3, kind)
    numbers = {
        "coefficients": rng.standard_normal(9).tolist(),
        "intercepts": rng.standard_normal(3).tolist(),
    }
    attributes = {**given, **numbers, "post_transform": transform}
    agrees(model("LinearClassifier", x, f"{output} float", **attributes), x)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
def test_one_score_for_two_classes_agrees(transform: str) -> None:
    """The second class's score alone gives both."""
    output, given = labels(2, "int64")
    numbers = {"coefficients": [1.0, -2.0, 0.5], "intercepts": [0.1]}
    attributes = {**given, **numbers, "post_transform": transform}
    agrees(model("LinearClassifier", ROWS, f"{output} float", **attributes), ROWS)


@pytest.mark.parametrize(("targets", "transform"), [(1, "NONE"), (3, "NONE"), (3, "SOFTMAX")])
def test_linear_regressor_agrees(targets: int, transform: str) -> None:
    """One target or several, with intercepts or without."""
    numbers: dict[str, Any] = {"coefficients": rng.standard_normal(3 * targets).tolist()}
    for intercepts in ({}, {"intercepts": [0.5] * targets}):
        attributes = {**numbers, **intercepts, "targets": targets, "post_transform": transform}
        agrees(model("LinearRegressor", ROWS, **attributes), ROWS)


KERNELS = [
    ("LINEAR", [0.0, 0.0, 0.0]),
    ("POLY", [0.5, 0.3, 3.0]),
    ("RBF", [0.5, 0.0, 0.0]),
    ("SIGMOID", [0.5, 0.3, 0.0]),
]


def machine(sizes: list[int], kernel: str, params: list[float], proba: bool) -> dict[str, Any]:
    """Return the attributes of a support vector machine with so many vectors of each class."""
    total, pairs = sum(sizes), len(sizes) * (len(sizes) - 1) // 2
    found = {
        "kernel_type": kernel,
        "kernel_params": params,
        "vectors_per_class": sizes,
        "support_vectors": rng.standard_normal(3 * total).tolist(),
        "coefficients": rng.standard_normal((len(sizes) - 1) * total).tolist(),
        "rho": rng.standard_normal(pairs).tolist(),
    }
    if proba:
        found["prob_a"] = (-rng.random(pairs) - 0.1).tolist()
        found["prob_b"] = rng.standard_normal(pairs).tolist()
    return found


@pytest.mark.parametrize(("kernel", "params"), KERNELS)
@pytest.mark.parametrize("sizes", [[2, 3], [2, 1, 3], [1, 2, 3, 1]])
@pytest.mark.parametrize("proba", [False, True])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
def test_svm_classifier_agrees(
    transform: str, proba: bool, sizes: list[int], kernel: str, params: list[float]
) -> None:
    """Votes, decisions of pairs and coupled probabilities, with every kernel."""
    output, given = labels(len(sizes), "string")
    attributes = {**machine(sizes, kernel, params, proba), **given, "post_transform": transform}
    agrees(model("SVMClassifier", ROWS, f"{output} float", **attributes), ROWS)


@pytest.mark.parametrize(("kernel", "params"), KERNELS)
@pytest.mark.parametrize("one_class", [0, 1])
@pytest.mark.parametrize("supports", [0, 4])
def test_svm_regressor_agrees(
    supports: int, one_class: int, kernel: str, params: list[float]
) -> None:
    """Regression and the detection of outliers, with support vectors or without."""
    attributes = {
        "kernel_type": kernel,
        "kernel_params": params,
        "n_supports": supports,
        "coefficients": rng.standard_normal(supports or 3).tolist(),
        "support_vectors": rng.standard_normal(3 * supports or 1).tolist(),
        "rho": [0.3],
        "one_class": one_class,
    }
    agrees(model("SVMRegressor", ROWS, **attributes), ROWS)


MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


def forest(kind: str, targets: list[int], each: str, modes: list[str], low: float) -> Any:
    """Grow random trees and write them as attributes.

    Args:
        kind: What the operator calls what leaves give to: ``target`` or ``class``.
        targets: What there is to give to.
        each: A leaf gives to ``all`` of them, to ``one``, or to the ``tree``'s.
        modes: The comparisons to choose from.
        low: The smallest number that is given.
    """
    nodes: list[dict[str, Any]] = []
    given: list[tuple[int, int, int, float]] = []

    def grow(tree: int, depth: int) -> int:
        own = {"nodes_nodeids": sum(n["nodes_treeids"] == tree for n in nodes)}
        leaf = depth == 0 or (depth < 3 and rng.random() < 0.25)
        own.update(
            nodes_treeids=tree,
            nodes_featureids=int(rng.integers(3)),
            nodes_values=float(rng.integers(-2, 3) / 2),
            nodes_modes="LEAF" if leaf else str(rng.choice(modes)),
            nodes_missing_value_tracks_true=int(rng.integers(2)),
            nodes_truenodeids=0,
            nodes_falsenodeids=0,
        )
        nodes.append(own)
        if leaf:
            chosen = {"all": targets, "one": [int(rng.choice(targets))]}
            for target in chosen.get(each, [targets[tree % len(targets)]]):
                weight = float(np.float32(rng.uniform(low, 0.4)))
                given.append((tree, own["nodes_nodeids"], target, weight))
        else:
            own["nodes_truenodeids"] = grow(tree, depth - 1)
            own["nodes_falsenodeids"] = grow(tree, depth - 1)
        return int(own["nodes_nodeids"])

    for tree in range(4):
        grow(tree, 3)
    names = ("treeids", "nodeids", "ids", "weights")
    leaves = {f"{kind}_{n}": list(c) for n, c in zip(names, zip(*given, strict=True), strict=True)}
    return {name: [node[name] for node in nodes] for name in nodes[0]} | leaves


@pytest.mark.parametrize("x", [HOLES, TYPED[2]])
@pytest.mark.parametrize("modes", [MODES[:1], MODES])
@pytest.mark.parametrize("each", ["all", "one", "tree"])
@pytest.mark.parametrize(
    ("targets", "attributes"),
    [
        (1, {"base_values": [0.5]}),
        (1, {"aggregate_function": "AVERAGE"}),
        (3, {"aggregate_function": "MIN"}),
        (3, {"aggregate_function": "MAX"}),
        (3, {"post_transform": "SOFTMAX"}),
    ],
)
def test_tree_ensemble_regressor_agrees(
    targets: int, attributes: Any, each: str, modes: list[str], x: Any
) -> None:
    """Trees of every comparison and aggregate, with missing values and targets."""
    if x.dtype != np.float32:
        x = x.astype(np.float64)
    trees = forest("target", list(range(targets)), each, modes, -0.4)
    agrees(model("TreeEnsembleRegressor", x, n_targets=targets, **trees, **attributes), x)


@pytest.mark.parametrize("each", ["all", "one", "tree"])
@pytest.mark.parametrize("low", [0.0, -0.4])
@pytest.mark.parametrize(
    ("classes", "attributes"),
    [
        (2, {}),
        (2, {"post_transform": "LOGISTIC", "base_values": [0.1]}),
        (3, {}),
        (4, {"post_transform": "SOFTMAX", "base_values": [0.1, 0.2, 0.3, -0.4]}),
    ],
)
def test_tree_ensemble_classifier_agrees(
    classes: int, attributes: Any, low: float, each: str
) -> None:
    """Two classes from one score, and several; the label is one of a class with a score."""
    targets = [0] if classes == 2 else list(range(classes))
    trees = forest("class", targets, each, MODES[:1], low)
    given = {"classlabels_strings": ["a", "b", "c", "d"][:classes]}
    attributes = {**trees, **given, **attributes}
    agrees(model("TreeEnsembleClassifier", HOLES, "string float", **attributes), HOLES)


def test_double_thresholds_agree() -> None:
    """Version 3 keeps thresholds and weights in double precision."""
    x = ROWS.astype(np.float64)
    trees = forest("target", [0], "all", MODES, -0.4)
    for name in ("nodes_values", "target_weights"):
        exact = np.array(trees.pop(name)) + 1e-9
        trees[f"{name}_as_tensor"] = onnx.numpy_helper.from_array(exact, name)
    agrees(model("TreeEnsembleRegressor", x, version=3, n_targets=1, **trees), x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_split_tree_ensemble_agrees(dtype: Any) -> None:
    """Version 5 holds leaves apart and looks for members of sets."""
    tensor = onnx.numpy_helper.from_array
    attributes = {
        "tree_roots": [0, 2],
        "nodes_featureids": [0, 1, 2],
        "nodes_modes": tensor(np.array([6, 1, 0], np.uint8)),
        "nodes_splits": tensor(np.array([0.0, 0.25, 1.0], dtype)),
        "membership_values": tensor(np.array([0.0, 2.0, np.nan], dtype)),
        "nodes_trueleafs": [0, 1, 1],
        "nodes_truenodeids": [1, 0, 3],
        "nodes_falseleafs": [1, 1, 1],
        "nodes_falsenodeids": [2, 1, 0],
        "nodes_missing_value_tracks_true": [1, 0, 1],
        "leaf_targetids": [0, 1, 0, 1],
        "leaf_weights": tensor(np.array([1.0, 2.5, -3.0, 0.5], dtype)),
        "n_targets": 2,
    }
    x = np.round(HOLES * 2).astype(dtype)
    output = "float" if dtype == np.float32 else "double"
    agrees(model("TreeEnsemble", x, output, 5, **attributes), x)


def test_models_have_gradients() -> None:
    """Linear models, kernels and probabilities have right gradients."""
    x = torch.from_numpy(ROWS[2:6]).double().requires_grad_()
    for kernel, params in KERNELS:
        attributes = {**machine([2, 1, 3], kernel, params, True), **labels(3, "int64")[1]}
        twin = to_torch(model("SVMClassifier", ROWS, "int64 float", **attributes)).double()
        assert torch.autograd.gradcheck(lambda x, twin=twin: twin(x)[1], x, atol=1e-4)
    for norm in ("MAX", "L1", "L2"):
        assert torch.autograd.gradcheck(to_torch(model("Normalizer", ROWS, norm=norm)).double(), x)


def test_trees_have_zero_gradients() -> None:
    """A tree is constant but for jumps: its gradient is zero and can be asked for."""
    trees = forest("target", [0], "all", MODES, -0.4)
    twin = to_torch(model("TreeEnsembleRegressor", ROWS, n_targets=1, **trees))
    x = torch.from_numpy(HOLES).requires_grad_()
    (gradient,) = torch.autograd.grad(twin(x).sum(), x)
    assert torch.equal(torch.zeros_like(x), gradient)


def test_zip_map_gives_dictionaries() -> None:
    """ZipMap names each row's scores; they stay tensors with gradients."""
    node = helper.make_node(
        "ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c"]
    )
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(8, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, [None, 3])],
        [helper.make_value_info("y", kind)],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=8)
    (expected,) = runtime_outputs(made, ROWS)
    found = to_torch(made)(torch.from_numpy(ROWS).requires_grad_())
    assert expected == [{key: value.item() for key, value in row.items()} for row in found]
    assert found[0]["a"].requires_grad


TREES = forest("class", [0, 1], "all", MODES, -0.4)


@pytest.mark.parametrize(
    ("op", "attributes", "reason"),
    [
        (
            "TreeEnsembleClassifier",
            {**TREES, "classlabels_int64s": [0, 1]},
            "the scores of two classes that each have some are not defined",
        ),
        (
            "LinearClassifier",
            {"coefficients": [1.0], "intercepts": [1.0], "post_transform": "PROBIT"},
            "ONNX Runtime only approximates its post_transform PROBIT",
        ),
        (
            "SVMClassifier",
            {"coefficients": [1.0], "classlabels_ints": [0, 1]},
            "a machine without support vectors is not supported",
        ),
        (
            "LabelEncoder",
            {"keys_int64s": [1, 1], "values_int64s": [2, 3]},
            "takes the first, the specification the last",
        ),
    ],
)
def test_what_is_refused(op: str, attributes: Any, reason: str) -> None:
    """What specification and runtime read differently is refused."""
    version = 2 if op == "LabelEncoder" else 1
    outputs = "int64" if op == "LabelEncoder" else "int64 float"
    with pytest.raises(UnsupportedOperator, match=f"{re.escape(reason)}$"):
        to_torch(model(op, ROWS, outputs, version, **attributes))


def test_unknown_categories_are_refused() -> None:
    """Without ``zeros`` an unknown category is an error."""
    twin = to_torch(model("OneHotEncoder", WORDS, cats_strings=["a"], zeros=0))
    with pytest.raises(ModelError, match="there is an element of none of its categories"):
        twin(WORDS)
