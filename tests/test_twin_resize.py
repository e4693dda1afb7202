"""Resize and Upsample against ONNX Runtime, over versions, modes and coordinates."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from twin_support import agrees, node_model, parse  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402

RNG = np.random.default_rng(0)
COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


def normal(*shape: int) -> NDArray[Any]:
    """Draw float32 numbers."""
    return RNG.normal(size=shape).astype(np.float32)


def resize_model(
    opset: int, x: NDArray[Any], attributes: str, **settings: list[float] | list[int]
) -> onnx.ModelProto:
    """Write a Resize whose scales, sizes or roi are in the file."""
    slots = ["scales"] if opset == 10 else ["roi", "scales", "sizes"]
    model = node_model("Resize", opset, {"x": x}, "x", attributes=attributes)
    node = model.graph.node[0]
    for name in slots:
        if name in settings or (opset < 13 and name != "sizes"):
            kind = np.int64 if name == "sizes" else np.float32
            array = np.array(settings.get(name, []), kind)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            node.input.append(name)
        else:
            node.input.append("")
    while not node.input[-1]:
        del node.input[-1]
    return model


@pytest.mark.parametrize(
    "scales", [[1.0, 1.0, 2.0, 4.0], [1.0, 1.0, 1.5, 0.6], [1.0, 1.0, 3.0, 0.7]]
)
@pytest.mark.parametrize("opset", [11, 13, 19])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_nearest(coordinates: str, rounding: str, opset: int, scales: list[float]) -> None:
    """Every way to find the nearest element."""
    x = normal(2, 2, 5, 10)
    attributes = f'coordinate_transformation_mode = "{coordinates}", nearest_mode = "{rounding}"'
    agrees(resize_model(opset, x, attributes, scales=scales), x, rtol=0, atol=0)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "half_pixel_symmetric"])
def test_nearest_element_of_points_halfway(coordinates: str, rounding: str) -> None:
    """A coordinate's rounding error does not decide between two elements."""
    x = np.arange(120, dtype=np.float32).reshape(1, 1, 120)
    attributes = f'coordinate_transformation_mode = "{coordinates}", nearest_mode = "{rounding}"'
    for scale in [k / 7 for k in range(1, 24)] + [k / 10 for k in range(1, 24)]:
        if int(120 * scale) != 120:
            model = resize_model(19, x, attributes, scales=[1.0, 1.0, scale])
            agrees(model, x, rtol=0, atol=0)


SIZES = [(2, 2, 11, 3), (2, 2, 5, 14), (2, 2, 1, 1), (2, 2, 7, 5)]


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolation_to_sizes(mode: str, coordinates: str, opset: int) -> None:
    """To more and to fewer elements, down to one."""
    x = normal(2, 2, 7, 9)
    attributes = f'mode = "{mode}", coordinate_transformation_mode = "{coordinates}"'
    for sizes in SIZES:
        agrees(resize_model(opset, x, attributes, sizes=list(sizes)), x)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("coordinates", [*COORDINATES, "half_pixel_symmetric"])
def test_linear_interpolation_by_scales(coordinates: str, rank: int) -> None:
    """By whole factors, and by factors whose lengths are rounded down."""
    x = normal(2, 2, *(7, 5, 4)[:rank])
    attributes = f'mode = "linear", coordinate_transformation_mode = "{coordinates}"'
    for scales in ([2.0, 2.0, 2.0], [0.7, 2.3, 1.6]):
        agrees(resize_model(19, x, attributes, scales=[1.0, 1.0, *scales[:rank]]), x)


@pytest.mark.parametrize("extra", ["", "cubic_coeff_a = -0.5", "exclude_outside = 1"])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_cubic_interpolation(coordinates: str, extra: str) -> None:
    """Its filter and what it does at the border."""
    x = normal(2, 2, 7, 5)
    attributes = f'mode = "cubic", coordinate_transformation_mode = "{coordinates}"'
    attributes += f", {extra}" if extra else ""
    for scales in ([1.0, 1.0, 2.0, 3.0], [1.0, 1.0, 0.6, 1.7]):
        agrees(resize_model(13, x, attributes, scales=scales), x, atol=1e-4)


