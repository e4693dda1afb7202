"""Random noise: what any model must stand, and a check on attacks that do worse."""

from dataclasses import dataclass

import torch

from onnxfit import checks
from onnxfit.attacks.attack import BudgetAttack
from onnxfit.attacks.ball import Ball, unit_steps
from onnxfit.attacks.losses import margin
from onnxfit.attacks.search import Search


@dataclass(frozen=True, kw_only=True)
class RandomNoise(BudgetAttack):
    """Noise within ``eps``, without gradients: the floor under every other attack.

    Trials take turns: a point drawn uniformly from the ball, then one from its surface, which is
    ``x ± eps`` with random signs for ``linf`` and a random direction of length ``eps`` for ``l2``.
    Where none is misclassified, the one of the largest margin loss is returned.

    Attributes:
        trials: Points that the model is given of each sample that remains; with ``quantize`` what
            was found is given once more.
    """

    trials: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("trials", self.trials, 1)

    def _attack(self, search: Search) -> None:
        rows = search.rows()
        best = search.x.clone()
        highest = torch.full_like(search.logits[:, 0], float("-inf"))
        for trial in range(self.trials):
            ball = search.ball[rows]
            points = self._on_surface(ball, search) if trial % 2 else ball.random(search.generator)
            points = search.rounded(rows, points)
            logits = search.compute(points)
            found = search.record(rows, points, logits)
            losses = margin(logits, search.labels[rows])
            better = losses > highest[rows]
            best[rows[better]], highest[rows[better]] = points[better], losses[better]
            rows = rows[~found]
            if not len(rows):
                return
        search.keep(rows, best[rows])

    def _on_surface(self, ball: Ball, search: Search) -> torch.Tensor:
        x = ball.x
        noise = torch.randn(x.shape, generator=search.generator, dtype=x.dtype).to(x)
        return x + self.eps * unit_steps(noise, self.norm)
