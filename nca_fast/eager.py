"""Where PyTorch's tensors are memory that may be read and written at once, and nobody wants to see operators."""

import torch
from torch import Tensor
from torch.nn import Parameter


def is_plain(*tensors: Tensor) -> bool:
    """Says whether no compiler, transform, mode or tracer is at work, and tensors have no class of their own."""
    if torch.compiler.is_compiling():
        return False
    c = torch._C
    if c._are_functorch_transforms_active() or c._len_torch_dispatch_stack() or c._len_torch_function_stack():
        return False
    batched = c._functorch.is_legacy_batchedtensor
    return not c._is_tracing() and all(type(t) in (Tensor, Parameter) and not batched(t) for t in tensors)