@pytest.mark.parametrize("exclude", [0, 1])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias(mode: str, exclude: int) -> None:
    """The filter is wider where there are fewer elements."""
    x = normal(2, 2, 17, 13)
    attributes = f'mode = "{mode}", antialias = 1, exclude_outside = {exclude}'
    for scales in ([1.0, 1.0, 0.3, 0.6], [1.0, 1.0, 0.5, 2.0]):
        agrees(resize_model(18, x, attributes, scales=scales), x, atol=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_crop(mode: str) -> None:
    """A part of the image and what is around it."""
    x = normal(2, 2, 7, 9)
    attributes = (
        f'mode = "{mode}", coordinate_transformation_mode = "tf_crop_and_resize", '
        "extrapolation_value = 7.5"
    )
    roi = [0.0, 0.0, -0.2, 0.3, 1.0, 1.0, 0.6, 1.1]
    agrees(resize_model(13, x, attributes, roi=roi, sizes=[2, 2, 5, 6]), x, atol=1e-4)
    model = resize_model(
        18, x, f"{attributes}, axes = [3, 2]", roi=[0.3, -0.2, 1.1, 0.6], sizes=[6, 5]
    )
    agrees(model, x, atol=1e-4)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_the_ratio_of_the_sides(policy: str) -> None:
    """Sizes as limits, for some axes."""
    x = normal(1, 3, 7, 11)
    for mode in ("nearest", "linear"):
        attributes = f'mode = "{mode}", keep_aspect_ratio_policy = "{policy}", axes = [2, 3]'
        for sizes in ([10, 9], [4, 21]):
            agrees(resize_model(18, x, attributes, sizes=sizes), x)


@pytest.mark.parametrize("scales", [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.7, 3.0]])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_versions_without_coordinates(mode: str, scales: list[float]) -> None:
    """Upsample with an attribute, then with an input, then Resize."""
    x = normal(2, 3, 5, 6)
    attributes = f'mode = "{mode}", scales = {scales}'
    agrees(node_model("Upsample", 7, {"x": x}, "x", attributes=attributes), x)
    agrees(resize_model(10, x, f'mode = "{mode}"', scales=scales), x)
    given = {"x": x, "scales": np.array(scales, np.float32)}
    model = node_model("Upsample", 9, given, "x scales", attributes=f'mode = "{mode}"')
    agrees(model, *given.values())
    if mode == "nearest":
        agrees(resize_model(10, x, 'mode = "nearest"', scales=[1.0, 1.0, 0.6, 0.3]), x)


def test_integers_have_nearest_elements() -> None:
    """A mask keeps its type."""
    x = RNG.integers(0, 256, (2, 1, 5, 6)).astype(np.uint8)
    model = resize_model(13, x, 'mode = "nearest"', scales=[1.0, 1.0, 2.0, 1.5])
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    agrees(model, x, rtol=0, atol=0)


UPSAMPLED = """<ir_version: 8, opset_import: ["": 13]>
g (float[{batch}, 3, H, W] x, float[{batch}, 3, K, L] like) => (float[{batch}, 3, K, L] y) {{
    {sizes}
    y = Resize<mode = "linear">(x, "", "", sizes)
}}"""


def test_sizes_that_a_call_tells() -> None:
    """As a decoder brings its input to the size of another tensor."""
    x, like = normal(2, 3, 4, 5), normal(2, 3, 9, 7)
    agrees(UPSAMPLED.format(batch="N", sizes="sizes = Shape(like)"), x, like)


def test_another_batch_than_that_of_the_file() -> None:
    """Sizes that name the batch of the file do not stretch another one."""
    sizes = "sizes = Constant<value = int64[4] {1, 3, 9, 7}>()"
    model = parse(UPSAMPLED.format(batch=1, sizes=sizes))
    x, like = normal(1, 3, 4, 5), normal(1, 3, 9, 7)
    twin = agrees(model, x, like)
    one, given = torch.from_numpy(x), torch.from_numpy(like)
    several = twin(one.expand(4, -1, -1, -1), given.expand(4, -1, -1, -1))
    assert torch.equal(twin(one, given).expand(4, -1, -1, -1), several)


@pytest.mark.parametrize(
    ("attributes", "scales", "step"),
    [
        (
            'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"',
            [1.0, 1.0, 2.0, 2.0],
            "v1 = interpolate(v0, scale_factor=(2.0, 2.0), mode='nearest')",
        ),
        ('mode = "linear"', [1.0, 1.0, 2.0, 2.0], "v1 = resized(v0, (1.0, 1.0, 2.0, 2.0), None"),
    ],
)
def test_gradients(attributes: str, scales: list[float], step: str) -> None:
    """They agree with central differences, by PyTorch's own function and by ours."""
    x = normal(1, 1, 4, 3)
    twin = to_torch(resize_model(13, x, attributes, scales=scales))
    assert step in twin.source
    assert torch.autograd.gradcheck(twin, torch.from_numpy(x).double().requires_grad_())


def test_what_is_refused() -> None:
    """Sizes that are read in more than one way, and integers between two others."""
    x = normal(1, 1, 4, 5)
    crop = 'coordinate_transformation_mode = "tf_crop_and_resize"'
    scales = [1.0, 1.0, 2.0, 1.2]
    roi = [0.0, 0.0, 0.1, 0.1, 1.0, 1.0, 0.9, 0.9]
    with pytest.raises(UnsupportedOperator, match="it crops by scales"):
        to_torch(resize_model(13, x, crop, roi=roi, scales=scales))
    twin = to_torch(resize_model(13, x, 'mode = "linear"', scales=[1.0, 1.0, 1.0, 1.1]))
    with pytest.raises(ModelError, match="a change of scale that keeps a length"):
        twin(torch.from_numpy(x))
    with pytest.raises(ModelError, match="integers are resized in the mode 'nearest' only"):
        to_torch(resize_model(13, x, 'mode = "linear"', scales=scales))(
            torch.ones(1, 1, 4, 5).int()
        )
    given = {"x": x, "scales": np.array(scales, np.float32)}
    attributes = 'mode = "linear", coordinate_transformation_mode = "align_corners"'
    model = node_model("Resize", 13, given, "x roi scales", attributes=attributes)
    with pytest.raises(UnsupportedOperator, match="its corners depend on its scales"):
        to_torch(model)
