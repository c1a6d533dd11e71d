"""Which cells fire in a step: a pure function of (seed, step, sample, row, column).

A stored or stateful random mask would have to be kept for the backward pass and would change with the batch, the tiling
and the device. This one is computed wherever it is needed, from global canvas coordinates, bit for bit the same in the
reference and in every kernel:

    (k0, k1, _, _) = Philox4x32-10(counter = (row, sample, step, 0), key = (seed low word, seed high word))
    z = column * 0x9E3779B9 + k0
    z ^= z >> 16;  z *= 0x21F0AAAD;  z ^= z >> 15;  z *= 0x735A2D97;  z ^= z >> 15;  z ^= k1
    the cell fires when z < fire_rate * 2**32

all modulo 2**32. Where the channels of a cell fire each for itself, channel number l is a lane of its own: it takes
column + l * 0x9E3779B9 in place of the column, so that lanes are at least a million columns apart. Where samples, rows
or columns share a draw, their number in these formulas is 0.

Philox (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011) once per row buys
quality, the two-round integer hash per cell buys speed.

Words are int32, whose sums and products wrap, but for the products of Philox, which have 64 bits. The masks of many
steps are drawn at once, in blocks that stay in a cache: what reaches memory is a byte per cell, and a step of a small
canvas costs a fraction of an operation.
"""

import math
import operator
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from nca_fast.eager import is_plain
from nca_fast.integers import checked_draw
from nca_fast.kernels.cpu import cells

WORD, _SIGN = 0xFFFFFFFF, 0x80000000
PHILOX_MULTIPLY = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
COLUMN_STEP = 0x9E3779B9
MIX_1, MIX_2 = 0x21F0AAAD, 0x735A2D97
_ROWS = 1 << 16  # whose keys are drawn at once: 512 KiB per word
_CELLS = 1 << 17  # that are hashed at once: 512 KiB, which stay in the second-level cache of a CPU
_CELLS_ON_GPU = 1 << 19  # there a launch costs more than 2 MiB that leave a cache


def _at_once(device: torch.device | None) -> int:
    """How many cells are hashed at once on a device; None is the CPU."""
    return _CELLS if device is None or torch.device(device).type == "cpu" else _CELLS_ON_GPU


def _halves(words: Tensor) -> tuple[Tensor, Tensor]:
    """Views the low and the high halves of words, as numbers of half the size; nothing is copied."""
    halves = words.view({torch.int64: torch.int32, torch.int32: torch.int16}[words.dtype])
    first, second = halves[..., 0::2], halves[..., 1::2]
    return (first, second) if sys.byteorder == "little" else (second, first)


def _low_halves(words: list[Tensor], zero: Tensor) -> Tensor:
    """Puts int32 words into the low halves of int64. [...] -> [..., words]"""
    pairs = [(word, zero) if sys.byteorder == "little" else (zero, word) for word in words]
    return torch.stack([half for pair in pairs for half in pair], -1).view(torch.int64)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Computes Philox4x32-10 of four tensors of counter words under a key of two words.

    Args:
        counter: int32, which broadcast.
        key: 0 to 2**32 - 1, or int64 tensors [].

    Returns:
        Four words, int32.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = key
    zero = torch.zeros((), dtype=torch.int32, device=c0.device).expand_as(c0)
    constants = torch.stack([torch.full((), m, dtype=torch.int64, device=c0.device) for m in PHILOX_MULTIPLY])
    for _ in range(10):
        (low0, low1), (high0, high1) = (t.unbind(-1) for t in _halves(_low_halves([c0, c2], zero) * constants))
        c0, c1, c2, c3 = high1 ^ c1 ^ _signed(k0), low1, high0 ^ c3 ^ _signed(k1), low0
        k0, k1 = (k0 + PHILOX_WEYL[0]) & WORD, (k1 + PHILOX_WEYL[1]) & WORD
    return c0, c1, c2, c3


