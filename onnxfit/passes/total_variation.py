"""Total variation minimised between a network's input and what reads it.

With all pixels kept it is Rudin, Osher and Fatemi's denoising; with some of them, drawn at random,
it fills in the others (Guo et al. 2018, arXiv 1711.00117, whose distance to the kept pixels is not
squared). The objective, and the iterations that minimise it, are in
:mod:`onnxfit.passes.chambolle`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxfit import checks
from onnxfit.edits import remove_where
from onnxfit.element_types import inputs_of
from onnxfit.errors import ModelError
from onnxfit.graph import model_opset
from onnxfit.image_layout import channel_axis
from onnxfit.op import DOMAIN, ELEMENT_TYPES
from onnxfit.passes.building import Builder, add_initializers, recorded, remove_built
from onnxfit.passes.chambolle import denoised, filled_in
from onnxfit.passes.renaming import rename_reads
from onnxfit.passes.units import Units

KEY = f"{DOMAIN}.denoising"
PREFIX = f"{KEY}/"
# Weights whose share of a step float32 can hold.
_WEIGHTS = (1e-30, 1e30)


@dataclass(frozen=True, kw_only=True)
class TotalVariation:
    """How total variation is minimised.

    Attributes:
        weight: λ, in units of the pixels.
        steps: How many iterations; at least 2 where all pixels are kept.
        keep: Which share of the pixels, each channel by itself, is kept; the others are filled in.
        seed: Of a mask that stays the same; None for another one for each sample at each run.

    Raises:
        ValueError: One is out of its range.
    """

    weight: float
    steps: int = 50
    keep: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        checks.within("weight", self.weight, *_WEIGHTS)
        checks.above_0("keep", self.keep)
        checks.share("keep", self.keep)
        # With all pixels kept the first iteration is the image itself.
        checks.whole("steps", self.steps, 2 if self.keep == 1 else 1)
        if self.seed is not None:
            checks.seed(self.seed)
            if self.keep == 1:
                raise ValueError("a seed is for a mask: no pixel is dropped")

    @property
    def mask(self) -> str:
        """Where the mask comes from."""
        if self.keep == 1:
            return "none"
        return "drawn at each run" if self.seed is None else "fixed"


@dataclass(frozen=True, kw_only=True)
class Place:
    """The images that a network takes.

    Attributes:
        value: The graph's input.
        element_type: Of it.
        sizes: N×C×H×W or N×H×W, None for those that are open.
    """

    value: str
    element_type: int
    sizes: tuple[int | None, ...]

    @property
    def channels(self) -> int | None:
        """How many there are, None where that is open."""
        return self.sizes[1] if len(self.sizes) == 4 else 1


def find_images(model: ModelProto) -> Place:
    """Find the input of a network of images; three axes are taken as N×H×W, whatever they hold.

    Raises:
        ModelError: There are several inputs, or it is not N×C×H×W or N×H×W of floating-point
            numbers.
    """
    inputs = inputs_of(model.graph)
    if len(inputs) != 1:
        raise ModelError(f"the model takes {len(inputs)} inputs; one of images is denoised")
    value = inputs[0]
    name, kind = value.name, value.type.tensor_type
    if kind.elem_type not in ELEMENT_TYPES or kind.elem_type == TensorProto.BFLOAT16:
        known = TensorProto.DataType.Name(kind.elem_type).lower() if kind.elem_type else "no tensor"
        raise ModelError(f"the input {name!r} is {known}; denoising takes float, double or float16")
    sizes = tuple(size.dim_value or None for size in kind.shape.dim)
    if len(sizes) not in (3, 4):
        shape = "×".join(str(size or "?") for size in sizes) or "of no known shape"
        raise ModelError(
            f"the input {name!r} is {shape}; total variation needs images, N×C×H×W or N×H×W"
        )
    place = Place(value=name, element_type=kind.elem_type, sizes=sizes)
    if len(sizes) == 4 and channel_axis(sizes[1:]) == 2:
        raise ModelError(
            f"the input {name!r} has its channels last; denoising takes images as N×C×H×W"
        )
    return place


def put_in_front(
    model: ModelProto,
    place: Place,
    how: TotalVariation,
    units: Units,
    about: Mapping[str, Any],
) -> None:
    """Let everything that reads a network's input read it with less total variation.

    Args:
        model: It is changed: nodes are added.
        place: Its input.
        how: How total variation is minimised.
        units: Of the pixels.
        about: What else the record in the file tells.

    Raises:
        ModelError: A mask shall be fixed, and the images' size is open.
        ValueError: There are neither one nor as many means or stds as channels.
    """
    if place.channels is not None:
        units.check_channels(place.channels)
    written = PREFIX + place.value
    built = _subgraph(place, written, how, units, model_opset(model))
    rename_reads(model.graph.node, place.value, written)
    add_initializers(model, built)
    for index, node in enumerate(built.graph.node):
        model.graph.node.insert(index, node)
    given = next(value for value in model.graph.input if value.name == place.value)
    model.graph.value_info.append(ValueInfoProto(name=written, type=given.type))
    record = {
        "input": place.value,
        "denoised": written,
        "method": "total variation",
        "weight": float(how.weight),
        "steps": int(how.steps),
        "keep": float(how.keep),
        "mask": how.mask,
        "seed": None if how.seed is None else int(how.seed),
        **units.record,
        **about,
    }
    model.metadata_props.add(key=KEY, value=json.dumps(record))


def take_back(model: ModelProto) -> None:
    """Let a network read its input again.

    Raises:
        ModelError: The record is damaged, or what it tells of is gone.
    """
    value, written = recorded(model, KEY, "input", "denoised")
    if not any(written in node.output for node in model.graph.node):
        raise ModelError("the denoising is gone: another tool changed it; take the source")
    remove_built(model, PREFIX, written)
    rename_reads(model.graph.node, written, value)
    remove_where(model.metadata_props, lambda entry: entry.key == KEY)


def _subgraph(
    place: Place, written: str, how: TotalVariation, units: Units, opset: int
) -> ModelProto:
    """Build the nodes from a network's input to what it reads, in operators of its opset.

    They compute in float32, whatever the type of the input.
    """
    build = Builder(PREFIX, opset)
    narrow = place.element_type != TensorProto.FLOAT
    x = gs.Variable(place.value)
    given = build("Cast", x, to=TensorProto.FLOAT) if narrow else x
    normalised = [*units.mean, *units.std] != [0] * len(units.mean) + [1] * len(units.std)
    pixels = given
    if normalised:
        mean, std = (
            build.literal(np.reshape(numbers, (1, -1, *[1] * (len(place.sizes) - 2))))
            for numbers in (units.mean, units.std)
        )
        pixels = build("Add", build("Mul", given, std), mean)
    axes = [1] if len(place.sizes) == 4 else [1, 2]
    images = build.with_list("Unsqueeze", pixels, "axes", axes, since=13)
    if how.keep < 1:
        low, high = units.bounds
        # Pixels not kept begin in the middle, so that none has further to go than to an end.
        way = (high - low) / 2
        kept = _mask(build, place, how, images)
        images = filled_in(build, images, kept, how.weight, how.steps, low + way, way)
    else:
        images = denoised(build, images, how.weight, how.steps)
    # What comes behind is known to be as large as the input: the shapes of a Loop's values are not.
    y = build("Reshape", images, build("Shape", x))
    if normalised:
        y = build("Div", build("Sub", y, mean), std)
    y = build("Cast", y, to=place.element_type) if narrow else y
    y.inputs[0].outputs = [gs.Variable(written)]
    exported: ModelProto = gs.export_onnx(build.graph, do_type_check=False)
    return exported


def _mask(build: Builder, place: Place, how: TotalVariation, images: gs.Variable) -> gs.Variable:
    """Add what says which pixels are kept, as large as the images: 1 or 0."""
    if how.seed is not None:
        zeros = build("Sub", images, images)
        return build("Add", zeros, build.literal(_fixed_mask(place, how)))
    if build.opset < 22:
        drawn = build("RandomUniformLike", images, dtype=TensorProto.FLOAT)
        kept = build("Less", drawn, build.literal(how.keep))
    else:
        # ONNX Runtime 1.31 draws no numbers from there on, but drops some.
        ratio, training = build.literal(1 - how.keep), build.literal(True, np.bool_)
        _, kept = build("Dropout", images, ratio, training, results=2)
    return build("Cast", kept, to=TensorProto.FLOAT)


def _fixed_mask(place: Place, how: TotalVariation) -> NDArray[np.float32]:
    """Draw a mask for images of known size, 1×1×C×H×W.

    Raises:
        ModelError: The size is open.
    """
    sizes = [size for size in place.sizes[1:] if size is not None]
    if len(sizes) < len(place.sizes) - 1:
        shape = "×".join(str(size or "?") for size in place.sizes)
        raise ModelError(
            f"the input {place.value!r} is {shape}; a mask with a seed is for images of one size"
        )
    numbers = np.random.default_rng(how.seed).random((1, 1, place.channels or 1, *sizes[-2:]))
    return (numbers < how.keep).astype(np.float32)
