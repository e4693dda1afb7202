"""What the jump of each site does alone, where a calibration was refined."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxfit.report.plots import placed
from onnxfit.report.wording import finite, interval, number, points
from onnxfit.verification.statistics import SIGNIFICANCE

Record = Mapping[str, Any]

KINDS = ("robust", "clean")
# What a difference, and its sign, is called.
_EFFECTS = (
    ("robust", 1, ("buys", "buy"), "robustness"),
    ("robust", -1, ("costs", "cost"), "robustness"),
    ("clean", -1, ("costs", "cost"), "clean accuracy"),
    ("clean", 1, ("raises", "raise"), "clean accuracy"),
)
# What is worth a sentence where it is not so.
_ASKED = (("robust", 1), ("clean", -1))
NO_EFFECT = "No site's effect is beyond noise."
# Labels of an axis beside 0, at most.
_LABELS = 6


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A line on which differences have their place.

    Attributes:
        low, high: Its ends, as fractions.
        ticks: Where it is labelled, in per cent of its length, and how, in points.
    """

    low: float
    high: float
    ticks: tuple[tuple[str, str], ...]

    def place(self, record: Record) -> dict[str, str]:
        """Place a difference and its interval."""
        return placed(record.get("difference"), record.get("ci95"), self.low, self.high)

    @property
    def zero(self) -> str:
        """Where 0 is, in per cent of the length."""
        return _percent(0.0, self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sentence that may name a site.

    Attributes:
        before, after: What stands before and after the name.
        name: That of the site.
    """

    before: str
    name: str = ""
    after: str = ""

    def __str__(self) -> str:
        """Write it in one."""
        return f"{self.before}{self.name}{self.after}"


def beyond(record: Record, sites: int) -> int:
    """Return the sign of a difference that is beyond the noise of so many sites, else 0.

    That is judged by McNemar's test after Bonferroni over the sites.
    """
    p_value = finite(record.get("p_value"))
    if p_value is None or p_value * sites >= SIGNIFICANCE:
        return 0
    return int(math.copysign(1, _difference(record)))


def effect(site: Record, kind: str) -> Record:
    """Return what the jump of a site does, to ``robust`` or ``clean`` accuracy."""
    return (site.get("attribution") or {}).get(kind) or {}


def attributed(document: Record) -> list[Record]:
    """Return the sites of which it is known what their jump does."""
    return [site for site in document.get("sites") or [] if site and site.get("attribution")]


def plot(sites: Sequence[Record]) -> dict[str, Any]:
    """Place what each site buys and costs, those that buy most first.

    Args:
        sites: Those with an attribution.

    Returns:
        The ``axes`` of robust and clean accuracy; and ``rows`` with a name and a mark on each.
    """
    axes = {kind: axis(effect(site, kind) for site in sites) for kind in KINDS}
    rows = [
        {
            "name": site.get("name"),
            "marks": {kind: _mark(axes[kind], effect(site, kind), len(sites)) for kind in KINDS},
        }
        for site in sorted(sites, key=_rank)
    ]
    return {"axes": axes, "rows": rows}


def _mark(axis: Axis, record: Record, sites: int) -> dict[str, Any]:
    """Place a difference, if it is known, and say whether it is beyond the noise of all sites."""
    found = axis.place(record)
    return {**found, "beyond": bool(beyond(record, sites))} if found else {}


def axis(records: Iterable[Record]) -> Axis:
    """Make an axis that holds 0 and all differences with their intervals."""
    found = [[record.get("difference"), *(record.get("ci95") or ())] for record in records]
    values = [value for row in found for value in map(finite, row) if value is not None]
    ends = [0.0, *(min(max(value, -1.0), 1.0) for value in values)]
    room = 0.04 * (max(ends) - min(ends)) or 0.01
    low, high = min(ends) - room, max(ends) + room
    step = _step(100 * (high - low) / _LABELS)
    labels = [n * step for n in range(math.ceil(100 * low / step), int(100 * high / step) + 1)]
    return Axis(
        low=low,
        high=high,
        ticks=tuple((_percent(label / 100, low, high), _label(label)) for label in labels),
    )


def counts(sites: Sequence[Record], kind: str) -> list[Any]:
    """Return how many samples the differences are of."""
    return [effect(site, kind).get("n") for site in sites]


def sentences(document: Record) -> list[Sentence]:
    """Say which sites buy and cost most, of those whose effect is beyond the noise of all."""
    sites, found = attributed(document), []
    under = f" under {raced(document)}"
    told = False
    for kind, sign, verbs, accuracy in _EFFECTS:
        what = accuracy + (under if kind == "robust" else "")
        some = [site for site in sites if beyond(effect(site, kind), len(sites)) == sign]
        told = told or bool(some)
        if some:
            most = max(some, key=lambda site: sign * _difference(effect(site, kind)))
            found.append(_most(most, kind, f"{len(some)} of {len(sites)}", (*verbs, what)))
        elif (kind, sign) in _ASKED:
            found.append(Sentence(before=f"No site {verbs[0]} {what} beyond noise."))
    if not sites:
        return []
    return found if told else [Sentence(before=NO_EFFECT)]


def _most(site: Record, kind: str, share: str, words: tuple[str, str, str]) -> Sentence:
    """Name the site that does most of something."""
    record = effect(site, kind)
    only = share.startswith("1 ")
    verb = words[0] if only else words[1]
    return Sentence(
        before=f"{share} {'site' if share == '1 of 1' else 'sites'} {verb} {words[2]} beyond noise"
        f"{':' if only else ', most of all'} ",
        name=str(site.get("name")),
        after=f" ({points(record.get('difference'))}, 95 % interval "
        f"{interval(record.get('ci95'), 'points')}).",
    )


def steps(document: Record) -> str:
    """Say how many changes a refinement tried and took, and on how many samples."""
    found = document.get("refinement") or {}
    tried, taken, judged_on = (finite(found.get(key)) for key in ("tried", "taken", "judged_on"))
    if tried is None or taken is None:
        return ""
    if not tried:
        return "No change of a single site was worth a try."
    changes = "1 change of a single site was" if tried == 1 else f"{tried:,.0f} changes were"
    where = "" if judged_on is None else f" on {judged_on:,.0f} attacked samples"
    took = "none" if not taken else number(int(taken))
    return f"{changes} tried, one site at a time,{where}; {took} taken."


def tested(document: Record) -> str:
    """Say what samples the test is of."""
    count = finite((document.get("difference") or {}).get("tested"))
    if count is None:
        return ""
    refined = (document.get("refinement") or {}).get("taken")
    others = " that the refinement was not made by" if refined else ""
    return f"on {number(int(count))} attacked samples{others}"


def _rank(site: Record) -> tuple[float, float]:
    """Return what sites are sorted by."""
    return -_difference(effect(site, "robust")), -_difference(effect(site, "clean"))


def _difference(record: Record) -> float:
    """Return a difference, the least there is where it is not known."""
    difference = finite(record.get("difference"))
    return -math.inf if difference is None else difference


def _percent(value: float, low: float, high: float) -> str:
    return f"{100 * (value - low) / (high - low):.2f}%"


def _step(least: float) -> float:
    """Return the least of 1, 2 and 5 times a power of ten that is no smaller."""
    power: float = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def _label(value: float) -> str:
    """Write a number of points with its sign, which 0 does not have."""
    return f"{value:+.4g}".replace("-", "−") if value else "0"


def raced(document: Mapping[str, Any]) -> str:
    """Say which gradients the candidates were compared by."""
    return "native gradients alone" if document.get("objective") == "paper" else "smooth gates"