def drawn_seed(fire_rate: float | Tensor, noisy: bool = False) -> int | Tensor:
    """Draws a seed as dropout draws its mask, from PyTorch's default generator; the CPU's, so that no GPU must wait.

    A tensor, int64 [] on the CPU: it may be drawn inside torch.compile and `torch.utils.checkpoint`, which know how to
    draw afresh and how to draw again. Where all cells fire, or none does, and nothing is noisy, nothing is drawn and
    the seed is 0, as dropout draws nothing when it drops nothing.
    """
    if not noisy and not isinstance(fire_rate, Tensor) and fire_rate in (0, 1):
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
    shared: tuple[str, ...] = ("channel",),
    channels: int = 1,
    frozen: int = 0,
) -> Tensor:
    """Computes which cells take their update in a step.

    Args:
        seed: Fixes all masks. 0 to 2**64 - 1, or those 64 bits as an int64 tensor [].
        step: Number of the step, counted from the start of the automaton's life. 0 to 2**32 - 1.
        batch, height, width: Shape of the mask, in samples and cells.
        fire_rate: Probability that a cell fires, in [0, 1]: a number, a map [height, width], or rates that differ by
            step, sample and channel, as in `nca_fast.rollout`.
        origin: Row and column of the first cell in the whole canvas, so that parts of a canvas agree with the whole.
        first_sample: Number of the first sample in the whole batch, likewise.
        canvas_height: Rows of the whole canvas, where the part wraps around it: below its last row lies its row 0.
        device: Where the mask is made; that of the map when there is one.
        shared: Axes along which all share one draw: `Rule.fire_shared`.
        channels, frozen: Channels of the state, and how many of them are frozen; where channels share no draw.

    Returns:
        bool, [batch, 1 or channels - frozen, height, width].

    Raises:
        TypeError, ValueError: name, rule and value of a number that is out of its range.
    """
    seed, *size, origin, first_sample, canvas_height = checked_draw(
        seed, step, batch, height, width, origin, first_sample, canvas_height
    )
    step, batch, height, width = size
    if not isinstance(fire_rate, Tensor) and not 0 <= fire_rate <= 1:
        raise ValueError(f"fire_rate must be in [0, 1], but got {fire_rate}.")
    lanes = (0,) if "channel" in shared else tuple(range(frozen, channels))
    numbers = not isinstance(seed, Tensor) and not isinstance(fire_rate, Tensor)
    if numbers and (device is None or torch.device(device).type == "cpu") and is_plain():
        sizes = {"batch": batch, "channel": len(lanes), "height": height, "width": width}
        shape = tuple(1 if axis in shared else size for axis, size in sizes.items())
        draw = (seed, step, origin, first_sample, canvas_height or 2**32, shared, lanes[0])
        if (mask := cells.fire_mask(shape, *draw, math.ceil(fire_rate * 2**32))) is not None:
            return mask.expand(batch, -1, height, width)
    where = (fire_rate, origin, first_sample, canvas_height, device)
    return next(fire_masks(seed, step, 1, batch, height, width, *where, shared, lanes)).expand(batch, -1, height, width)


