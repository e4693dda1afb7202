"""Compile a hardened model ahead of time: ONNX Runtime's own layout, with the jumps in it.

ONNX Runtime fuses a Relu into the convolution before it and keeps a blocked layout between such
operators; one that it does not know makes it do neither. So the network is optimised with its Relus
in place, and hardened afterwards: a JumpReLU acts on each element alone, in any layout.
"""

import contextlib
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, inliner

from onnxfit import lowering, passes
from onnxfit.compilation.blocked import can_be_blocked, write_blocked
from onnxfit.compilation.machine import this_machine
from onnxfit.compilation.matching import Names
from onnxfit.compilation.optimising import optimise
from onnxfit.compilation.record import record
from onnxfit.edits import Edits, remove_where, rename_values
from onnxfit.element_types import every_graph
from onnxfit.errors import ModelError
from onnxfit.external_data import external_files, place_weights
from onnxfit.files import folder_of
from onnxfit.hardening import harden, own
from onnxfit.native_library import library_path
from onnxfit.op import Jumps, is_our_function
from onnxfit.planning import Plan, sites_of
from onnxfit.record import RESTORE_DAMAGED, drop_record, is_hardened, record_of, undo_record
from onnxfit.rewrites import ALL, apply
from onnxfit.sites import Found, is_blocked, scan

Given = float | Jumps


def compile(  # noqa: A001 - the name of the verb
    model: ModelProto | str | Path,
    *,
    base_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    weights: str = "weights.data",
    rewrites: Collection[str] = ALL,
) -> ModelProto:
    """Return a hardened model as ONNX Runtime runs it fastest on the CPU of this machine.

    :func:`onnxfit.session` runs it, and refuses it where CPU or ONNX Runtime are others.

    Args:
        model: A hardened model, which stays untouched, or the path of one.
        base_dir: Folder of its external data, where it is no path.
        data_dir: The folder where the weights of a model beyond 1 GiB are written: the compiled
            model's external data.
        weights: The name of their file there; one of other content is never overwritten.
        rewrites: The exact rewrites to apply to the result, of :data:`onnxfit.rewrites.ALL`.

    Raises:
        ModelError: The model cannot be read, is not hardened or compiled already, ONNX Runtime
            refuses it, or its weights need a ``data_dir``, or another file lies there.
        NativeLibraryError: There is no custom-op library, or it does not load.
        ValueError: There is no rewrite of a name.
    """
    library_path()
    hard, digest = own(model)
    passes.refuse(hard, "it cannot be compiled; take the hardened model without it")
    folder = folder_of(model, base_dir)
    if not is_hardened(hard, list(scan(hard))):
        raise ModelError("the model is not hardened, so there is nothing that compiling would save")
    source = _inlined(hard)
    sources = [] if folder is None else external_files(hard, folder)
    target = None if data_dir is None else Path(data_dir) / weights
    with _written_to(target, sources) as place:
        compiled, found = _optimised(source, folder, place, source is not hard)
        _harden(compiled, found)
        # The sites have the names that they have in the hardened file.
        drop_record(compiled)
        compiled.metadata_props.extend(record_of(hard))
        made = {"hardened_sha256": digest, "machine": this_machine()}
        record(compiled, made | {"rewrites": apply(compiled, rewrites, record=False)})
    return compiled


@contextlib.contextmanager
def _written_to(target: Path | None, sources: list[Path]) -> Iterator[Path | None]:
    """Give a file for the weights that moves to its place at the end.

    Args:
        target: Its place; None where there is none.
        sources: The files in which the model has its weights.

    Raises:
        ModelError: Another file lies there, or the folder takes none.
    """
    if target is None:
        yield None
        return
    try:
        folder = tempfile.TemporaryDirectory(dir=target.parent, prefix=".onnxfit-")
    except OSError as error:
        raise ModelError(f"{target.parent} takes no temporary file: {error.strerror}") from error
    with folder as name:
        made = Path(name) / target.name
        yield made
        if made.exists():
            place_weights(made, target, sources)


def _inlined(model: ModelProto) -> ModelProto:
    """Return a model without functions but our own, which ONNX Runtime would inline itself."""
    others = [(f.domain, f.name) for f in model.functions if not is_our_function(f)]
    if not others:
        return model
    inlined: ModelProto = inliner.inline_selected_functions(model, others, exclude=False)
    return inlined


