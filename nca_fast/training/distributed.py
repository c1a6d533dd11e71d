"""Several processes that train one automaton, started by torchrun: each takes its share of every batch.

    torchrun --nproc-per-node 2 -m nca_fast clip "red bricks" --batch-size 2 --out runs/bricks

All processes hold the same weights and the same pool and make the same random choices, so a run on N processes is the
run on one, up to the rounding of sums: they add up the gradients of their shares (the losses are sums over samples) and
exchange the states that go back into the pool. The first process alone writes files, shows progress and prints.
Without torchrun there is one process, and nothing here does anything.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch import distributed as dist


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Joins the processes that torchrun started, for the length of a block."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield
        return
    dist.init_process_group("gloo")  # training runs on the CPU
    try:
        yield
    finally:
        dist.destroy_process_group()


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 is the one that writes."""
    return dist.get_rank() if count() > 1 else 0


def share(batch_size: int) -> slice:
    """The samples of a batch that this process takes.

    Raises:
        ValueError: The batch cannot be shared evenly.
    """
    each, rest = divmod(batch_size, count())
    if rest:
        raise ValueError(f"batch_size must be a multiple of the {count()} processes, but got {batch_size}.")
    return slice(rank() * each, (rank() + 1) * each)


def barrier() -> None:
    """Waits until all processes are here."""
    if count() > 1:
        dist.barrier()


def any_true(flag: bool) -> bool:
    """Whether one process at least says so; the same answer in all."""
    return bool(_sum(torch.tensor(float(flag)))) if count() > 1 else flag


def summed(values: Sequence[float]) -> list[float]:
    """The sums over all processes."""
    return _sum(torch.tensor(values, dtype=torch.float64)).tolist() if count() > 1 else list(values)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replaces the gradient of each parameter by the sum over all processes; all of them in one message."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = _sum(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, total.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.reshape(gradient.shape))


def gathered(states: Tensor) -> Tensor:
    """The states of the whole batch, of which these are this process's share. [b, C, H, W] -> [B, C, H, W]"""
    if count() == 1:
        return states
    parts = [torch.empty_like(states, memory_format=torch.contiguous_format) for _ in range(count())]
    dist.all_gather(parts, states.contiguous())
    return torch.cat(parts)


def _sum(tensor: Tensor) -> Tensor:
    dist.all_reduce(tensor)
    return tensor
