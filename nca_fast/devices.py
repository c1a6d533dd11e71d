"""The device that computes, and how numbers get there without making the host wait for it."""

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nca_fast import backends, control_groups, processes
from nca_fast.rule import Rule


def pick(
    name: str, rules: Sequence[Rule] = (), backend: str | None = None, precision: str | None = None
) -> torch.device:
    """Finds the device that a name stands for.

    Args:
        name: "auto" (a GPU when there is one whose kernels serve the rules, else the CPU; a warning says why a GPU is
            left alone), "cpu", "cuda" (under torchrun each process takes its own GPU), or "cuda:1".
        rules: Of the automata that will run there.
        backend, precision: As in `nca_fast.rollout`.

    Raises:
        ValueError: There is no such device, or a backend that is named cannot serve there.
    """
    device = _best(rules, backend, precision) if name == "auto" else _named(name)
    if device.type == "cuda":  # or cuBLAS may add up in another order each time; it reads this when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    for rule in rules if backend in backends.BACKENDS else ():
        reason = _refusal(backend, rule, device, precision)
        reason = reason or backends.trouble(backend)
        if reason is not None:
            raise ValueError(f"backend {backend} must serve on device {device}, but cannot: {reason}")
    return device


def _refusal(backend, rule, device, precision):
    return backends.refusal(backend, rule, torch.empty(0, device=device), precision)


def _named(name):
    if re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:NUMBER, but got {name!r}.")
    device = torch.device(name)
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ValueError(f"device {name} needs a GPU that PyTorch can use, but there is none: use --device cpu.")
    if device.index is not None and processes.count() > 1:
        raise ValueError(f"device must be cuda where several processes share the work, each its own; but got {name}.")
    if device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    if device.index >= torch.cuda.device_count():
        raise ValueError(
            f"device must be cuda:0 to cuda:{torch.cuda.device_count() - 1} on this machine, but got {name}."
        )
    return device


def _best(rules, backend, precision):
    if backend == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", torch.cuda.current_device())
    if backend in backends.PLAIN:
        return device
    for rule in rules:
        reason = _refusal(backends.of_device(device), rule, device, precision)
        if reason is not None:
            warnings.warn(f"{torch.cuda.get_device_name(device)} is not used: {reason}", stacklevel=4)
            return torch.device("cpu")
    return device


def available() -> list[torch.device]:
    """Lists the devices of this machine: the CPU, and each GPU that PyTorch can use, of whatever maker."""
    found = [torch.device("cpu")]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        found += [torch.device(kind, index) for index in range(torch.accelerator.device_count())]
    return found


def describe(device: torch.device) -> str | None:
    """Says in one line which GPU computes; None for a CPU, which goes without saying."""
    return f"computing on {torch.cuda.get_device_name(device)} ({device})" if device.type == "cuda" else None


def default_threads(root: Path = control_groups.ROOT) -> int:
    """Chooses the CPU threads of those who name no number: PyTorch's, but no more than the CPUs that may be taken.

    Those are what `sched_setaffinity` leaves (Slurm, taskset), and the whole CPUs of a quota (containers): 1.5 CPUs are
    one thread, because of two threads one is stopped for a part of every period while the other spins, waiting for it,
    and uses up the time of both. OMP_NUM_THREADS is a number that somebody named.

    Args:
        root: Folder in which proc and sys lie.
    """
    threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ:
        return threads
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        threads = min(threads, len(os.sched_getaffinity(0)))
    return max(1, min([threads, *(int(quota.cpus) for quota in control_groups.cpu_quotas(root))]))


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Moves a tensor to a device. To a GPU it goes through pinned memory, so that the host does not wait for it."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=tensor.is_cpu)


def network_dtype(device: torch.device, precision: str | None = None) -> torch.dtype:
    """Says what the networks that losses look through multiply.

    Args:
        device: Where they are.
        precision: As in `nca_fast.rollout`.

    Returns:
        On a GPU float16 or bfloat16 where rollouts have that precision, by default or because it is asked for, else
        float32; on a CPU, where 16 bits are slow, float32.
    """
    if device.type != "cuda":
        return torch.float32
    chosen = precision or backends.default_precision(device)
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(chosen, torch.float32)


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """Gives a generator that draws large tensors where they are used.

    Args:
        device: Where the numbers are wanted.
        generator: On the CPU.

    Returns:
        The generator itself, but for a GPU one on that GPU, seeded by a number that the given one draws.
    """
    if device.type != "cuda":
        return generator
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
