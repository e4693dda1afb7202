"""What makes modules of models."""

from typing import Protocol

import torch
from onnx import ModelProto


class Build(Protocol):
    """Makes a module, N×… to N×outputs, of a model or a part of one."""

    def __call__(self, model: ModelProto, *, before_probabilities: bool = True) -> torch.nn.Module:
        """Make it; with ``before_probabilities`` a last Softmax or Sigmoid is left out."""
