"""Give the tensors and modules that the steps read their place in the twin."""

import torch

from onnxfit.twin.program import Block, leaves, reads
from onnxfit.twin.values import Constant, Part, Weight

# Where the twin keeps what has no name in the file.
CONSTANTS = "constants"
PARTS = "parts"
# What the twin gets when all its tensors have their places.
LATER = ("weight_names", "_fixed_batch", "_program")


class Tensors(torch.nn.Module):
    """A group of tensors whose names begin alike: ``conv1`` of ``conv1.weight``."""


def attach(twin: torch.nn.Module, block: Block) -> dict[int, str]:
    """Make parameters, buffers and submodules of all that a block's steps read.

    Returns:
        The attribute path in the twin of each weight, constant tensor and module, by ``id``.
    """
    found = {id(v): v for step in block.steps for v in reads(step)}
    found.update((id(v), v) for v in leaves(block.outputs))
    twin.add_module(CONSTANTS, torch.nn.Module())
    twin.add_module(PARTS, torch.nn.Module())
    paths: dict[int, str] = {}
    for value in found.values():
        if isinstance(value, Weight):
            paths[id(value)] = put(twin, value.name, torch.nn.Parameter(value.tensor))
    for value in found.values():
        if isinstance(value, Constant) and isinstance(value.value, torch.Tensor):
            paths[id(value)] = _constant(twin, value, paths)
    _parts(twin, [value for value in found.values() if isinstance(value, Part)], paths)
    return paths


def put(twin: torch.nn.Module, name: str, tensor: torch.Tensor) -> str:
    """Give a tensor of the file its place: its name, with ``_`` added where that is taken."""
    *groups, last = (part or "_" for part in name.split("."))
    owner, path = twin, []
    for name_part in groups:
        group = name_part
        while _is_taken(owner, group) and not isinstance(getattr(owner, group, None), Tensors):
            group += "_"
        if not hasattr(owner, group):
            owner.add_module(group, Tensors())
        owner = getattr(owner, group)
        path.append(group)
    while _is_taken(owner, last):
        last += "_"
    if isinstance(tensor, torch.nn.Parameter):
        owner.register_parameter(last, tensor)
    else:
        owner.register_buffer(last, tensor)
    return ".".join([*path, last])


def _is_taken(owner: torch.nn.Module, name: str) -> bool:
    """Tell whether a name means something else; a property may not work yet, and yet be there."""
    if not isinstance(owner, Tensors) and name in LATER:
        return True
    return hasattr(type(owner), name) or hasattr(owner, name)


def _constant(twin: torch.nn.Module, value: Constant, paths: dict[int, str]) -> str:
    if value.weight is not None:
        # A weight that other steps train is not kept twice.
        return paths.get(id(value.weight)) or put(twin, value.weight.name, value.value)
    group = getattr(twin, CONSTANTS)
    name = f"c{len(list(group.buffers(recurse=False)))}"
    group.register_buffer(name, value.value, persistent=False)
    return f"{CONSTANTS}.{name}"


def _parts(twin: torch.nn.Module, parts: list[Part], paths: dict[int, str]) -> None:
    names: dict[int, str] = {}
    for part in parts:
        key = id(part.module)
        if key not in names:
            names[key] = f"{type(part.module).__name__.lower()}{len(names)}"
            getattr(twin, PARTS).add_module(names[key], part.module)
        paths[id(part)] = f"{PARTS}.{names[key]}"
