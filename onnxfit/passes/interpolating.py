"""The features of templates computed, and the head of a network replaced by them."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from numpy.typing import ArrayLike
from onnx import ModelProto

from onnxfit import checks, passes
from onnxfit.compilation.record import refuse_compiled
from onnxfit.data import Bounds, Dataset, as_dataset
from onnxfit.data_sources import times
from onnxfit.element_types import inputs_of
from onnxfit.errors import DataError, ModelError
from onnxfit.files import editable, folder_of
from onnxfit.passes.distances import Neighbourhood
from onnxfit.passes.head import find_head
from onnxfit.passes.interpolation import KEY, Kind, interpolate_head
from onnxfit.passes.templates import features_of
from onnxfit.passes.units import Units
from onnxfit.record import source_of


def interpolate(  # noqa: PLR0913 - the options of the verb
    model: ModelProto | str | Path,
    templates: Dataset | str | Path | tuple[ArrayLike, ArrayLike],
    *,
    kind: Kind = "kernel",
    feature: str | None = None,
    neighbours: int = 15,
    bandwidth_neighbour: int = 8,
    limit: int | None = None,
    bounds: Bounds = (0.0, 1.0),
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    base_dir: str | Path | None = None,
) -> ModelProto:
    """Replace the last dense layer of a classifier by interpolation over labelled samples.

    A sample's probabilities are those of the classes of the templates that its features are near
    to; see :mod:`onnxfit.passes.interpolation`. The layer stays in the file, read by nothing:
    :func:`onnxfit.restore` puts it back. Standard operators alone are added.

    Args:
        model: A model, hardened or not, which stays untouched, or its path. An earlier
            interpolation is replaced.
        templates: Labelled samples of every class: a dataset, what :func:`onnxfit.data.open_data`
            opens, or arrays ``(x, y)``.
        kind: ``kernel``: a mean over the nearest templates of each sample. ``wnll``: the weighted
            nonlocal Laplacian, in which the samples of a batch are neighbours of each other too,
            so that the answer for one depends on which others are with it.
        feature: The value of the main graph that holds the features, N×…; by default what the last
            dense layer multiplies by its weights.
        neighbours: How many templates count for a sample.
        bandwidth_neighbour: Which of them is one bandwidth away, counted from 1.
        limit: Take no more templates, where ``templates`` is no dataset.
        bounds: Smallest and largest value of a template, where ``templates`` is no dataset.
        mean: Subtracted from templates before the model, one or for each channel.
        std: Divides after that.
        base_dir: Folder of the external data of a model that is no path.

    Returns:
        The model, which gives log-probabilities, or probabilities where its source did.

    Raises:
        DataError: The templates are not for the model: fewer than ``neighbours``, or none of a
            class.
        ModelError: The model cannot be read or run, has several inputs or outputs, no dense head,
            or names that begin with ``onnxfit.interpolation/`` or ``onnxfit.head/``.
        ValueError: A setting is out of its range.
    """
    checks.one_of("kind", kind, get_args(Kind))
    units = Units(bounds=bounds, mean=mean, std=std)
    hood = Neighbourhood(neighbours=neighbours, bandwidth_neighbour=bandwidth_neighbour)
    edited, digest = editable(model, base_dir)
    refuse_compiled(edited)
    source = source_of(edited) or digest
    passes.make_room(edited, KEY)
    data = _opened(templates, limit, bounds, _shape_of(edited))
    head = find_head(edited, feature)
    found = features_of(edited, head, data, base_dir=folder_of(model, base_dir), units=units)
    about = {
        "source_sha256": source,
        "templates_sha256": data.sha256,
        **units.record,
        "bounds": list(data.bounds),
    }
    interpolate_head(edited, head, found, kind, hood, about)
    return edited


def _shape_of(model: ModelProto) -> list[int]:
    """Return the sizes of the model's input, 0 for those that are open.

    Raises:
        ModelError: There are several inputs, of which templates would have to hold all.
    """
    inputs = inputs_of(model.graph)
    if len(inputs) != 1:
        raise ModelError(f"the model takes {len(inputs)} inputs; templates are for one")
    return [dimension.dim_value for dimension in inputs[0].type.tensor_type.shape.dim]


def _opened(
    templates: Dataset | str | Path | tuple[ArrayLike, ArrayLike],
    limit: int | None,
    bounds: Bounds,
    shape: Sequence[int],
) -> Dataset:
    """Open templates in the form that an input of some shape takes them.

    Raises:
        DataError: They are not what they should be.
    """
    channels = shape[1] if len(shape) == 4 and shape[1] in (1, 3) else None
    data = as_dataset(templates, limit=limit, bounds=bounds, channels=channels)
    sizes = zip(data.shape, shape[1:], strict=False)
    if len(data.shape) != len(shape) - 1 or any(have != want and want for have, want in sizes):
        wanted = "×".join(str(size or "?") for size in shape[1:])
        raise DataError(
            f"the model takes samples of shape {wanted}; the templates are {times(data.shape)}"
        )
    return data
