"""What a model holds: its sites, what stays and why, and what is recorded of its making."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxfit.compilation.record import is_compiled, recorded
from onnxfit.files import read_with_digest
from onnxfit.record import provenance
from onnxfit.rewrites import unrewritten
from onnxfit.sites import Found, Site, Unreplaced, scan


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The answer of :func:`inspect`.

    Attributes:
        sha256: Of the file, or of the serialised model where no file was given.
        ir_version: Version of the file format.
        opset_imports: Domain → version, the default domain spelled ``ai.onnx``.
        sites: The activations that can become, or are, a JumpReLU.
        unreplaced: The activations that stay, with the reason.
        jumps: Site → jump, for the hardened sites.
        provenance: What onnxfit recorded when it hardened the model; empty otherwise.
    """

    sha256: str
    ir_version: int
    opset_imports: dict[str, int]
    sites: tuple[Site, ...]
    unreplaced: tuple[Unreplaced, ...]
    jumps: dict[str, float | tuple[float, ...]]
    provenance: dict[str, Any]


def inspect(model: ModelProto | str | Path, base_dir: str | Path | None = None) -> Inspection:
    """Look into a model without changing it or reading a weight.

    Args:
        model: A model or the path of one.
        base_dir: Folder of the external data; not needed here.

    Raises:
        ModelError: The file is no ONNX model, or of an opset that is not supported.
    """
    del base_dir
    model, digest = read_with_digest(model)
    # A compiled file shows what ONNX Runtime made of the sites, under its names for them.
    found = list(scan(model if is_compiled(model) else unrewritten(model)))
    sites = tuple(item.site for item in found if isinstance(item, Found))
    # The jumps are read off the nodes, and what restoring needs is of no use to readers.
    record = {k: v for k, v in provenance(model).items() if k not in ("jumps", "restore")}
    if is_compiled(model):
        record["compiled"] = recorded(model)
    if "rewrites" in record:
        record["rewrites"] = record["rewrites"]["applied"]
    return Inspection(
        sha256=digest,
        ir_version=model.ir_version,
        opset_imports={i.domain or "ai.onnx": i.version for i in model.opset_import},
        sites=sites,
        unreplaced=tuple(item for item in found if isinstance(item, Unreplaced)),
        jumps={site.name: site.jump for site in sites if site.jump is not None},
        provenance=record,
    )
