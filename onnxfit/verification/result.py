"""What a verification found: the document of result.json and the pictures beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxfit.json_values import finite

if TYPE_CHECKING:
    from onnxfit.report.html import Exhibit

SCHEMA_VERSION = 1

Document = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What :func:`onnxfit.verify` found.

    Its keys are those of ``result.json``: ``result["worst_case"]["robust_accuracy"]``.

    Attributes:
        document: What ``result.json`` holds.
        exhibits: Some samples with what the attacks made of them.
        universal: One perturbation for all samples, of ``model`` and ``baseline``, to show.
    """

    document: Document
    exhibits: Sequence["Exhibit"] = field(default=(), repr=False)
    universal: Mapping[Any, NDArray[np.float32]] = field(default_factory=dict, repr=False)

    def __getitem__(self, key: str) -> Any:
        return self.document[key]

    @property
    def passed(self) -> bool:
        """Whether the model may be released."""
        return bool(self.document["verdict"] == "pass")

    @property
    def headline(self) -> str:
        """The one sentence that tells what the hardening bought."""
        return str(self.document["headline"])

    def to_json(self) -> str:
        """Return the text of ``result.json``; numbers that JSON does not have are null."""
        return json.dumps(finite(self.document), indent=2, allow_nan=False) + "\n"
