"""Several processes that work on one thing, started by torchrun: each takes its share.

    torchrun --nproc-per-node 2 -m nca_fast clip "red bricks" --batch-size 2 --out runs/bricks
    torchrun --nproc-per-node 2 -m nca_fast render runs/bricks --height 8192 --width 8192 --steps 200 --out bricks.png

In a training it is a share of every batch. All processes hold the same weights and the same pool and make the same
random choices, so a run on N processes is the run on one, up to the rounding of sums: they add up the gradients of
their shares and exchange the states that go back into the pool. A rendering shares out the canvas: see
`canvas.exchange`. The first process alone writes files, shows progress and prints. Without torchrun there is one
process, and nothing here does anything.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from nca_fast import interrupts

MEETING = timedelta(minutes=5)  # so long the first process waits for the last, whose imports may be slow
PATIENCE = timedelta(days=7)  # a process that ends is missed at once; one that has more to do is waited for
GRACE = 10.0  # seconds in which a process ends whose torchrun is gone, before it is ended


@contextlib.contextmanager
def process_group(parent: int | None = None) -> Iterator[None]:
    """Joins the processes that torchrun started, for the length of a block.

    When one of them ends, torchrun sends SIGTERM to the others: here a KeyboardInterrupt, after which nothing is left
    half-written. A process whose torchrun was killed ends in the same way.

    Args:
        parent: The number of torchrun, of a caller who asked for it before the seconds of its imports; None: asked now.

    Raises:
        ConnectionError: The processes did not meet.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    with _ended_with_its_parent(os.getppid() if parent is None else parent):
        _meet()
        before = signal.signal(signal.SIGTERM, _stopped)
        try:
            yield
        except BaseException:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this process is about to end, and has to say why first
            raise
        else:
            signal.signal(signal.SIGTERM, before)
        finally:
            dist.destroy_process_group()


def _meet() -> None:
    """Joins the other processes: minutes for finding each other, days for the work that follows.

    Raises:
        ConnectionError: They did not all come, or cannot talk to each other.
    """
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        store, rank, count = next(dist.rendezvous("env://", timeout=MEETING))
        store.set(f"here/{rank}", "")
        store.wait([f"here/{other}" for other in range(count)], MEETING)
    except (RuntimeError, ValueError) as error:
        raise ConnectionError(
            f"all processes must meet at {where} within {MEETING.total_seconds():g} s, but did not. Check that "
            "address and port are those of the first process (--master-addr, --master-port or --rdzv-endpoint of "
            f"torchrun), that no other program has the port, and that no process ended before. ({_first_line(error)})"
        ) from error
    store.set_timeout(PATIENCE)
    backend = "cpu:gloo,cuda:nccl" if have_gpus() else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    except RuntimeError as error:
        raise ConnectionError(
            f"processes must be able to talk to each other, but: {_first_line(error)}. Where no network interface "
            "serves, name one, on a single machine GLOO_SOCKET_IFNAME=lo, in the environment."
        ) from error


@contextlib.contextmanager
def _ended_with_its_parent(parent: int) -> Iterator[None]:
    """Sees to it that this process does not outlive the torchrun that started it, for the length of a block.

    A torchrun that is killed stops nobody, and a process that waits for another one hears no signal.
    """
    over = threading.Event()

    def watch() -> None:
        while os.getppid() == parent:
            if over.wait(1.0):
                return
        os.kill(os.getpid(), signal.SIGTERM)
        if not over.wait(GRACE):
            print(f"nca-fast, process {rank()}: ended, because torchrun has ended", file=sys.stderr, flush=True)
            os._exit(1)

    try:
        threading.Thread(target=watch, name="parent watch", daemon=True).start()
        yield
    finally:
        over.set()


def _stopped(number: int, frame: FrameType | None) -> None:
    if interrupts.postponed(number, frame):
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt(
        "torchrun stopped this process, because another one has ended or torchrun itself was stopped"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@contextlib.contextmanager
def peer_errors() -> Iterator[None]:
    """Turns the failure of an exchange in a block into an error that says what it means.

    Raises:
        ConnectionError: Another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            f"all {count()} processes must go on, but one has ended. If it gave no reason, it was killed (for want of "
            f"memory?). What was saved is whole, and --resume goes on from there. ({_first_line(error)})"
        ) from error


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 is the one that writes."""
    return dist.get_rank() if count() > 1 else 0


def local_count() -> int:
    """How many of them share this machine, its memory and its disk."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if count() > 1 else 1


def have_gpus() -> bool:
    """Whether each has a GPU of its own, so that tensors on them can be exchanged."""
    enough = torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
    return enough and dist.is_nccl_available()


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
    any_true(False)  # dist.barrier would start up NCCL where there are GPUs


def all_gather_object(value: Any) -> list[Any]:
    """Collects one JSON-able value of each process, in the order of their ranks."""
    values = [value] * count()
    if count() > 1:
        with peer_errors():
            dist.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """Gives every process the JSON-able value of the first one."""
    if count() == 1:
        return value
    values = [value]
    with peer_errors():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def any_true(flag: bool) -> bool:
    """Whether one process at least says so; the same answer in all."""
    return bool(all_reduce(torch.tensor(float(flag)))) if count() > 1 else flag


def summed(values: Sequence[float]) -> list[float]:
    """The sums over all processes."""
    return all_reduce(torch.tensor(values, dtype=torch.float64)).tolist() if count() > 1 else list(values)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replaces the gradient of each parameter by the sum over all processes; all of them in one message."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = all_reduce(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, total.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.reshape(gradient.shape))


def all_gather(states: Tensor) -> Tensor:
    """Collects the states of the whole batch, of which these are this process's share. [b, C, H, W] -> [B, C, H, W]"""
    if count() == 1:
        return states
    parts = [torch.empty_like(states, memory_format=torch.contiguous_format) for _ in range(count())]
    with peer_errors():
        dist.all_gather(parts, states.contiguous())
    return torch.cat(parts)


def all_reduce(tensor: Tensor) -> Tensor:
    """Replaces a tensor by the sum of those of all processes."""
    if count() > 1:
        with peer_errors():
            dist.all_reduce(tensor)
    return tensor
