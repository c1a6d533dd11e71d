"""Memory of states that the next rollout on a CPU takes again.

To be given new pages, and to give them back, takes a tenth of a rollout where states are large, and more on a busy
machine: for some megabytes malloc keeps what is freed, but what is more goes back to the system at once.
"""

import math
import sys
import threading

import numpy as np
import torch
from torch import Tensor

LEAST, MOST = 2**24, 2**28  # bytes that are kept: of an array, and of all; less than the former malloc keeps itself

_lock = threading.Lock()
_kept: list[np.ndarray] = []  # who has a tensor of one holds a reference to it, too


def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Makes an uninitialised tensor of the type and on the device of another.

    On a CPU one of `LEAST` to `MOST` bytes of float32 lies in memory that stays for the next one. Of the arrays that
    nobody has, the smallest that is large enough is taken. Where all would be more than `MOST`, unused ones go first,
    and older ones before later ones. Who would have to wait for another thread, or for one that a fork left behind,
    takes memory of its own.
    """
    numbers = math.prod(shape)
    if not (like.is_cpu and like.dtype == torch.float32 and LEAST <= 4 * numbers <= MOST):
        return like.new_empty(shape)
    if not _lock.acquire(blocking=False):
        return like.new_empty(shape)
    try:
        enough = [array for array in _unused() if len(array) >= numbers]
        if enough:
            array = min(enough, key=len)
        else:
            _give_up(4 * numbers)
            array = np.empty(numbers, np.float32)
            _kept.append(array)
        return torch.from_numpy(array[:numbers].reshape(shape))
    finally:
        _lock.release()


def _unused() -> list[np.ndarray]:
    """Lists the arrays of which nobody has a tensor: none but the list and a loop's variable refer to them."""
    return [array for array in _kept if sys.getrefcount(array) <= _OWN]


def _give_up(wanted: int) -> None:
    """Makes room for so many bytes: what is unused goes before what will be free later, and the oldest first."""
    unused = {id(array) for array in _unused()}
    for array in sorted(_kept, key=lambda array: id(array) not in unused):
        if sum(kept.nbytes for kept in _kept) + wanted > MOST:
            _kept[:] = [kept for kept in _kept if kept is not array]


def _count_own() -> int:
    """Counts the references to an array of which nobody has a tensor, as `_unused` does."""
    one = [np.empty(0, np.float32)]
    return [sys.getrefcount(array) for array in one][0]


_OWN = _count_own()
