"""The report of ``onnxfit verify`` as one HTML page."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxfit.report import page, pictures, plots, saliency, universal
from onnxfit.report.wording import eps_text, finite, norm_text, plain, wording

if TYPE_CHECKING:
    from jinja2 import Template

    from onnxfit.saliency.maps import Saliency

Document = Mapping[str, Any]

_BACKWARDS = {"true": "native gradient", "relu": "ReLU backward", "none": "no gradient"}
# A setting that stands elsewhere in the row of its attack.
_SHOWN_APART = frozenset({"norm", "eps", "backward", "tau"})


@dataclass(frozen=True)
class Outcome:
    """What the attacks made of one sample on one model.

    Attributes:
        clean: What the deployed file says about the sample itself.
        adversarial: The adversarial input, as ``x``, or None where none was found.
        prediction: What the deployed file says about that.
        attack: The attack that found it.
        saliency: The maps of the sample, then of the adversarial input where there is one.
        backward: The gradient that the attack used, as in result.json.
    """

    clean: int
    adversarial: NDArray[np.float32] | None = None
    prediction: int | None = None
    attack: str | None = None
    saliency: Sequence["Saliency"] = ()
    backward: str | None = None


@dataclass(frozen=True)
class Exhibit:
    """A sample that the report shows.

    Attributes:
        index: Its place in the data.
        label: Its class.
        x: The sample within the bounds; an image is C×H×W or H×W×C.
        model: What happened on the model.
        baseline: What happened on the baseline, None where the model is its own.
    """

    index: int
    label: int
    x: NDArray[np.float32]
    model: Outcome
    baseline: Outcome | None = None


def render(
    result: Document, exhibits: Sequence[Exhibit] = (), deltas: universal.Deltas | None = None
) -> str:
    """Write the report of a verification.

    Args:
        result: The document of ``result.json``; parts that are missing or None are left out.
        exhibits: Samples to show; only those that are images of one or three channels are.
        deltas: One perturbation for all samples, of ``model`` and ``baseline``, to show likewise.

    Returns:
        A page that needs no other file, no network and no script; the same for the same arguments.

    Raises:
        ModuleNotFoundError: Jinja, matplotlib or Pillow is not installed.
    """
    baseline = result.get("baseline") or {}
    paired = bool(baseline) and not baseline.get("same_as_model")
    sides = {"model": result, "baseline": baseline} if paired else {"model": result}
    names = _names(result, paired=paired)
    bounds, rows = page.bounds(result), _attack_rows(sides)
    drawable = [one for one in exhibits if pictures.drawable(one.x)]
    return _template().render(
        result=result,
        paired=paired,
        sides=sides,
        names=names,
        failed=_failed(result),
        rows=rows,
        common=_common_settings(rows),
        networks=any("network" in one for one in _attacks(result)),
        measures=any("mean_relative_perturbation" in one for one in _attacks(result)),
        curve=_curve(result, names),
        universal=universal.section(result.get("universal"), names, deltas or {}, bounds),
        saliency=saliency.section(result.get("saliency"), names),
        exhibits=[pictures.panels(one, bounds, names) for one in drawable],
        no_images=bool(exhibits) and not drawable,
        reduced=any(pictures.reduction(one.x) > 1 for one in drawable),
        grey=any(pictures.grey(one.x) for one in drawable),
        over_255=page.over_255(result),
        bounds=bounds,
    )


@functools.cache
def _template() -> "Template":
    """Compile the page."""
    return page.template("report.html.jinja", {"settings": _settings, "backward": _backward})


def _settings(settings: Document | None, but: Document | None = None) -> str:
    """Write the settings of an attack in one line, without those that stand elsewhere."""
    return " · ".join(
        f"{wording(key)} {plain(value)}"
        for key, value in (settings or {}).items()
        if key not in _SHOWN_APART and key not in (but or {}) and value is not None
    )


def _common_settings(rows: Sequence[Mapping[str, Document]]) -> Document:
    """Return the settings that several attacks have and that are the same in all that do."""
    values: dict[str, list[tuple[int, Any]]] = {}
    for place, row in enumerate(rows):
        for attack in row.values():
            for key, value in (attack.get("settings") or {}).items():
                values.setdefault(key, []).append((place, value))
    return {
        key: found[0][1]
        for key, found in values.items()
        if found[0][0] != found[-1][0] and all(value == found[0][1] for _, value in found)
    }


def _backward(backward: Any) -> str:
    """Write which gradient an attack used."""
    # Through a surrogate network its name goes before.
    parts = str(backward).split(", ")
    return ", ".join(
        f"smooth gate, τ = {part.removeprefix('smooth ')}"
        if part.startswith("smooth ")
        else _BACKWARDS.get(part, part)
        for part in parts
    )


def _attacks(side: Document) -> list[Document]:
    """List the attacks on one of the models."""
    return list(side.get("attacks") or [])


def _failed(result: Document) -> list[str]:
    """Name what makes the gate fail."""
    rules = [one["rule"] for one in result.get("rules") or [] if not one.get("passed")]
    checks = [
        one["check"]
        for one in result.get("diagnostics") or []
        if one.get("gate") and not one.get("passed")
    ]
    return [*rules, *checks]


def _attack_rows(sides: Mapping[str, Document]) -> list[dict[str, Document]]:
    """Put what one attack did to each model side by side, in the order of the document."""
    rows: list[dict[str, Document]] = []
    for side, document in sides.items():
        for attack in _attacks(document):
            same = (row for row in rows if side not in row and _key(row) == _key({side: attack}))
            row = next(same, None)
            if row is None:
                rows.append(row := {})
            row[side] = attack
    return rows


def _key(row: Mapping[str, Document]) -> tuple[Any, ...]:
    """Return what tells an attack from another."""
    attack = next(iter(row.values()))
    return tuple(attack.get(key) for key in ("name", "backward", "norm", "eps"))


def _names(result: Document, *, paired: bool) -> dict[str, str]:
    """Return what the models are called; not every one with a baseline has jumps."""
    if not paired:
        return {"model": "Model"}
    jumps = ((result.get("model") or {}).get("jumps") or {}).values()
    hardened = any(jump is None or np.any(jump) for jump in jumps)
    return {"model": "Hardened" if hardened else "Model", "baseline": "Baseline"}


def _curve(result: Document, sides: Mapping[str, str]) -> dict[str, str]:
    """Draw the curve for wide and for narrow screens, nothing where there is none."""
    from markupsafe import Markup

    measured = result.get("curve") or []
    if not measured:
        return {}
    model = sides["model"].lower()
    names = {"model": f"{model}, worst case", "native": f"{model}, native gradients alone"}
    if "baseline" in sides:
        names["baseline"] = "baseline, worst case"
    low, high = page.bounds(result)
    eps, over_255 = finite(result.get("eps")), page.over_255(result)
    axis = plots.EpsAxis(
        label=f"eps, {norm_text(result.get('norm'))}, pixel units ({low:g} to {high:g})",
        over_255=over_255,
        gate=eps,
        gate_label=f"gate: eps {eps_text(eps, over_255)}",
    )
    shapes = {"wide": False, "narrow": True}
    return {
        shape: Markup(plots.curve(measured, names, axis, narrow=narrow))  # noqa: S704 - escaped
        for shape, narrow in shapes.items()
    }
