"""A file in ONNX Runtime as a module that attacks without gradients can call."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnxfit.deployed import Deployed
from onnxfit.twin.classifier import Classifier, as_logits
from onnxfit.twin.preprocessing import Preprocessed

# ONNX Runtime's log of a probability of 0.
_LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)


class DeployedClassifier(torch.nn.Module):
    """A file in ONNX Runtime as a module: samples N×… in the data's units in, logits N×C out.

    It has no gradients. Where the file ends in a Softmax or Sigmoid, the logarithms of its
    probabilities stand for its logits.

    Args:
        classifier: What its twin looks like.
        preprocessing: Normalises the samples as it does for the twin.
        deployed: The file.
    """

    def __init__(
        self, classifier: Classifier, preprocessing: Preprocessed, deployed: Deployed
    ) -> None:
        super().__init__()
        self.deployed = deployed
        self._dtype, self._probabilities = classifier.dtype, classifier.probabilities
        # A tuple hides the modules from this one's own parts.
        self._preprocessing = (preprocessing,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits of samples on the CPU or wherever the session computes."""
        with torch.no_grad():
            outputs = self.call(x)()
            logits = as_logits(torch.as_tensor(outputs[0]), len(x)).to(x.dtype)
        if self._probabilities:
            logits = logits.clamp(min=_LEAST_PROBABILITY).log()
        return logits.to(x.device)

    def call(self, x: torch.Tensor) -> Callable[[], list[Any]]:
        """Prepare samples, and return what computes the file's outputs, again and again."""
        inputs = self._preprocessing[0].normalised(x.cpu()).to(self._dtype).contiguous().numpy()
        return lambda: self.deployed(inputs)

    def predictions(self, x: torch.Tensor | NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the classes that the file names for samples, N; -1 where a logit is NaN."""
        logits = self(torch.as_tensor(x))
        classes = logits.argmax(1)
        classes[logits.isnan().any(1)] = -1
        return classes.cpu().numpy()
