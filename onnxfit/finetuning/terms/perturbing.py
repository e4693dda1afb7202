"""The inner search of adversarial training: the worst points near samples, for all of them."""

from collections.abc import Callable

import torch

from onnxfit.attacks.ball import make_ball, unit_steps
from onnxfit.attacks.layout import evaluated
from onnxfit.finetuning.terms.term import Batch
from onnxfit.twin.gradients import gradient_of
from onnxfit.twin.ops.batch_normalization import learning_statistics

# Length of a step, times the radius over the number of steps (Madry et al. 2018).
_REACH = 2.5


def worst_points(batch: Batch, objective: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Climb an objective inside the ball around each sample, from a random point of it.

    Unlike an attack's, a search for training does not stop at a sample that is misclassified:
    points just beyond the boundary teach less. BatchNorms are in inference form: the points on the
    way are no samples to learn statistics of.

    Args:
        batch: The samples.
        objective: Makes of logits, n×C, the sum of what is climbed.

    Returns:
        A point for each sample, n×…, which is no part of a graph.
    """
    threat = batch.threat
    ball = make_ball(batch.x.detach(), threat.eps, threat.norm, threat.bounds)
    points, size = ball.random(batch.generator), _REACH * threat.eps / threat.steps
    with evaluated(batch.model), learning_statistics(0.0):
        for _ in range(threat.steps):
            leaf = points.requires_grad_()
            slope = unit_steps(gradient_of(objective(batch.model(leaf)), leaf), threat.norm)
            points = ball.project(leaf.detach().add(slope, alpha=size))
    return points
