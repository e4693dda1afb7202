"""Exact rewrites of a hardened model that save work: the same numbers from fewer passes.

===========  ===================================================  ===============
name         what                                                 file
===========  ===================================================  ===============
``twice``    a JumpReLU behind another, or behind a Relu, goes    ``twice.py``
``add``      Add → JumpReLU becomes the one node AddJumpReLU      ``add.py``
``maxpool``  JumpReLU → MaxPool becomes MaxPool → JumpReLU        ``max_pool.py``
``concat``   JumpReLUs of one jump → Concat: one JumpReLU behind  ``concat.py``
===========  ===================================================  ===============

What is rewritten is recorded in the model, so that :func:`unrewritten` gives exactly the model
before: ONNX Runtime alone reads what rewrites make, everything else in onnxfit what was before.
"""

from collections.abc import Callable, Collection

from onnx import ModelProto

from onnxfit.compilation.record import refuse_compiled
from onnxfit.op import DOMAIN, OP_TYPE, add_function
from onnxfit.rewrites import add, concat, max_pool, twice
from onnxfit.rewrites.record import KEY, is_rewritten, names_of, undo, write_record
from onnxfit.rewrites.region import Region, regions

__all__ = ["ALL", "EVERYWHERE", "KEY", "apply", "names_of", "take_back", "unrewritten"]

# In the order in which they are tried on a node.
_RULES: dict[str, Callable[[Region, int], bool]] = {
    "twice": twice.merge,
    "add": add.fuse,
    "maxpool": max_pool.pull,
    "concat": concat.pull,
}
ALL = tuple(_RULES)
# ONNX Runtime's CPU provider adds inside a convolution where it can, which is faster than ``add``:
# that is for CUDA, and for compiled models, in which such additions are gone.
EVERYWHERE = tuple(name for name in ALL if name != "add")


def apply(
    model: ModelProto, names: Collection[str] = ALL, *, record: bool = True
) -> dict[str, int]:
    """Rewrite a hardened model, in all graphs and functions; earlier rewrites are taken back first.

    The model computes the same bits, but for NaN where a JumpReLU goes behind a MaxPool or a Relu
    goes. Sites in the standard lowering stay.

    Args:
        model: A model whose JumpReLUs are nodes; it is changed. Its external data is not read.
        names: The rewrites to apply, of :data:`ALL`.
        record: Note in the model how to take them back.

    Returns:
        How often each was applied.

    Raises:
        ValueError: There is no rewrite of a name.
        ModelError: What was rewritten before cannot be taken back.
    """
    if unknown := [name for name in names if name not in _RULES]:
        raise ValueError(f"the rewrites are {', '.join(ALL)}, got {unknown[0]!r}")
    take_back(model)
    counts = {name: 0 for name in ALL if name in names}
    found = list(regions(model))
    for region in found:
        _rewrite(region, counts)
    changed = [region for region in found if region.before]
    for region in changed:
        region.commit()
    body = next((f for f in model.functions if (f.domain, f.name) == (DOMAIN, OP_TYPE)), None)
    if counts.get("add") and body is not None:
        model.functions.append(add_function(body))
    if changed and record:
        write_record(model, counts, changed)
    return counts


def take_back(model: ModelProto) -> bool:
    """Undo :func:`apply`, and tell whether there was anything to undo.

    Args:
        model: Any model; it is changed.

    Raises:
        ModelError: Another tool changed the nodes, or the record of them; or the model is a
            compiled one, which nothing but ONNX Runtime reads.
    """
    refuse_compiled(model)
    rewritten = is_rewritten(model)
    if rewritten:
        undo(model)
    return rewritten


def unrewritten(model: ModelProto) -> ModelProto:
    """Return a model as it was before :func:`apply`: a copy, or itself where it was not rewritten.

    Raises:
        ModelError: As :func:`take_back`.
    """
    refuse_compiled(model)
    if not is_rewritten(model):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    undo(copy)
    return copy


def _rewrite(region: Region, counts: dict[str, int]) -> None:
    """Walk the nodes of a scope once; each JumpReLU that moves is met again where it goes to."""
    for slot in range(len(region.slots)):
        for name in counts:
            if region.slots[slot] is not None and _RULES[name](region, slot):
                counts[name] += 1
