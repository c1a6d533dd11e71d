"""Memory of saved states that the next rollout takes again.

To be given new pages, and to give them back, takes a tenth of a training rollout on a CPU where states are large: for
some megabytes malloc keeps what is freed, but what is more goes back to the system at once.
"""

import sys
import threading

import numpy as np
import torch
from torch import Tensor

LEAST, MOST = 2**24, 2**28  # bytes that are kept; less than the former malloc keeps itself

_lock = threading.Lock()
_kept = [np.empty(0, np.float32)]  # one array; who has a tensor of it holds a reference to it, too
_OWN = sys.getrefcount(_kept[0])  # references to it where nobody has one


def empty(numbers: int, like: Tensor) -> Tensor:
    """Makes an uninitialised row of numbers, of the type and on the device of a tensor.

    On a CPU one of `LEAST` to `MOST` bytes of float32 lies in memory that stays for the next one, unless it is still in
    use then. Who would have to wait for another thread, or for one that a fork left behind, takes memory of its own.
    """
    if not (like.is_cpu and like.dtype == torch.float32 and LEAST <= 4 * numbers <= MOST):
        return like.new_empty(numbers)
    if not _lock.acquire(blocking=False):
        return like.new_empty(numbers)
    try:
        if len(_kept[0]) < numbers or sys.getrefcount(_kept[0]) > _OWN:
            _kept[0] = np.empty(numbers, np.float32)
        return torch.from_numpy(_kept[0][:numbers])
    finally:
        _lock.release()
