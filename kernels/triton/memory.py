"""Memory of the Triton kernels that outlives a call: what is kept on a device, and scratch between kernels."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable

import torch
from torch import Tensor

_MOST = 512  # kinds of tensors that are kept
_kept = OrderedDict()


def in_the_common_pool(x: Tensor) -> bool:
    """Says whether x lies in the memory that torch gives to everybody, and not in a pool that somebody resets.

    torch.compile(mode="reduce-overhead") runs the first call of a model in its own pool; what is kept there is lost.
    """
    if not x.is_cuda:
        return True
    for segment in torch.cuda.memory_snapshot():
        if segment["address"] <= x.data_ptr() < segment["address"] + segment["total_size"]:
            return tuple(segment["segment_pool_id"]) == (0, 0)
    return False


def kept_on(device: torch.device, key: Hashable, make: Callable[[], Iterable[Tensor]]) -> tuple[Tensor, ...]:
    """Returns the tensors that make() gives, on a device, from a copy that is kept: to copy them would wait for it."""
    key = key, device
    if key in _kept:
        return _kept[key]
    tensors = tuple(t.to(device) for t in make())
    if all(map(in_the_common_pool, tensors)):
        _kept[key] = tensors
        if len(_kept) > _MOST:
            _kept.popitem(last=False)
    return tensors


class Scratch:
    """Memory between the kernels of a step: tensors allocated once per rollout, when they are first asked for."""

    def __init__(self):
        self.kept = {}

    def __call__(self, name: str, like: Tensor, *shape: int, dtype: torch.dtype) -> Tensor:
        """Returns the tensor of a name, beside `like`; zeros at first: some columns are read and never written."""
        if name not in self.kept:
            self.kept[name] = torch.zeros(shape, dtype=dtype, device=like.device)
        return self.kept[name]
