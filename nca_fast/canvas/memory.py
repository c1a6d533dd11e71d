"""How much memory and disk there is."""

import contextlib
import mmap
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nca_fast import control_groups
from nca_fast.sizes import in_words


def free_memory(root: Path = control_groups.ROOT) -> int:
    """Counts the bytes that a program may take now: seven eighths of what nothing else needs.

    Linux knows, of the machine and of the control groups by which containers, Slurm and systemd limit a process; what
    is kept of files in memory is not needed. On other systems it is half of what the machine has, and 2 GiB where even
    that is unknown (Windows).

    Args:
        root: Folder in which proc and sys lie.
    """
    free = [machine_memory(root), *(group.free for group in control_groups.memory_limits(root))]
    return min(free) * 7 // 8


def machine_memory(root: Path = control_groups.ROOT) -> int:
    """Counts the bytes of the machine that nothing else needs; see `free_memory`."""
    try:
        words = (root / "proc/meminfo").read_text(encoding="ascii").split()
        return int(words[words.index("MemAvailable:") + 1]) * 1024
    except (OSError, IndexError, ValueError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (AttributeError, ValueError, OSError):
            return 2**31


def zeros(shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """Makes zeros, of large tensors on Linux in pages of 2 MiB: rows of all channels of a canvas lie in many pages.

    The memory is there when it is first written to.
    """
    size = torch.Size(shape).numel() * dtype.itemsize
    if size < 2**24 or not hasattr(mmap, "MADV_HUGEPAGE") or (device is not None and device.type != "cpu"):
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel may have been built without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def check_disk(folder: Path, needed: int, for_what: str) -> None:
    """Refuses work for which the disk has no room.

    Raises:
        OSError: The folder's file system has fewer than `needed` bytes.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"the disk of {folder} must have {in_words(needed)} for {for_what}, but it has {in_words(free)}. "
            "Write to another disk, or choose a smaller canvas."
        )
