"""A hardened model whose jumps are inputs of its graph, so that one session serves any of them."""

from collections.abc import Mapping
from pathlib import Path

from onnx import ModelProto, TensorProto, helper

from onnxfit.errors import ModelError
from onnxfit.hardening import check_names, harden, own, take_back
from onnxfit.lowering import INPUT_PREFIX
from onnxfit.planning import check_known, names_of, sites_of
from onnxfit.record import is_hardened, provenance
from onnxfit.sites import check_layout, scan


def with_run_time_jumps(
    model: ModelProto | str | Path,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    base_dir: str | Path | None = None,
) -> tuple[ModelProto, dict[str, str]]:
    """Harden a model at every site, with the jumps as inputs of the graph.

    The inputs stand behind the model's own and are of the type of the activation (float where
    that is not known). What is fed is not checked: it should be finite and at least 0, rounded as
    :func:`onnxfit.retrofit` does. The model runs with and without the custom-op library.

    Args:
        model: A model, which stays untouched, or the path of one. Where it is hardened already,
            its own jumps are dropped.
        shapes: The shape of a site's jumps by its name, such as ``(C, 1, 1)``; by default ``()``,
            one number.
        base_dir: Folder of the external data, which is then checked to be there.

    Returns:
        The model, and the name of the input by the name of the site.

    Raises:
        ModelError: The model cannot be read or has nothing to harden; a site is in a function,
            whose body sees no input of the graph; there is no site of a name in ``shapes``, or it
            cannot have jumps of that shape.
    """
    hard, digest = own(model, base_dir)
    found = list(scan(hard))
    if is_hardened(hard, found):
        digest = provenance(hard).get("source_sha256", digest)
        take_back(hard, found)
        found = list(scan(hard))
    sites, shapes = sites_of(found), shapes or {}
    names = names_of(sites)
    check_known(shapes, names)
    check_layout(site for site in sites if shapes.get(site.site.name))
    if inside := [site.site.name for site in sites if site.place.scope.function is not None]:
        raise ModelError(
            f"{inside[0]!r} is inside a function, whose body sees no input of the graph: its jump "
            "cannot be one"
        )
    if not sites:
        raise ModelError("the model has no activation to harden")
    inputs = {name: f"{INPUT_PREFIX}{name}" for name in names}
    check_names(hard, sites)
    harden(hard, sites, inputs, "function", digest)
    for site in sites:
        name = site.site.name
        element_type = site.place.element_type or TensorProto.FLOAT
        shape = shapes.get(name, ())
        hard.graph.input.append(helper.make_tensor_value_info(inputs[name], element_type, shape))
    return hard, inputs