def _optimised(
    hard: ModelProto, folder: Path | None, weights: Path | None, inlined: bool
) -> tuple[ModelProto, list[tuple[Found, Given]]]:
    """Optimise a hardened model without its jumps.

    An activation that is not found again afterwards, as it was folded into a constant or into its
    like, stays a JumpReLU from the beginning: ONNX Runtime leaves those alone.

    Returns:
        The optimised model, and its activations that are to be hardened, with their jumps.
    """
    # Of the model with its own activations, whose chains are those that ONNX Runtime will see.
    names = Names(_without_jumps(hard, None, inlined)[0])
    # An activation without a jump may be merged with one that gets it.
    merge = all(found.hardened is not None for found in sites_of(list(scan(hard))))
    kept: set[str] = set()
    while True:
        plain, jumps = _without_jumps(hard, names.unique - kept, inlined)
        optimised = optimise(plain, folder, weights, merge=merge)
        found = names.sites_of(sites_of(list(scan(optimised))), jumps)
        fits = {value for value, site in found.items() if _fits(value, site, jumps[value])}
        if not (lost := jumps.keys() - fits):
            return optimised, [(found[value], jump) for value, jump in jumps.items()]
        kept |= lost


def _fits(value: str, found: Found, jump: Given) -> bool:
    """Tell whether jumps by element still lie along an activation as they did before."""
    if isinstance(jump, float) or found.place.node.output[0] == value:
        return True
    return is_blocked(found) and can_be_blocked(jump)


def _without_jumps(
    hard: ModelProto, values: set[str] | None, inlined: bool
) -> tuple[ModelProto, dict[str, Given]]:
    """Take the jumps out of a hardened model.

    Args:
        hard: The model.
        values: What the JumpReLUs write that are meant; None: all.
        inlined: Functions were inlined in it.

    Returns:
        A copy with ordinary activations in the place of the JumpReLUs that write some values, and
        the jump of each by the value.
    """
    plain = ModelProto()
    plain.CopyFrom(hard)
    undo = undo_record(hard).get("sites", {})
    edits, jumps = Edits(), {}
    shown = {value.name for value in plain.graph.output}
    for found in sites_of(list(scan(plain))):
        hardened = found.hardened
        if hardened is None or _stays(found, hardened, shown, inlined):
            continue
        if values is not None and hardened.value not in values:
            continue
        jump: Any = hardened.jump
        if not isinstance(jump, float) and jump.size == 1:
            # One number, whatever its axes, is no jump by channel.
            jump = float(jump.item())
        jumps[hardened.value] = jump
        try:
            lowering.undo(edits, found.place.scope, hardened, undo.get(found.site.name, {}))
        except (AttributeError, TypeError, ValueError, DecodeError) as error:
            raise ModelError(RESTORE_DAMAGED) from error
    edits.apply()
    _rename(plain)
    return plain, jumps


def _stays(found: Found, hardened: lowering.Hardened, shown: set[str], inlined: bool) -> bool:
    """Tell whether a JumpReLU cannot become an ordinary activation.

    Args:
        found: Its site.
        hardened: The JumpReLU.
        shown: The outputs of the model.
        inlined: Functions were inlined in the model.
    """
    if found.place.scope.function is not None or isinstance(hardened.jump, str | None):
        return True
    # The inliner's new names part the nodes of a site; no kernel of a Relu takes bfloat16.
    if inlined and hardened.lowering == "standard":
        return True
    if found.place.element_type == TensorProto.BFLOAT16:
        return True
    # An ordinary activation has no values inside.
    values = {hardened.x, *(value for node in hardened.nodes for value in node.output)}
    return any(value.startswith(lowering.SITE_PREFIX) for value in values & shown)


def _rename(model: ModelProto) -> None:
    """Give the values of JumpReLUs that stay other names: the model is to be hardened again.

    Those of the model's own inputs and outputs keep theirs.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    kept = {value.name for value in model.graph.input} - constants
    kept |= {value.name for value in model.graph.output}

    def renamed(value: str) -> str:
        ours = value.startswith(lowering.RESERVED) and value not in kept
        return f"kept.{value}" if ours else value

    for graph in every_graph(model):
        rename_values(graph, renamed)


def _harden(compiled: ModelProto, chosen: list[tuple[Found, Given]]) -> None:
    """Put the jumps into an optimised model."""
    # That of JumpReLUs which stayed.
    remove_where(compiled.functions, is_our_function)
    blocked = {
        found.site.name: jump
        for found, jump in chosen
        if not isinstance(jump, float) and is_blocked(found)
    }
    plan: Plan = {f.site.name: 0.0 if f.site.name in blocked else jump for f, jump in chosen}
    harden(compiled, [found for found, _ in chosen], plan, "function", "")
    write_blocked(compiled, blocked)
