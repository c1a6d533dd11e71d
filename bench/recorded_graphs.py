"""CUDA graphs without a GPU: what a capture would record is recorded, and replayed operation by operation.

A replay works on the tensors that were there when it was recorded, as a graph works on its addresses; what was drawn,
read or decided then is as it was. So tests see on a CPU whether a captured function depends on anything else.
"""

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_dim", "item")
# A stream that captures cannot wait for numbers of the host, and what is drawn on it would be drawn once.
_FORBIDDEN = (*READS, "lift_fresh", "rand", "randn", "randint", "randperm", "bernoulli", "normal_", "uniform_")


def is_wait(function, args, kwargs, result) -> bool:
    """Whether the host waits for a device that is not the CPU: for a number, or for a copy that it does not leave
    behind."""
    name = function.overloadpacket.__name__
    devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)}
    if name in ("_to_copy", "copy_"):
        return len(devices) > 1 and not (kwargs.get("non_blocking") or args[2:] == (True,))
    return name in READS and devices != {"cpu"}


def is_launch(function, arguments, result) -> bool:
    """Whether an aten operation starts something on the device of a tensor that is not on the CPU."""
    name = function.overloadpacket.__name__
    if name.startswith(("empty", "new_empty", "detach", "lift")) or name in READS:
        return False
    tensors = [leaf for leaf in tree_leaves((arguments, result)) if isinstance(leaf, Tensor)]
    if not any(tensor.device.type != "cpu" for tensor in tensors):
        return False
    returned = function._schema.returns
    views = [value.alias_info is not None and not value.alias_info.is_write for value in returned]
    if name in ("_to_copy", "contiguous", "reshape"):
        return True
    return not (returned and all(views))


class Counting(TorchDispatchMode):
    """Counts launches, of which a replay is one, and lists what the host waits for."""

    def __init__(self):
        super().__init__()
        self.launches, self.waits = {}, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if Recording.replaying:
            return result
        if is_launch(function, (args, kwargs), result):
            self._add(name)
        if is_wait(function, args, kwargs or {}, result):
            self.waits.append(name)
        return result

    def _add(self, name):
        self.launches[name] = self.launches.get(name, 0) + 1


class Recording(TorchDispatchMode):
    """Records operations and replays them on the same tensors."""

    replaying = 0  # replays under way

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in _FORBIDDEN:
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}")
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Does all operations again; results that are views lie where they lay."""
        Recording.replaying += 1
        try:
            self._replay()
        finally:
            Recording.replaying -= 1

    def _replay(self):
        for function, args, kwargs, result in self.operations:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage()._cdata != new.untyped_storage()._cdata:
                    old.copy_(new)


def graphed(function: Callable, sample_args: tuple[Tensor, ...], allow_unused_input: bool = False) -> Callable:
    """Does what `torch.cuda.make_graphed_callables` does, by recording."""
    forward, backward = Recording(), Recording()
    with forward:
        outputs, spec = tree_flatten(function(*sample_args))
    grads = [torch.ones_like(output) for output in outputs]
    inputs = [tensor for tensor in sample_args if tensor.requires_grad]
    with backward:
        found = torch.autograd.grad(outputs, inputs, grads, allow_unused=allow_unused_input)

    class Graphed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *given):
            for static, tensor in zip(sample_args, given, strict=True):
                if static is not tensor:
                    static.copy_(tensor)
            forward.replay()
            return tuple(output.detach() for output in outputs)

        @staticmethod
        def backward(ctx, *given):
            for static, grad in zip(grads, given, strict=True):
                static.copy_(grad)
            backward.replay()
            left = iter(found)
            passed = [next(left) if tensor.requires_grad else None for tensor in sample_args]
            return tuple(grad if grad is None else grad.detach() for grad in passed)

    return lambda *given: tree_unflatten(list(Graphed.apply(*given)), spec)


@contextlib.contextmanager
def recorded_graphs(make: Callable = graphed) -> Iterator[None]:
    """Lets trainings in a block capture their losses on whatever device they are, by recordings."""
    from nca_fast.training import capture

    with (
        mock.patch.object(capture, "replays", lambda inputs: torch.is_grad_enabled() and capture.MOST > 0),
        mock.patch.object(torch.cuda, "make_graphed_callables", make),
        mock.patch.object(torch.cuda, "current_stream", lambda device=None: None),
        mock.patch.object(torch.cuda, "set_stream", lambda stream: None),
    ):
        yield
