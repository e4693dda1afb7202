"""What the twin is being run under."""

import torch
from torch.autograd import forward_ad


def transformed() -> bool:
    """Tell whether this runs in ``torch.func`` or with forward derivatives.

    PyTorch's fused kernels of attention and of recurrent networks know neither.
    """
    in_function = torch._C._functorch.peek_interpreter_stack() is not None
    return in_function or has_forward_derivatives()


def has_forward_derivatives() -> bool:
    """Tell whether this runs with forward derivatives."""
    return forward_ad._current_level >= 0
