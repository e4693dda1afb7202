"""Harden a model, and undo that: the edits of the ``ModelProto``."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from google.protobuf.message import DecodeError
from numpy.typing import ArrayLike
from onnx import FunctionProto, ModelProto, TensorProto

from onnxfit import lowering as nodes
from onnxfit import passes, rewrites
from onnxfit.edits import Edits, remove_where
from onnxfit.element_types import UNKNOWN, every_graph, function_scope
from onnxfit.errors import ModelError
from onnxfit.files import editable
from onnxfit.graph import model_opset
from onnxfit.op import (
    DOMAIN,
    FUNCTION_IR_VERSION,
    VERSION,
    Jumps,
    carries_attribute,
    function,
    is_our_function,
    readable,
    serves,
)
from onnxfit.planning import Plan, compiled, keep, plan_jumps, sites_of, why_nothing
from onnxfit.record import (
    RESTORE_DAMAGED,
    drop_record,
    is_hardened,
    provenance,
    undo_record,
    write_record,
)
from onnxfit.sites import Found, Unreplaced, scan

Lowering = Literal["function", "custom", "standard"]


def retrofit(  # noqa: PLR0913 - the options of the verb
    model: ModelProto | str | Path,
    jump: float | None = None,
    *,
    jumps: Mapping[str, ArrayLike] | None = None,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    lowering: Lowering = "function",
    base_dir: str | Path | None = None,
    optimize: bool | Collection[str] = False,
) -> ModelProto:
    """Replace activations by JumpReLU and return a new model.

    Args:
        model: A model, which stays untouched, or the path of one. Where it is hardened already,
            the jumps given here take the place of its own and the others stay.
        jump: Jump size κ of every site, in units of its pre-activation (Erichson et al. 2019).
        jumps: Jump sizes by site name; they go before ``jump``. With ``jumps`` alone, the other
            sites stay as they are. An array broadcasts to the activation: ``[C, 1, 1]`` behind a
            convolution, ``[C]`` behind a matrix product.
        include: Regular expressions; only sites whose name holds a match of one are hardened.
        exclude: Regular expressions; sites whose name holds a match of one are not.
        lowering: ``function``: JumpReLU nodes and a function of the same name, which runs with
            and without the custom-op library. ``custom``: the nodes alone, which need the
            library; with sites inside functions it is ``function``. ``standard``: operators of
            the default domain alone.
        base_dir: Folder of the external data, which is then checked to be there.
        optimize: Rewrite the hardened model so that it computes the same with less work: all that
            helps on any provider (:data:`onnxfit.rewrites.EVERYWHERE`), or the rewrites of these
            names (:data:`onnxfit.rewrites.ALL`). NaN alone may end otherwise. Everything in
            onnxfit reads such a model as the one before.

    Raises:
        ModelError: The model cannot be read, has no such site or nothing to harden; or it was
            denoised or interpolated, which comes after.
        TypeError, ValueError: A jump is not a finite number of at least 0, no jump is given, a
            pattern matches nothing or is no regular expression; ``optimize`` and the standard
            lowering, or a name of no rewrite.
    """
    if jump is None and jumps is None:
        raise TypeError("give a jump for every site, or jumps by site name")
    if lowering not in get_args(Lowering):
        raise ValueError(f"lowering is one of {', '.join(get_args(Lowering))}, got {lowering!r}")
    if optimize and lowering == "standard":
        raise ValueError("optimize rewrites JumpReLU nodes; the standard lowering has none")
    hard, digest = own(model, base_dir)
    passes.refuse(hard, "restore it first")
    _replace(hard, digest, jump, jumps or {}, include=include, exclude=exclude, lowering=lowering)
    if optimize:
        rewrites.apply(hard, rewrites.EVERYWHERE if optimize is True else optimize)
    return hard


def with_jumps(
    model: ModelProto,
    jump: float | None = None,
    jumps: Mapping[str, ArrayLike] | None = None,
    base_dir: str | Path | None = None,
) -> ModelProto:
    """Return a model with other jumps, to compute with: what was put around it stays as it is.

    Args and errors are those of :func:`retrofit`.
    """
    hard, digest = own(model, base_dir)
    _replace(hard, digest, jump, jumps or {})
    return hard


def _replace(
    hard: ModelProto,
    digest: str,
    jump: float | None,
    jumps: Mapping[str, ArrayLike],
    *,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    lowering: Lowering = "function",
) -> None:
    """Edit a model, whose file has some SHA-256, as :func:`retrofit` tells."""
    found = list(scan(hard))
    earlier: dict[str, float | Jumps | None] = {}
    if is_hardened(hard, found):
        hardened = {f.site.name: f.hardened for f in sites_of(found)}
        earlier = {name: site.jump for name, site in hardened.items() if site is not None}
        digest = provenance(hard).get("source_sha256", digest)
        take_back(hard, found)
        found = list(scan(hard))
    sites = sites_of(found)
    plan = plan_jumps(sites, jump, jumps or {}, compiled(include), compiled(exclude))
    keep(earlier, plan, {site.site.name: site.place.element_type for site in sites})
    if not plan:
        raise ModelError(why_nothing(found))
    chosen = [site for site in sites if site.site.name in plan]
    check_names(hard, chosen)
    harden(hard, chosen, plan, lowering, digest)


def own(
    model: ModelProto | str | Path, base_dir: str | Path | None = None
) -> tuple[ModelProto, str]:
    """Return a model that may be edited, and the SHA-256 of its file or serialisation.

    What was rewritten in it is taken back; the SHA-256 is of the rewritten one.

    Args:
        model: A model or its path.
        base_dir: Folder of its external data, by default that of the path; it is checked that it
            is there.

    Raises:
        ModelError: It cannot be read or is a compiled model, or external data is missing.
    """
    proto, digest = editable(model, base_dir)
    rewrites.take_back(proto)
    return proto, digest


@dataclass(frozen=True, kw_only=True)
class _Style:
    """How the sites of one file are written.

    Attributes:
        opset: Version of the default domain.
        lowering: As in :func:`retrofit`.
        element_type: That the function body is written for.
        attribute: Nodes take their jumps from the attribute; else all do from the input J, since a
            file below IR version 10 holds one function of a name, so one body.
    """

    opset: int
    lowering: Lowering
    element_type: int
    attribute: bool

    @classmethod
    def of(cls, model: ModelProto, sites: list[Found], plan: Plan, lowering: Lowering) -> "_Style":
        """Choose for a model."""
        opset = model_opset(model)
        if lowering == "custom" and any(found.place.scope.function for found in sites):
            # Inside a function ONNX Runtime infers no type through an operator without a body.
            lowering = "function"
        types = Counter(found.place.element_type for found in sites if found.place.element_type)
        main_type = types.most_common(1)[0][0] if types else TensorProto.FLOAT
        numbers = all(isinstance(jump, float) for jump in plan.values())
        attribute = lowering == "custom" or (numbers and carries_attribute(opset))
        return cls(opset=opset, lowering=lowering, element_type=main_type, attribute=attribute)

    def form(self, element_type: int, jump: float | Jumps | str) -> nodes.Form:
        """Return how a site is written."""
        fits = self.lowering == "custom" or serves(self.opset, self.element_type, element_type)
        # J must be of the type of X, which standard operators can see to when the model runs.
        typed = element_type != UNKNOWN or (self.attribute and isinstance(jump, float))
        standard = self.lowering == "standard" or not fits or not typed
        return nodes.Form(jump=jump, standard=standard, attribute=self.attribute)


def harden(
    model: ModelProto,
    sites: list[Found],
    plan: Plan,
    lowering: Lowering,
    digest: str,
) -> None:
    """Edit the model: the sites, the function, the imports, the record."""
    style = _Style.of(model, sites, plan, lowering)
    edits = Edits()
    records: dict[str, nodes.Record] = {}
    owners: dict[str, ModelProto | FunctionProto] = {}
    for found in sites:
        name, scope = found.site.name, found.place.scope
        form = style.form(found.place.element_type, plan[name])
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
    if owners and style.lowering == "function":
        # Before IR version 4 initializers are inputs too, and constants all the same. Under a newer
        # version a run could override them, and ONNX Runtime would no longer fold them into others;
        # it and onnx's checker read functions in the old files as well.
        if model.ir_version >= 4 or not model.graph.initializer:
            model.ir_version = max(model.ir_version, FUNCTION_IR_VERSION)
        body = function(style.opset, style.element_type, style.attribute)
        model.functions.add().CopyFrom(body)
    write_record(model, digest, style.lowering, _readable(sites, plan), undo)


def _readable(sites: list[Found], plan: Plan) -> dict[str, Any]:
    """Return the jumps that are known by site, as JSON has them."""
    jumps = {}
    for found in sites:
        jump = plan[found.site.name]
        if not isinstance(jump, str):
            jumps[found.site.name] = readable(jump, found.place.element_type)
    return jumps


def check_names(model: ModelProto, sites: list[Found]) -> None:
    """Refuse a model that uses the names which hardening would give."""
    scopes = {id(s): s for found in sites for s in (found.place.scope, found.place.scope.top)}
    names = [value for scope in scopes.values() for node in scope.nodes for value in node.output]
    names += [value.name for value in model.graph.input]
    names += [tensor.name for tensor in model.graph.initializer]
    taken = next((name for name in names if name.startswith(nodes.RESERVED)), None)
    for function_ in model.functions:
        if is_our_function(function_):
            taken = f"{DOMAIN}::{function_.name}"
    if taken is not None:
        raise ModelError(f"the model has {taken!r}, a name that onnxfit keeps for itself")


def take_back(model: ModelProto, found: list[Found | Unreplaced]) -> None:
    """Undo :func:`harden`."""
    undo = undo_record(model)
    edits = Edits()
    tops = {}
    try:
        for item in sites_of(found):
            if item.hardened is not None:
                scope = item.place.scope
                tops[id(scope.top)] = scope.top
                record = undo.get("sites", {}).get(item.site.name, {})
                nodes.undo(edits, scope, item.hardened, record)
    except (TypeError, ValueError, DecodeError) as error:
        raise ModelError(RESTORE_DAMAGED) from error
    for top in tops.values():
        nodes.remove_constants(edits, top)
    edits.apply()
    remove_where(model.graph.input, lambda value: value.name.startswith(nodes.INPUT_PREFIX))
    # Other tools may have made initializers of our constants, or noted their shapes.
    remove_where(model.graph.initializer, lambda tensor: tensor.name.startswith(nodes.RESERVED))
    for graph in every_graph(model):
        remove_where(graph.value_info, lambda value: value.name.startswith(nodes.RESERVED))
    if "ir_version" in undo:
        model.ir_version = undo["ir_version"]
    for name, owner in (("", model), *((function_scope(f), f) for f in model.functions)):
        if name in undo.get("imported", [name]):
            remove_where(owner.opset_import, lambda entry: entry.domain == DOMAIN)
    remove_where(model.functions, is_our_function)
    drop_record(model)
