"""Harden a model and take it back: the edit of the ``ModelProto`` and its record."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, MutableSequence
from pathlib import Path
from typing import Any, Literal, get_args

from google.protobuf.message import DecodeError
from onnx import FunctionProto, ModelProto, TensorProto

from onnxfit import __version__
from onnxfit import lowering as nodes
from onnxfit.edits import Edits
from onnxfit.element_types import every_graph, function_scope
from onnxfit.errors import ModelError
from onnxfit.external_data import check_external_data
from onnxfit.files import folder_of, read_with_digest
from onnxfit.graph import model_opset
from onnxfit.op import (
    DOMAIN,
    FUNCTION_IR_VERSION,
    OP_TYPE,
    VERSION,
    carries_attribute,
    check_jump,
    function,
    is_our_function,
    round_jump,
    serves,
    shortest,
)
from onnxfit.sites import Found, Unreplaced, scan

Lowering = Literal["function", "custom", "standard"]

_METADATA_PREFIX = f"{DOMAIN}."
_METADATA_KEYS = ("version", "source_sha256", "lowering", "jumps", "restore")


def retrofit(
    model: ModelProto | str | Path,
    jump: float | None = None,
    *,
    jumps: Mapping[str, float] | None = None,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    lowering: Lowering = "function",
    base_dir: str | Path | None = None,
) -> ModelProto:
    """Replace activations by JumpReLU and return a new model.

    Args:
        model: A model, which stays untouched, or the path of one. Where it is hardened already,
            the jumps given here take the place of its own and the others stay.
        jump: Jump size κ of every site, in units of its pre-activation (Erichson et al. 2019).
        jumps: Jump sizes by site name; they go before ``jump``. With ``jumps`` alone, the other
            sites stay as they are.
        include: Regular expressions; only sites whose name holds a match of one are hardened.
        exclude: Regular expressions; sites whose name holds a match of one are not.
        lowering: ``function``: JumpReLU nodes and a function of the same name, which runs with
            and without the custom-op library. ``custom``: the nodes alone, which need the
            library; with sites inside functions it is ``function``. ``standard``: operators of
            the default domain alone.
        base_dir: Folder of the external data, which is then checked to be there.

    Raises:
        ModelError: The model cannot be read, has no such site or nothing to harden.
        TypeError, ValueError: A jump is not a finite number of at least 0, no jump is given, a
            pattern matches nothing or is no regular expression.
    """
    if jump is None and jumps is None:
        raise TypeError("give a jump for every site, or jumps by site name")
    if lowering not in get_args(Lowering):
        raise ValueError(f"lowering is one of {', '.join(get_args(Lowering))}, got {lowering!r}")
    hard, digest = _own(model)
    if (folder := folder_of(model, base_dir)) is not None:
        check_external_data(hard, folder)
    found = list(scan(hard))
    earlier: dict[str, float | tuple[float, ...]] = {}
    if _is_hardened(hard, found):
        earlier = {f.site.name: f.site.jump for f in _sites(found) if f.site.jump is not None}
        digest = provenance(hard).get("source_sha256", digest)
        _restore(hard, found)
        found = list(scan(hard))
    sites = _sites(found)
    plan = _plan(sites, jump, jumps or {}, _patterns(include), _patterns(exclude))
    kinds = {site.site.name: site.place.element_type for site in sites}
    for name, kept in earlier.items():
        if name not in plan:
            if isinstance(kept, tuple):
                what = "a jump per element" if kept else "a jump that is computed at run time"
                raise ModelError(f"{name!r} has {what}, which cannot be kept; set it")
            if name not in kinds:
                raise ModelError(f"{name!r} cannot be hardened again: it is no site any more")
            plan[name] = round_jump(kept, kinds[name])
    if not plan:
        raise ModelError(_nothing(found))
    _harden(hard, [site for site in sites if site.site.name in plan], plan, lowering, digest)
    return hard


def restore(model: ModelProto | str | Path, base_dir: str | Path | None = None) -> ModelProto:
    """Return the model that was hardened, equal to what it was before.

    Args:
        model: A hardened model, which stays untouched, or the path of one.
        base_dir: Folder of the external data, which is then checked to be there.

    Raises:
        ModelError: The model cannot be read or holds no JumpReLU.
    """
    plain, _ = _own(model)
    if (folder := folder_of(model, base_dir)) is not None:
        check_external_data(plain, folder)
    found = list(scan(plain))
    if not _is_hardened(plain, found):
        raise ModelError("the model is not hardened: it has no JumpReLU")
    _restore(plain, found)
    return plain


def provenance(model: ModelProto) -> dict[str, Any]:
    """Return what a hardened file tells of its making, ``onnxfit.`` cut from the keys."""
    record: dict[str, Any] = {}
    for entry in model.metadata_props:
        if _is_ours(entry.key):
            key = entry.key.removeprefix(_METADATA_PREFIX)
            try:
                structured = entry.value.startswith(("{", "["))
                record[key] = json.loads(entry.value) if structured else entry.value
            except (ValueError, RecursionError) as error:
                raise ModelError(f"the metadata entry {entry.key} is damaged: {error}") from None
    return record


def _is_ours(key: str) -> bool:
    return key.startswith(_METADATA_PREFIX) and key[len(_METADATA_PREFIX) :] in _METADATA_KEYS


def _own(model: ModelProto | str | Path) -> tuple[ModelProto, str]:
    """Return a model that may be edited, and the SHA-256 of its file or serialisation."""
    proto, digest = read_with_digest(model)
    if proto is not model:
        return proto, digest
    copy = ModelProto()
    copy.CopyFrom(proto)
    return copy, digest


def _sites(found: list[Found | Unreplaced]) -> list[Found]:
    return [item for item in found if isinstance(item, Found)]


def _is_hardened(model: ModelProto, found: list[Found | Unreplaced]) -> bool:
    """Tell whether the model holds a JumpReLU.

    Raises:
        ModelError: It should hold more, by its record.
    """
    hardened = sum(site.hardened is not None for site in _sites(found))
    recorded = provenance(model).get("jumps", {})
    if isinstance(recorded, dict) and hardened < len(recorded):
        raise ModelError(
            f"{len(recorded)} activations of the model were hardened and {hardened} are left: "
            "another tool wrote its JumpReLUs out as other operators; take the source, or the "
            "hardened file before that"
        )
    return hardened > 0


def _patterns(given: str | Iterable[str]) -> list[re.Pattern[str]]:
    patterns = []
    for pattern in [given] if isinstance(given, str) else given:
        try:
            patterns.append(re.compile(pattern))
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return patterns


def _plan(
    sites: list[Found],
    jump: float | None,
    jumps: Mapping[str, float],
    include: list[re.Pattern[str]],
    exclude: list[re.Pattern[str]],
) -> dict[str, float]:
    """Decide which site gets which jump, every argument checked."""
    names = [found.site.name for found in sites]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ModelError(f"two activations are named {twice[0]!r}; rename a value")
    for pattern in [*include, *exclude]:
        if names and not any(pattern.search(name) for name in names):
            raise ValueError(f"no site matches {pattern.pattern!r}; {_the_model_has(names)}")
    for name in jumps:
        if name not in names:
            raise ModelError(f"no activation writes {name!r}; {_the_model_has(names)}")
    plan = {}
    for found in sites:
        name = found.site.name
        chosen = not include or any(pattern.search(name) for pattern in include)
        if not chosen or any(pattern.search(name) for pattern in exclude):
            if name in jumps:
                raise ValueError(f"a jump is given for {name!r}, which is left out")
            continue
        size = jumps.get(name, jump)
        if size is not None:
            plan[name] = round_jump(check_jump(size), found.place.element_type)
    return plan


def _the_model_has(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:10])
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"the model has {shown}{more}" if names else "the model has none"


def _nothing(found: list[Found | Unreplaced]) -> str:
    """Say why there is nothing to harden."""
    if _sites(found):
        return "no activation is left to harden after include, exclude and jumps"
    message = "the model has no Relu and no Clip with the lower bound 0"
    reasons = Counter((item.op_type, item.reason) for item in found if not isinstance(item, Found))
    stay = "; ".join(f"{n} {op_type} ({reason})" for (op_type, reason), n in reasons.items())
    return f"{message}. What stays: {stay}" if stay else message


def _harden(
    model: ModelProto,
    sites: list[Found],
    plan: Mapping[str, float],
    lowering: Lowering,
    digest: str,
) -> None:
    """Edit the model: the sites, the function, the imports, the record."""
    opset = model_opset(model)
    _check_names(model, sites)
    if lowering == "custom" and any(found.place.scope.function for found in sites):
        # Inside a function ONNX Runtime infers no type through an operator without a body.
        lowering = "function"
    types = Counter(found.place.element_type for found in sites if found.place.element_type)
    main_type = types.most_common(1)[0][0] if types else TensorProto.FLOAT
    attribute = lowering == "custom" or carries_attribute(opset)
    edits = Edits()
    records: dict[str, nodes.Record] = {}
    owners: dict[str, ModelProto | FunctionProto] = {}
    for found in sites:
        name, scope = found.site.name, found.place.scope
        # A file below IR version 10 holds one function of a name, so one body for all its types.
        fits = lowering == "custom" or serves(opset, main_type, found.place.element_type)
        form = nodes.Form(
            jump=plan[name], standard=lowering == "standard" or not fits, attribute=attribute
        )
        if record := nodes.write(edits, found.place, form):
            records[name] = record
        if not form.standard:
            owners[""] = model
            if scope.function is not None:
                owners[function_scope(scope.function)] = scope.function
    edits.apply()
    imported = []
    for name, owner in owners.items():
        if all(entry.domain != DOMAIN for entry in owner.opset_import):
            owner.opset_import.add(domain=DOMAIN, version=VERSION)
            imported.append(name)
    undo = {"ir_version": model.ir_version, "imported": imported, "sites": records}
    if owners and lowering == "function":
        # Before IR version 4 initializers are inputs too, and constants all the same. Under a newer
        # version a run could override them, and ONNX Runtime would no longer fold them into others;
        # it and onnx's checker read functions in the old files as well.
        if model.ir_version >= 4 or not model.graph.initializer:
            model.ir_version = max(model.ir_version, FUNCTION_IR_VERSION)
        model.functions.add().CopyFrom(function(opset, main_type, attribute))
    readable = {f.site.name: shortest(plan[f.site.name], f.place.element_type) for f in sites}
    for key, value in {
        "version": __version__,
        "source_sha256": digest,
        "lowering": lowering,
        "jumps": json.dumps(readable),
        "restore": json.dumps(undo),
    }.items():
        model.metadata_props.add(key=_METADATA_PREFIX + key, value=value)


def _check_names(model: ModelProto, sites: list[Found]) -> None:
    """Refuse a model that uses the names which hardening would give."""
    scopes = {id(s): s for found in sites for s in (found.place.scope, found.place.scope.top)}
    names = [value for scope in scopes.values() for node in scope.nodes for value in node.output]
    names += [value.name for value in model.graph.input]
    names += [tensor.name for tensor in model.graph.initializer]
    taken = next((name for name in names if name.startswith(nodes.RESERVED)), None)
    if any(is_our_function(function) for function in model.functions):
        taken = f"{DOMAIN}::{OP_TYPE}"
    if taken is not None:
        raise ModelError(f"the model has {taken!r}, a name that onnxfit keeps for itself")


def _restore(model: ModelProto, found: list[Found | Unreplaced]) -> None:
    """Undo :func:`_harden`."""
    undo = _undo_record(model)
    edits = Edits()
    tops = {}
    try:
        for item in _sites(found):
            if item.hardened is not None:
                scope = item.place.scope
                tops[id(scope.top)] = scope.top
                record = undo.get("sites", {}).get(item.site.name, {})
                nodes.undo(edits, scope, item.hardened, record)
    except (TypeError, ValueError, DecodeError) as error:
        raise ModelError(f"the metadata entry {_METADATA_PREFIX}restore is damaged") from error
    for top in tops.values():
        nodes.remove_constants(edits, top)
    edits.apply()
    # Other tools may have made initializers of our constants, or noted their shapes.
    _remove(model.graph.initializer, lambda tensor: tensor.name.startswith(nodes.RESERVED))
    for graph in every_graph(model):
        _remove(graph.value_info, lambda value: value.name.startswith(nodes.RESERVED))
    if "ir_version" in undo:
        model.ir_version = undo["ir_version"]
    for name, owner in (("", model), *((function_scope(f), f) for f in model.functions)):
        if name in undo.get("imported", [name]):
            _remove(owner.opset_import, lambda entry: entry.domain == DOMAIN)
    _remove(model.functions, is_our_function)
    _remove(model.metadata_props, lambda entry: _is_ours(entry.key))


def _undo_record(model: ModelProto) -> dict[str, Any]:
    """Return the record that restoring needs, or an empty one where a tool dropped it."""
    record = provenance(model).get("restore", {})
    expected = {"ir_version": int, "imported": list, "sites": dict}
    if not isinstance(record, dict) or not all(
        isinstance(record.get(key, kind()), kind) for key, kind in expected.items()
    ):
        raise ModelError(f"the metadata entry {_METADATA_PREFIX}restore is damaged")
    known: dict[str, Any] = record
    return known


def _remove(items: MutableSequence[Any], unwanted: Callable[[Any], bool]) -> None:
    for i in reversed(range(len(items))):
        if unwanted(items[i]):
            del items[i]
