"""Sampling, regions and blocks of images, against ONNX Runtime."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

torch = pytest.importorskip("torch")

from twin_support import agrees, node_model, twin_outputs  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

RNG = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[Any]:
    """Draw float32 numbers."""
    return RNG.normal(size=shape).astype(np.float32)


def fixed(model: onnx.ModelProto, **values: NDArray[Any]) -> onnx.ModelProto:
    """Give the node of a model constant inputs, after its others."""
    for name, value in values.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        model.graph.node[0].input.append(name)
    return model


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(
    ("opset", "rank", "mode"),
    [
        (16, 2, "bilinear"),
        (16, 2, "nearest"),
        (16, 2, "bicubic"),
        (20, 2, "cubic"),
        (22, 3, "linear"),
        (22, 3, "nearest"),
    ],
)
def test_grid_sample(opset: int, rank: int, mode: str, padding: str, corners: int) -> None:
    """Points within, outside, and halfway between elements."""
    x = normal(2, 3, *(5, 4, 6)[:rank])
    grid = 1.5 * normal(2, *(4, 3, 5)[:rank], rank)
    if mode != "bicubic":
        grid = np.concatenate([grid, np.round(grid * 4) / 4], 1)
    attributes = f'mode = "{mode}", padding_mode = "{padding}", align_corners = {corners}'
    model = node_model("GridSample", opset, {"x": x, "g": grid}, "x g", attributes=attributes)
    agrees(model, x, grid, atol=1e-4)


def test_grid_sample_of_one_axis() -> None:
    """ONNX Runtime has none; the reference has."""
    x, grid = normal(2, 3, 5), normal(2, 7, 1)
    for mode in ("linear", "nearest"):
        model = node_model(
            "GridSample", 20, {"x": x, "g": grid}, "x g", attributes=f'mode = "{mode}"'
        )
        (expected,) = ReferenceEvaluator(model).run(None, {"x": x, "g": grid})
        (found,) = twin_outputs(to_torch(model), model, x, grid)
        assert np.allclose(expected, found, rtol=1e-4, atol=1e-5)


def test_affine_grid_of_another_batch() -> None:
    """There is a grid for each map, whatever the size says."""
    theta = normal(3, 2, 3)
    model = fixed(node_model("AffineGrid", 20, {"t": theta}, "t"), size=np.array([3, 1, 4, 5]))
    twin = agrees(model, theta)
    assert torch.equal(twin(torch.from_numpy(theta))[:2], twin(torch.from_numpy(theta[:2])))


ROIS = np.array(
    [[0.3, 1.2, 7.9, 6.1], [2.0, 2.0, 2.0, 2.0], [-3.5, 4.0, 20.0, 11.5], [5.0, 6.0, 3.0, 2.5]],
    np.float32,
)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize(
    ("opset", "coordinates"), [(10, ""), (16, "half_pixel"), (16, "output_half_pixel")]
)
def test_roi_align(opset: int, coordinates: str, ratio: int, mode: str) -> None:
    """Regions inside and outside, without area, and upside down."""
    given = {"x": normal(2, 3, 8, 9), "rois": ROIS, "images": np.array([0, 1, 1, 0])}
    attributes = (
        f'mode = "{mode}", sampling_ratio = {ratio}, spatial_scale = 0.8, '
        "output_height = 3, output_width = 2"
    )
    if coordinates:
        attributes += f', coordinate_transformation_mode = "{coordinates}"'
    model = node_model("RoiAlign", opset, given, "x rois images", attributes=attributes)
    agrees(model, *given.values())


def test_roi_align_has_gradients() -> None:
    """For the images and for the regions."""
    given = {"x": normal(2, 1, 6, 6), "rois": ROIS[:1], "images": np.array([1])}
    attributes = "sampling_ratio = 2, output_height = 2, output_width = 2"
    twin = to_torch(node_model("RoiAlign", 16, given, "x rois images", attributes=attributes))
    x, rois, images = (torch.from_numpy(array) for array in given.values())
    x, rois = x.double().requires_grad_(), rois.double().requires_grad_()
    assert torch.autograd.gradcheck(twin, (x, rois, images))


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_max_roi_pool(scale: float) -> None:
    """Bins of unequal size, and empty ones."""
    rois = np.concatenate([np.array([[0], [1], [1], [0]], np.float32), ROIS], 1)
    given = {"x": normal(2, 3, 8, 9), "rois": rois}
    attributes = f"pooled_shape = [3, 2], spatial_scale = {scale}"
    agrees(node_model("MaxRoiPool", 7, given, "x rois", attributes=attributes), *given.values())


@pytest.mark.parametrize("opset", [10, 11])
@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize(
    "limits",
    [
        (3,),
        (np.array([2]), np.array([0.3], np.float32)),
        (9, np.float32(0.4), np.float32(0.35)),
        (),
    ],
)
def test_non_max_suppression(limits: tuple[Any, ...], centred: int, opset: int) -> None:
    """Equal scores, limits as numbers and as rows, and none at all."""
    boxes = RNG.random((2, 8, 4)).astype(np.float32)
    scores = np.round(RNG.random((2, 3, 8)), 1).astype(np.float32)
    attributes = f"center_point_box = {centred}"
    model = node_model(
        "NonMaxSuppression", opset, {"b": boxes, "s": scores}, "b s", "y", attributes, "int64"
    )
    constants = {f"limit{i}": np.asarray(limit) for i, limit in enumerate(limits)}
    agrees(fixed(model, **constants), boxes, scores)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str, opset: int) -> None:
    """Both orders of the channels; the first version had one."""
    x = normal(2, 12, 3, 4)
    attributes = f'blocksize = 2, mode = "{mode}"'
    agrees(node_model("DepthToSpace", opset, {"x": x}, "x", attributes=attributes), x)
    agrees(node_model("DepthToSpace", 7, {"x": x}, "x", attributes="blocksize = 2"), x)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_space_to_depth_is_the_inverse(mode: str) -> None:
    """Whatever the order of the channels, and for types PyTorch has no arithmetic for."""
    x = RNG.integers(0, 60000, (1, 4, 6, 4)).astype(np.uint16)
    agrees(
        node_model("SpaceToDepth", 13, {"x": normal(1, 4, 6, 4)}, "x", attributes="blocksize = 2"),
        normal(1, 4, 6, 4),
    )
    there, back = (
        to_torch(
            node_model(op, 28, {"x": x}, "x", "y", f'blocksize = 2, mode = "{mode}"', "uint16")
        )
        for op in ("SpaceToDepth", "DepthToSpace")
    )
    assert np.array_equal(x, back(there(torch.from_numpy(x))).numpy())


@pytest.mark.parametrize(
    ("count", "width", "attributes"),
    [(30, 8, ""), (9, 6, "pads = [0, 1, 1, 0], strides = [2, 1], dilations = [1, 2]")],
)
def test_col2im(count: int, width: int, attributes: str) -> None:
    """Blocks that overlap, with margins that PyTorch takes and others."""
    x = normal(2, 12, count)
    model = node_model("Col2Im", 18, {"x": x}, "x", attributes=attributes)
    agrees(fixed(model, image=np.array([6, width]), block=np.array([2, 3])), x)


@pytest.mark.parametrize(("rank", "count"), [(1, 5), (3, 5 * 4 * 4)])
def test_col2im_in_other_numbers_of_dimensions(rank: int, count: int) -> None:
    """ONNX Runtime forgets the dilations there; the reference does not."""
    x = normal(2, 2 * 2**rank, count)
    attributes = f"dilations = {[2] * rank}, pads = {[1] + [0] * (2 * rank - 1)}"
    model = node_model("Col2Im", 18, {"x": x}, "x", attributes=attributes)
    fixed(model, image=np.full(rank, 6), block=np.full(rank, 2))
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    (found,) = twin_outputs(to_torch(model), model, x)
    assert np.allclose(expected, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Affine", "alpha = 1.5, beta = -0.5"),
        ("ImageScaler", "scale = 0.5, bias = [0.1, -0.2, 0.3]"),
        ("Crop", "border = [1, 2, 0, 1]"),
        ("Crop", "border = [1, 2, 0, 1], scale = [2, 3]"),
        ("ParametricSoftplus", "alpha = 0.7, beta = 1.3"),
        ("ScaledTanh", "alpha = 0.7, beta = 1.3"),
    ],
)
def test_operators_that_onnx_dropped(op: str, attributes: str) -> None:
    """ONNX Runtime still computes them."""
    x = normal(2, 3, 5, 6)
    agrees(node_model(op, 7, {"x": x}, "x", attributes=attributes), x)


def test_what_is_refused() -> None:
    """Strings, and integers between two others."""
    x, grid = normal(1, 1, 2, 2), normal(1, 2, 2, 2)
    model = node_model(
        "DepthToSpace", 13, {"x": x.astype(object)}, "x", "y", "blocksize = 2", "string"
    )
    with pytest.raises(UnsupportedOperator, match="PyTorch has no strings"):
        to_torch(model)
    integers = x.astype(np.int32)
    model = node_model("GridSample", 20, {"x": integers, "g": grid}, "x g", "y", "", "int32")
    with pytest.raises(ModelError, match="integers are sampled in the mode 'nearest' only"):
        to_torch(model)(torch.from_numpy(integers), torch.from_numpy(grid))
