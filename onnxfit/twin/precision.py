"""The arithmetic that PyTorch uses on CUDA, where its defaults are made for training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute convolutions in all 23 bits and the same each time, in a ``with`` block.

    By default cuDNN rounds their inputs to the 10 bits of TF32, far more than what a twin and its
    file may differ by, and adds up in any order. On the CPU this changes nothing.
    """
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=False):
        yield
