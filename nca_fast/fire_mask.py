"""Which cells fire in a step: a pure function of (seed, step, sample, row, column).

A stored or stateful random mask would have to be kept for the backward pass and would change with the batch, the tiling
and the device. This one is computed wherever it is needed, from global canvas coordinates, bit for bit the same in the
reference and in every kernel:

    (k0, k1, _, _) = Philox4x32-10(counter = (row, sample, step, 0), key = (seed low word, seed high word))
    z = column * 0x9E3779B9 + k0
    z ^= z >> 16;  z *= 0x21F0AAAD;  z ^= z >> 15;  z *= 0x735A2D97;  z ^= z >> 15;  z ^= k1
    the cell fires when z < fire_rate * 2**32

all modulo 2**32. Philox (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011) once per row buys
quality, the two-round integer hash per cell buys speed.
"""

import math
import operator

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_PHILOX_MULTIPLY = (0xD2511F53, 0xCD9E8D57)
_PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
_COLUMN_STEP = 0x9E3779B9
_MIX_1, _MIX_2 = 0x21F0AAAD, 0x735A2D97


def _multiply(constant, word):
    """Returns the high and the low word of a 32 x 32 bit product. The int64 product wraps, which keeps all 64 bits."""
    product = word * constant
    return (product >> 32) & _WORD, product & _WORD


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Computes Philox4x32-10 of four int64 tensors of 32-bit counter words under a key of two words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(_PHILOX_MULTIPLY[0], c0)
        high1, low1 = _multiply(_PHILOX_MULTIPLY[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _PHILOX_WEYL[0]) & _WORD, (k1 + _PHILOX_WEYL[1]) & _WORD
    return c0, c1, c2, c3


def hashed(z: Tensor) -> Tensor:
    """Mixes the bits of int64 words of 32 bits in two rounds, so that words that are alike become unlike."""
    z = ((z ^ (z >> 16)) * _MIX_1) & _WORD
    z = ((z ^ (z >> 15)) * _MIX_2) & _WORD
    return z ^ (z >> 15)


def drawn_seed(fire_rate: float | Tensor) -> int | Tensor:
    """Draws a seed as dropout draws its mask, from PyTorch's default generator; the CPU's, so that no GPU must wait.

    A tensor, int64 [] on the CPU: it may be drawn inside torch.compile and `torch.utils.checkpoint`, which know how to
    draw afresh and how to draw again. Where all cells fire, or none does, nothing is drawn and the seed is 0, as
    dropout draws nothing when it drops nothing.
    """
    if not isinstance(fire_rate, Tensor) and fire_rate in (0, 1):
        return 0
    return torch.randint(0, 2**63 - 1, (), dtype=torch.int64, device="cpu")


def threshold(fire_rate: float | Tensor, device=None) -> Tensor:
    """Returns t with: a cell fires exactly when z < t. int64, [] for a number, [H, W] for a map; 0 to 2**32."""
    if isinstance(fire_rate, Tensor):
        return torch.ceil(fire_rate.detach().double() * 2**32).long()
    return torch.full((), math.ceil(fire_rate * 2**32), dtype=torch.int64, device=device)  # no copy from the host


def fire_mask(
    seed: int | Tensor,
    step: int,
    batch: int,
    height: int,
    width: int,
    fire_rate: float | Tensor,
    origin: tuple[int, int] = (0, 0),
    first_sample: int = 0,
    canvas_height: int | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Computes which cells take their update in a step.

    Args:
        seed: Fixes all masks. 0 to 2**64 - 1, or those 64 bits as an int64 tensor [].
        step: Number of the step, counted from the start of the automaton's life. 0 to 2**32 - 1.
        batch, height, width: Shape of the mask, in samples and cells.
        fire_rate: Probability that a cell fires, in [0, 1]: a number, or a map [height, width].
        origin: Row and column of the first cell in the whole canvas, so that parts of a canvas agree with the whole.
        first_sample: Number of the first sample in the whole batch, likewise.
        canvas_height: Rows of the whole canvas, where the part wraps around it: below its last row lies its row 0.
        device: Where the mask is made; that of the map when there is one.

    Returns:
        bool, [batch, 1, height, width].
    """
    if isinstance(fire_rate, Tensor):
        device = fire_rate.device
    seed = seed if isinstance(seed, Tensor) else operator.index(seed)
    rows = ((origin[0] + torch.arange(height, device=device)) % (canvas_height or 2**32)).expand(batch, height)
    samples = (first_sample + torch.arange(batch, device=device))[:, None].expand(batch, height)
    counter = (rows, samples, torch.full_like(rows, step), torch.zeros_like(rows))
    k0, k1, _, _ = philox(counter, (seed & _WORD, (seed >> 32) & _WORD))
    columns = (origin[1] + torch.arange(width, device=device)) & _WORD
    z = (columns * _COLUMN_STEP + k0[..., None]) & _WORD
    z = hashed(z) ^ k1[..., None]
    return (z < threshold(fire_rate, device))[:, None]
