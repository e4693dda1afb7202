"""What the twin is being run under."""

import torch
from torch.autograd import forward_ad


def transformed() -> bool:
    """Tell whether this runs in ``torch.func`` or with forward derivatives.

    PyTorch's fused kernels of attention and of recurrent networks know neither.
    """
    in_function = torch._C._functorch.peek_interpreter_stack() is not None
    return in_function or has_forward_derivatives()


def is_batched(values: torch.Tensor) -> bool:
    """Tell whether a tensor stands for several, as gradients do that are computed at once."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(values) or functorch.is_legacy_batchedtensor(values)


def has_forward_derivatives() -> bool:
    """Tell whether this runs with forward derivatives."""
    return forward_ad._current_level >= 0
