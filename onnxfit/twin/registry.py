"""Which converter turns an operator into PyTorch: keyed by domain, operator and version."""

import importlib
import pkgutil
from bisect import bisect_right
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from onnxfit.twin.node import Node, Outputs

    Converter = Callable[[Node], Outputs]

# The newest version of each operator set whose operators were compared with the specification.
# An operator that changed after it is refused: it may mean something else.
NEWEST = {"": 28, "ai.onnx.ml": 5, "ai.onnx.preview": 1}
# The oldest version of ONNX's own set that converters were written for.
OLDEST = 7
# What ONNX Runtime adds to ONNX's own domain: its optimiser writes them, or old files hold them.
ADDED = (
    "Affine",
    "Crop",
    "ImageScaler",
    "LayerNormalization",
    "ParametricSoftplus",
    "ScaledTanh",
    "SimplifiedLayerNormalization",
)

_converters: dict[tuple[str, str], list[tuple[int, "Converter"]]] = {}
_on_host: dict[str, tuple["Converter", int]] = {}


def converter(
    *op_types: str, since: int = 1, domain: str = ""
) -> Callable[["Converter"], "Converter"]:
    """Make a function the converter of operators, from a version of their domain on.

    It serves until the version at which another converter of the operator takes over.
    """

    def register(function: "Converter") -> "Converter":
        for op_type in op_types:
            entries = _converters.setdefault((domain, op_type), [])
            if any(version == since for version, _ in entries):
                raise ValueError(f"{op_type} of version {since} has two converters")
            entries.append((since, function))
            entries.sort(key=lambda entry: entry[0])
        return function

    return register


def host_converter(*op_types: str, rank: int = 1) -> Callable[["Converter"], "Converter"]:
    """Make a function the converter of operators whose inputs are known without any tensor.

    It computes with Python integers and tuples of them, as in ``Shape → Gather → Concat``, and
    returns ``NotImplemented`` for what needs tensors after all. It gets inputs of at most a rank:
    0 for a number, 1 for a row, 2 for a row of rows.
    """

    def register(function: "Converter") -> "Converter":
        _on_host.update(dict.fromkeys(op_types, (function, rank)))
        return function

    return register


def find(domain: str, op_type: str, opset: int) -> "Converter | None":
    """Return the converter of an operator as it is in a version of its domain, or None."""
    _load()
    entries = _converters.get((domain, op_type), [])
    position = bisect_right([version for version, _ in entries], opset)
    known = is_known(domain, op_type, opset) or domain not in NEWEST
    known |= op_type in ADDED and not since_version(domain, op_type, opset)
    if not position or not known:
        return None
    return entries[position - 1][1]


def find_on_host(domain: str, op_type: str, rank: int) -> "Converter | None":
    """Return the converter of an operator on integers that are known without any tensor."""
    function, highest = _on_host.get(op_type, (None, 0))
    return function if domain == "" and rank <= highest else None


def is_known(domain: str, op_type: str, opset: int) -> bool:
    """Tell whether an operator is specified, in a version that converters were compared with.

    Of what is older than the oldest opset, that is what was the same then.
    """
    since = since_version(domain, op_type, opset)
    newest = NEWEST.get(domain, 0)
    if domain == "" and opset < OLDEST:
        return 0 < since == since_version(domain, op_type, OLDEST)
    return 0 < since <= newest


@cache
def since_version(domain: str, op_type: str, opset: int) -> int:
    """Return the version in which an operator got the meaning it has in an opset, else 0."""
    try:
        return int(onnx.defs.get_schema(op_type, opset, domain).since_version)
    except onnx.defs.SchemaError:
        return 0


def supported() -> list[tuple[str, str, int]]:
    """List domain, name and first version of every converter."""
    _load()
    return sorted((*key, version) for key, found in _converters.items() for version, _ in found)


@cache
def _load() -> None:
    """Import every operator family, each of which registers its converters."""
    from onnxfit.twin import ops

    for module in pkgutil.iter_modules(ops.__path__, f"{ops.__name__}."):
        importlib.import_module(module.name)
