"""Attacks on one model alone: what it is compared with is attacked once, not anew beside each."""

from collections.abc import Sequence
from typing import Any

import torch

from onnxfit.data import Dataset
from onnxfit.verification.campaign import Campaign, Side
from onnxfit.verification.suites import Stage
from onnxfit.verification.target import Target


def attacked(
    target: Target,
    data: Dataset,
    stages: Sequence[Stage],
    source: torch.nn.Module | None = None,
    **how: Any,
) -> Campaign:
    """Attack all samples of a model.

    Args:
        target: The model.
        data: The samples.
        stages: The attacks, the one after the other.
        source: What attacks are transferred from.
        **how: Settings of the campaign.
    """
    sources: dict[Side, torch.nn.Module] = {} if source is None else {"model": source}
    campaign = Campaign({"model": target}, data, stages, sources=sources, **how)
    for _ in campaign.run():
        pass
    return campaign
