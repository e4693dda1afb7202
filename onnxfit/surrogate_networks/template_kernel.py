"""A kernel over the features of all templates: smooth, and with a gradient everywhere."""

import torch

# Templates that the usual distance is measured on.
_MEASURED = 256
# Which of their nearest ones is a usual distance away.
_USUAL = 8


class TemplateKernel(torch.nn.Module):
    """The logit ``log Σ exp(−‖f(x) − y‖² / (width · σ²))`` of a class, over its templates y.

    No neighbour comes or goes. With the loss ``ce`` an attack raises ``log Σ_other − log Σ_own``,
    by steps toward templates of other classes and away from those of its own. That is the adaptive
    attack on nearest neighbours, in the space of features (Sitawarin and Wagner, 2019, arXiv
    1903.08333), with a soft loss such as that of Wang et al. (2021, arXiv 2106.14300) in the place
    of guides that are chosen. σ² is the squared distance to the 8th nearest template, the median
    over templates.

    Args:
        features: From samples, N×…, to features, N×D.
        templates: Features of labelled samples, M×D.
        labels: Their classes, M integers; each class has one.
        width: Of the kernel: the wider, the more templates count.
        middle: What was taken from the templates' features, and is taken from samples': D or 1×D.
    """

    templates: torch.Tensor
    labels: torch.Tensor
    middle: torch.Tensor

    def __init__(
        self,
        features: torch.nn.Module,
        templates: torch.Tensor,
        labels: torch.Tensor,
        width: float,
        middle: torch.Tensor,
    ) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("templates", templates)
        self.register_buffer("labels", labels)
        self.register_buffer("middle", middle)
        self.classes = int(labels.max()) + 1
        self.scale = width * _usual_square(templates)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of samples, N×classes."""
        found = self.features(x)
        found = found - self.middle.to(found.dtype)
        templates = self.templates.to(found.dtype)
        nearness = -_squares(found, templates) / self.scale
        places = self.labels.expand(len(found), -1)
        empty = nearness.new_full((len(found), self.classes), -torch.inf)
        peaks = empty.scatter_reduce(1, places, nearness.detach(), "amax")
        weights = (nearness - peaks.gather(1, places)).exp()
        return torch.zeros_like(empty).scatter_add(1, places, weights).log() + peaks


def _squares(points: torch.Tensor, templates: torch.Tensor) -> torch.Tensor:
    """Return the squared distances, n×D and M×D → n×M."""
    own, theirs = (each.square().sum(1) for each in (points, templates))
    return own[:, None] - 2 * points @ templates.T + theirs


def _usual_square(templates: torch.Tensor) -> float:
    """Return the median squared distance of templates to their 8th nearest other one, above 0."""
    some = templates[:: -(-len(templates) // _MEASURED)]
    nearest = min(_USUAL, len(templates) - 1)
    # A template is its own nearest.
    square = _squares(some, templates).kthvalue(nearest + 1, 1).values.median()
    return max(float(square), torch.finfo(templates.dtype).tiny)
