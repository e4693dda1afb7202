"""The Square attack: random search with square patches, without gradients."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch

from onnxfit import checks
from onnxfit.attacks.attack import BudgetAttack
from onnxfit.attacks.layout import laid_out, select
from onnxfit.attacks.losses import LOSSES, Loss
from onnxfit.attacks.search import Search, diameter
from onnxfit.image_layout import channel_axis
from onnxfit.twin.image_layout import with_channels

# Where the paper halves the share of the image that a square covers, of 10,000 queries.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TILES = 5  # The first l2 perturbation is a grid of so many patterns each way.
_LEAST_SIDE = 3  # Of an l2 pattern.
_REFILLS = 2  # How often a perturbation that the bounds shortened is made longer.
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Square(BudgetAttack):
    """Square attack (Andriushchenko, Croce, Flammarion and Hein, 2020): needs logits, no gradients.

    Each query gives the model one candidate per sample, which replaces the sample's point where
    its loss is larger. For ``linf`` the first is vertical stripes of ``± eps``, and each other
    candidate sets a random square of the point to ``± eps``, one sign per channel. For ``l2`` a
    square takes over the mass of a second one, and what of ``eps`` is unused, in a pattern of two
    bumps of opposite sign; unlike in the paper, what the bounds cut off is made up for elsewhere.
    The squares cover a share of the image that starts at ``p_init`` and is halved nine times; the
    paper's schedule is stretched to ``queries``.

    Samples C×H×W or H×W×C are images, and H×W too. A vector is laid out in rows, as near to a
    square as its length divides, so that flattened images of one channel are images again. Of more
    axes, all between the first and the last are rows. Where a square does not fit, a rectangle of
    the same area takes its place.

    Every sample has random numbers of its own: what happens to one depends on no other.

    Attributes:
        queries: Points that the model is given of each sample at most, in each restart.
        p_init: Share of the image that the first square covers.
        restarts: How often to start, each time with the samples that remain.
        loss: What candidates are judged by: ``margin``, ``ce`` or ``dlr``.
    """

    queries: int = 5000
    p_init: float = 0.8
    restarts: int = 1
    loss: Loss = "margin"

    def __post_init__(self) -> None:
        super().__post_init__()
        # With quantisation the model is given once more what was found.
        checks.whole("queries", self.queries, 2 if self.quantize else 1)
        checks.whole("restarts", self.restarts, 1)
        checks.above_0("p_init", self.p_init)
        checks.share("p_init", self.p_init)
        checks.one_of("loss", self.loss, tuple(LOSSES))

    def _attack(self, search: Search) -> None:
        proposals = (_Linf if self.norm == "linf" else _L2)(search, min(self.eps, diameter(search)))
        for _ in range(self.restarts):
            rows = search.rows()
            if not len(rows):
                return
            self._walk(search, proposals, rows)

    def _walk(self, search: Search, proposals: "_Proposals", rows: torch.Tensor) -> None:
        candidates = proposals.start(rows)
        least = torch.full((len(rows),), -math.inf, dtype=candidates.dtype, device=rows.device)
        state = _State(rows, search.labels[rows], proposals.x[rows], candidates, least)
        last = self.queries - self.quantize
        for query in range(1, last + 1):
            points = proposals.inputs(state.rows, candidates)
            logits = search.compute(points)
            state.accept(candidates, LOSSES[self.loss](logits, state.labels))
            found = search.record(state.rows, points, logits)
            if found.any():
                state = state.only(~found)
                if not len(state.rows):
                    return
            if query < last:
                candidates = proposals.next(state, self._share(query))
        search.keep(state.rows, proposals.inputs(state.rows, state.points))

    def _share(self, query: int) -> float:
        """Return the share of the image that the square of a query covers."""
        done = query / self.queries * 10_000
        return float(self.p_init / 2 ** sum(done > halving for halving in _HALVINGS))


@dataclass
class _State:
    """Samples that are being attacked: a row of each tensor belongs to one of them."""

    rows: torch.Tensor
    labels: torch.Tensor
    x: torch.Tensor
    points: torch.Tensor
    losses: torch.Tensor

    def only(self, left: torch.Tensor) -> "_State":
        """Return some of the samples."""
        parts = (self.rows, self.labels, self.x, self.points, self.losses)
        return _State(*(select(part, left) for part in parts))

    def accept(self, candidates: torch.Tensor, losses: torch.Tensor) -> None:
        """Take the candidates whose loss is larger than that of the points so far."""
        better = losses > self.losses
        self.points = torch.where(better[:, None, None], candidates, self.points)
        self.losses = torch.where(better, losses, self.losses)


class _Image(NamedTuple):
    """How a sample's values are laid out for squares: C×H×W."""

    channels: int
    height: int
    width: int