def fire_masks(
    seed: int | Tensor,
    first_step: int,
    steps: int,
    batch: int,
    height: int,
    width: int,
    fire_rate: float | Tensor,
    origin: tuple[int, int] = (0, 0),
    first_sample: int = 0,
    canvas_height: int | None = None,
    device: torch.device | None = None,
    shared: tuple[str, ...] = ("channel",),
    lanes: tuple[int, ...] = (0,),
) -> Iterator[Tensor]:
    """Draws the masks of `fire_mask` for some consecutive steps, many at once. The arguments as there.

    Args:
        lanes: Numbers of the channels that fire each for itself; 0 alone where they share their draws.

    Yields:
        bool, [batch, lanes, height, width], with 1 in the place of a size where all share a draw and a rate.
    """
    if isinstance(fire_rate, Tensor):
        device = fire_rate.device
    if shared != ("channel",) or (isinstance(fire_rate, Tensor) and fire_rate.ndim == 5):
        where = (origin, first_sample, canvas_height, device)
        words = hashed(seed, first_step, steps, batch, height, width, *where, (0, 1), lanes, shared)
        limit = threshold(fire_rate, device)
        for n, word in enumerate(words, first_step):
            some = limit[n % len(limit)] if limit.ndim == 5 else limit
            yield _at_most(word ^ -_SIGN, some)
        return
    seed = seed if isinstance(seed, Tensor) else operator.index(seed)
    below = threshold(fire_rate) if isinstance(fire_rate, Tensor) else math.ceil(fire_rate * 2**32)
    columns = _multiples(operator.index(origin[1]), width, device)
    many = max(1, _ROWS // (batch * height))
    few = max(1, _at_once(columns.device) // (batch * height * width))
    for start in range(0, steps, many):
        count = min(many, steps - start)
        counter = _counter(first_step + start, count, batch, height, origin[0], first_sample, canvas_height, device)
        k0, k1, _, _ = philox(counter, (seed & WORD, (seed >> 32) & WORD))
        for keys in zip(k0[..., None].split(few), (k1 ^ -_SIGN)[..., None].split(few), strict=True):
            yield from _fires(columns, *keys, below)[:, :, None]


def hashed(
    seed: int | Tensor,
    first_step: int,
    steps: int,
    batch: int,
    height: int,
    width: int,
    origin: tuple[int, int],
    first_sample: int,
    canvas_height: int | None,
    device: torch.device | None,
    words: tuple[int, int],
    lanes: tuple[int, ...],
    shared: tuple[str, ...] = (),
) -> Iterator[Tensor]:
    """Draws 32 bits for every cell and lane, for some consecutive steps.

    Args:
        words: Which two of the four words of a row's Philox are its keys.
        The others as in `fire_masks`.

    Yields:
        int32, [batch or 1, lanes, height or 1, width or 1]: 1 where an axis is shared.
    """
    if "batch" in shared:
        batch, first_sample = 1, 0
    if "height" in shared:
        height, origin = 1, (0, origin[1])
    if "width" in shared:
        width, origin = 1, (origin[0], 0)
    seed = seed if isinstance(seed, Tensor) else operator.index(seed)
    columns = (origin[1] + torch.arange(width, device=device)) & WORD
    lanes = torch.tensor(lanes, device=device)[:, None, None] * COLUMN_STEP & WORD
    places = signed(((columns + lanes) & WORD) * COLUMN_STEP)
    for n in range(first_step, first_step + steps):
        counter = _counter(n, 1, batch, height, origin[0], first_sample, canvas_height, device)
        keys = philox(counter, (seed & WORD, (seed >> 32) & WORD))
        add, flip = (keys[word][0][:, None, :, None] for word in words)
        yield mixed(places + add) ^ flip


def _counter(first_step, steps, batch, height, first_row, first_sample, canvas_height, device):
    """Makes the counters of some rows, steps and samples: int32, which broadcast to [steps, batch, height]."""
    rows = torch.arange(first_row, first_row + height, device=device) % (canvas_height or 2**32)
    samples = torch.arange(first_sample, first_sample + batch, device=device)[:, None]
    numbers = torch.arange(first_step, first_step + steps, device=device)[:, None, None]
    return *map(signed, (rows, samples, numbers)), torch.zeros((), dtype=torch.int32, device=device)


def _multiples(first, count, device):
    """Multiplies the numbers of some columns by COLUMN_STEP. int32 [count]"""
    return torch.arange(count, dtype=torch.int32, device=device) * _signed(COLUMN_STEP) + _signed(first * COLUMN_STEP)


def _signed(word):
    """Returns the number of 32 bits whose low 32 bits are those of a number."""
    return ((word + _SIGN) & WORD) - _SIGN


def signed(word: Tensor) -> Tensor:
    """Returns the int32 of the low 32 bits of an int64."""
    return _signed(word).to(torch.int32)


def mixed(z: Tensor, to_the_end: bool = True) -> Tensor:
    """Mixes the bits of int32 words in place, so that words that are alike become unlike.

    A shift by 15 copies the sign down, so those bits are cleared after it; one by 16 is the high half of a word.

    Args:
        to_the_end: False leaves out what changes the lowest 17 bits alone.
    """
    low, high = _halves(z)
    low ^= high
    z *= MIX_1
    z ^= (z >> 15).bitwise_and_(0x1FFFF)
    z *= MIX_2
    if to_the_end:
        z ^= (z >> 15).bitwise_and_(0x1FFFF)
    return z


def _fires(columns, k0, k1, below):
    """Says which cells fire, for many rows, block by block.

    Args:
        columns: column * 0x9E3779B9, int32 [W].
        k0, k1: Keys of the rows, int32 [..., H, 1]; k1 with its highest bit flipped.
        below: A cell fires when its hash is below: 0 to 2**32, or a map of such numbers, int64 [H, W].

    Returns:
        bool, [..., H, W].
    """
    shape = (*k0.shape[:-1], columns.shape[0])
    if not isinstance(below, Tensor) and below in (0, 2**32):
        return torch.full(shape, below > 0, device=columns.device)
    height, rows = shape[-2], max(1, _at_once(columns.device) * shape[-2] // math.prod(shape))
    # A limit such as that of a rate of 1/2 does not ask for the lowest 17 bits.
    every_bit = isinstance(below, Tensor) or below % 2**17 != 0
    blocks = []
    for i in range(0, height, rows):
        z = mixed(columns + k0[..., i : i + rows, :], every_bit)
        z ^= k1[..., i : i + rows, :]
        # Compared as signed numbers, whose order is that of unsigned ones with flipped highest bits.
        if isinstance(below, Tensor):
            blocks.append(_at_most(z, below[i : i + rows]))
        else:
            blocks.append(z <= below - 1 - _SIGN)
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-2)


def _at_most(z, below):
    """Says where a hash with its highest bit flipped is below a limit of 0 to 2**32, int64."""
    return (z <= (below - 1 - _SIGN).clamp(min=-_SIGN).to(torch.int32)) & (below > 0)
