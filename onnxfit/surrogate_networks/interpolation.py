"""Surrogates of a model that interpolates over templates.

Interpolation over the k nearest has no gradient where all k are of one class. Its own head, which
is still in the file, and a kernel over all templates have one everywhere.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from onnx import ModelProto

from onnxfit.errors import ModelError
from onnxfit.passes.interpolation import KEY, PREFIX, take_back
from onnxfit.record import provenance
from onnxfit.surrogate_networks.building import Build
from onnxfit.surrogate_networks.cutting import up_to
from onnxfit.surrogate_networks.template_kernel import TemplateKernel
from onnxfit.twin.tensors import to_tensor

OWN_HEAD = "own head"
# How wide the kernel is, as multiples of what is usual between templates.
WIDTHS = (1, 4, 16)


def with_own_head(model: ModelProto) -> ModelProto:
    """Return a model as it was before the interpolation.

    Raises:
        ModelError: The head is gone.
    """
    plain = ModelProto()
    plain.CopyFrom(model)
    take_back(plain)
    return plain


def kernels(
    model: ModelProto, folder: Path | None, build: Build
) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield the kernels of all widths by name; args are those of :func:`surrogate_networks`.

    Raises:
        ModelError: The templates are gone.
    """
    held = {tensor.name.removeprefix(PREFIX): tensor for tensor in model.graph.initializer}
    try:
        templates, classes, middle = (
            to_tensor(held[name], folder) for name in ("templates", "classes", "middle")
        )
    except KeyError as error:
        raise ModelError(
            f"the templates that {KEY} tells of are gone: another tool changed the file"
        ) from error
    part = up_to(model, provenance(model)["interpolation"]["feature"])
    features = build(part, before_probabilities=False)
    labels = classes.argmax(1)
    for width in WIDTHS:
        kernel = TemplateKernel(features, templates, labels, width, middle)
        yield f"template kernel {width}", kernel