class _Proposals(ABC):
    """Candidates for the points of samples, as C×(H·W) values each."""

    def __init__(self, search: Search, eps: float) -> None:
        self._search, self._eps = search, eps
        self.image = _image(search.x.shape[1:])
        self._last = channel_axis(search.x.shape[1:]) == 2
        self.x = self._flat(search.x)

    @abstractmethod
    def start(self, rows: torch.Tensor) -> torch.Tensor:
        """Make the first candidates of some samples, n×C×(H·W)."""

    @abstractmethod
    def next(self, state: _State, share: float) -> torch.Tensor:
        """Make candidates of the points so far by squares that cover a share of the image."""

    def inputs(self, rows: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Return candidates as the model takes them; on 256 levels if asked."""
        points = laid_out(self._shaped(candidates))
        return self._search.rounded(rows, points) if self._search.attack.quantize else points

    def _flat(self, points: torch.Tensor) -> torch.Tensor:
        points = with_channels(points, last=False) if self._last else points
        return points.reshape(len(points), self.image.channels, -1)

    def _shaped(self, flat: torch.Tensor) -> torch.Tensor:
        """Return points, n×C×(H·W), in the shape of samples."""
        if self._last:
            return with_channels(flat.reshape(len(flat), *self.image), last=True)
        return flat.reshape(len(flat), *self._search.x.shape[1:])

    def _random(self, high: int, rows: torch.Tensor, *shape: int) -> torch.Tensor:
        """Draw integers below ``high``, n×shape; for all samples, so that each has its own."""
        n, generator = len(self._search.x), self._search.generator
        drawn = torch.randint(high, (n, *shape), generator=generator)
        return drawn.to(rows.device)[rows]

    def _signs(self, rows: torch.Tensor, *shape: int) -> torch.Tensor:
        return (2 * self._random(2, rows, *shape) - 1).to(self.x.dtype)

    def _window(self, rows: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Draw where a rectangle lies in each image: the numbers of its pixels, n×1×(h·w)."""
        top = self._random(self.image.height - height + 1, rows)
        left = self._random(self.image.width - width + 1, rows)
        down = torch.arange(height, device=rows.device)[:, None] * self.image.width
        inside = (down + torch.arange(width, device=rows.device)).flatten()
        return (top * self.image.width + left)[:, None, None] + inside


class _Linf(_Proposals):
    """Points of the cube around a sample: every value as far as it may go, up or down."""

    def __init__(self, search: Search, eps: float) -> None:
        super().__init__(search, eps)
        everyone = torch.arange(len(search.x), device=search.x.device)
        self._low, self._high = (
            self._flat(search.rounded(everyone, search.x + 2 * side)) for side in (-eps, eps)
        )

    def start(self, rows: torch.Tensor) -> torch.Tensor:
        channels, height, width = self.image
        up = self._random(2, rows, channels, 1, width).bool().expand(-1, -1, height, -1)
        return torch.where(up.flatten(2), self._high[rows], self._low[rows])

    def next(self, state: _State, share: float) -> torch.Tensor:
        window = self._window(state.rows, *_sides(self.image, share))
        up = self._random(2, state.rows, self.image.channels, 1).bool()
        channels = torch.arange(self.image.channels, device=window.device)[:, None]
        at = state.rows[:, None, None], channels, window
        values = torch.where(up, self._high[at], self._low[at])
        return state.points.scatter(2, window.expand_as(values), values)


class _L2(_Proposals):
    """Points of the ball around a sample, of about length ``eps``."""

    def start(self, rows: torch.Tensor) -> torch.Tensor:
        channels, height, width = self.image
        tile = max(height // _TILES, 1), max(width // _TILES, 1)
        down, across = height // tile[0], width // tile[1]
        turned = self._random(2, rows, down, across)
        tiles = _patterns(*tile).to(self.x)[turned].transpose(2, 3)[:, None]
        moved = tiles * self._signs(rows, channels, down, 1, across, 1)
        moved = moved.reshape(len(rows), channels, down * tile[0], across * tile[1])
        top, left = (height - moved.shape[2]) // 2, (width - moved.shape[3]) // 2
        canvas = moved.new_zeros(len(rows), *self.image)
        canvas[:, :, top : top + moved.shape[2], left : left + moved.shape[3]] = moved
        return self._at_length(rows, self.x[rows], canvas.flatten(2))

    def next(self, state: _State, share: float) -> torch.Tensor:
        rows, moved = state.rows, state.points - state.x
        sides = _sides(self.image, share, _LEAST_SIDE)
        to = self._window(rows, *sides).expand(-1, self.image.channels, -1)
        source = self._window(rows, *sides).expand(-1, self.image.channels, -1)
        unused = (self._eps**2 - _squares(moved.flatten(1))).clamp(min=0)
        old = moved.gather(2, to)
        moved = moved.scatter(2, to, 0.0)
        # What both squares hold was taken already.
        mass = _squares(old) + _squares(moved.gather(2, source))
        moved = moved.scatter(2, source, 0.0)
        turned = self._random(2, rows)
        pattern = _patterns(*sides).to(moved)[turned].flatten(1)[:, None]
        pattern = pattern * self._signs(rows, self.image.channels, 1)
        new = _unit(pattern + _unit(old))
        length = (mass + unused[:, None, :] / self.image.channels).sqrt()
        return self._at_length(rows, state.x, moved.scatter(2, to, new * length))

    def _at_length(self, rows: torch.Tensor, x: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        """Make perturbations ``eps`` long and put the points inside.

        The other values make up for what the bounds cut off.
        """
        for _ in range(_REFILLS):
            length = _squares(moved.flatten(1)).sqrt().clamp(min=_TINY)
            points = x + moved * (self._eps / length)[..., None]
            moved = points.clamp(*self._search.attack.bounds) - x
        return self._flat(self._search.ball[rows].project(self._shaped(x + moved)))


def _image(shape: torch.Size) -> _Image:
    """Choose how samples of a shape are laid out."""
    size = shape.numel()
    if len(shape) == 2:
        return _Image(1, shape[0], shape[1])
    if channel_axis(shape) == 2:
        return _Image(shape[2], shape[0], shape[1])
    if len(shape) > 2 and shape[1:].numel() > 1:
        return _Image(shape[0], shape[1:-1].numel(), shape[-1])
    height = next(side for side in range(math.isqrt(size), 0, -1) if size % side == 0)
    return _Image(1, height, size // height)


def _sides(image: _Image, share: float, least: int = 1) -> tuple[int, int]:
    """Return height and width of the rectangle nearest to a square that covers a share.

    Args:
        image: Where it must fit.
        share: Of the image's area.
        least: Smallest side of a square. Above 1, as patterns need it, sides are odd.
    """
    _, height, width = image
    area, short = share * height * width, min(height, width)
    side = max(round(math.sqrt(area)), min(least, (short + 1) // 2), 1)
    if least > 1:
        side |= 1
    if side <= short:
        return side, side
    long = min(max(round(area / short), min(least, max(height, width)), 1), max(height, width))
    return (short, long) if height <= width else (long, short)


@lru_cache(maxsize=64)
def _patterns(height: int, width: int) -> torch.Tensor:
    """Make the l2 pattern of a size and its other orientation, 2×h×w, each of length 1."""
    if height == width == 1:
        return torch.ones(2, 1, 1)
    by_rows, by_columns = _two_bumps(height, width), _two_bumps(width, height)
    if by_rows is None or by_columns is None:
        only = by_columns.T if by_columns is not None else by_rows
        return torch.stack([only, only])
    return torch.stack([by_rows, by_columns.T])


def _two_bumps(height: int, width: int) -> torch.Tensor | None:
    """Put a bump above one of opposite sign; None where there is only one row."""
    if height == 1:
        return None
    upper = height // 2
    pattern = torch.cat([_bump(upper, width), -_bump(height - upper, width)])
    return pattern / pattern.norm()


def _bump(height: int, width: int) -> torch.Tensor:
    """Return values that fall off from the middle (the paper's eq. 2), of length 1.

    At a distance r, the larger of rows and columns: ``sum over k >= r of 1 / (k + 1)^2``.
    """
    rows, columns = torch.arange(height), torch.arange(width)
    r = torch.maximum(
        (rows - height // 2).abs()[:, None], (columns - width // 2).abs().expand(height, -1)
    )
    steps = 1 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64).square()
    bump = steps.flip(0).cumsum(0).flip(0)[r]
    return bump / bump.norm()


def _squares(values: torch.Tensor) -> torch.Tensor:
    return values.square().sum(-1, keepdim=True)


def _unit(values: torch.Tensor) -> torch.Tensor:
    return values / _squares(values).sqrt().clamp(min=_TINY)
