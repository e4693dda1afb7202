"""The templates of the pages, and how they show values."""

import importlib.resources
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxfit.data import Bounds
from onnxfit.report import plots
from onnxfit.report.wording import (
    NONE,
    eps_text,
    interval,
    judged,
    norm_text,
    number,
    percent,
    plain,
    points,
    seconds,
    wording,
)

if TYPE_CHECKING:
    from jinja2 import Template

_FILTERS: Mapping[str, Callable[..., Any]] = {
    "percent": percent,
    "points": points,
    "interval": interval,
    "eps": eps_text,
    "number": number,
    "seconds": seconds,
    "judged": judged,
    "plain": plain,
    "wording": wording,
    "norm": norm_text,
    "marks": plots.marks,
    "span": plots.span,
}


def template(name: str, filters: Mapping[str, Callable[..., Any]]) -> "Template":
    """Compile a page, with filters of its own beside those of all pages.

    Raises:
        ModuleNotFoundError: Jinja is not installed.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {**_FILTERS, **filters}
    return environment.get_template(name)


def bounds(result: Mapping[str, Any]) -> Bounds:
    """Return the values of black and white."""
    low, high = (result.get("data") or {}).get("bounds") or (0.0, 1.0)
    return (low, high) if low < high else (0.0, 1.0)


def over_255(result: Mapping[str, Any]) -> bool:
    """Tell whether eps is commonly written in units of 1/255."""
    return result.get("norm") == "linf" and bounds(result) == (0, 1)


def _source(name: str) -> str:
    """Read a template of the package, which need not lie in a folder."""
    return importlib.resources.files("onnxfit.report").joinpath(name).read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """Finish what the page shows: a dash for what is not there, escapes for what cannot be seen."""
    import jinja2
    from markupsafe import Markup

    if value is None or isinstance(value, jinja2.Undefined):
        return NONE
    if isinstance(value, float):
        return number(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(map(_visible, value))


def _visible(character: str) -> str:
    """Write a character that cannot be seen as an escape; line ends and tabs become spaces."""
    if character.isspace():
        return " " if character in "\n\r\t" else character
    return character if character.isprintable() else character.encode("unicode_escape").decode()
