"""What the twin is being run under."""

import torch
from torch.autograd import forward_ad


def transformed() -> bool:
    """Tell whether this runs in ``torch.func`` or with forward derivatives.

    PyTorch's fused kernels of attention and of recurrent networks know neither.
    """
    return (
        forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None
    )
