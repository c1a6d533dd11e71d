"""How a step of the single pass is cut into programs: by the registers, and by what the GPU runs at once.

Registers decide the columns of a program, its warps and what one backward launch computes (see bench/triton_table.py);
the multiprocessors decide its rows.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton

from ..weights import PackedWeights

WARPS = 4  # of a program
# Columns of one program: as many as the registers hold. Of its columns the backward kernel writes all but two where it
# computes grad_x, unless they are a ring.
COLUMNS = {"fp32": 16, "tf32": 64, "fp16": 64, "bf16": 64}
# A ring of twice as many columns, for products of 16 bits in one launch: warps, and whether profiles are carried down,
# by the first number of the compute capability. On other cards it spills.
_WIDE_RING = {9: (8, True)}
# Whether the launch for grad_x alone loads the profiles of two rows again, in place of carrying them down, because it
# would spill more: for rules of up to 12 channels, and of more.
_RELOADS = {(8, 0): (False, True), (8, 6): (True, True), (8, 9): (True, True), (12, 0): (True, True)}
# Largest chunk of hidden units in that launch, where it is not 64 because it would spill: likewise.
_CHUNKS = {(12, 0): (32, 16)}
# Where a program stays in one strip, because a loop around the loop over rows would spill: cards before Hopper (and
# products of float32 everywhere).
_ONE_STRIP = (8,)

# Packed weights of two hidden layers beyond which four warps spill on AMD's GPUs and on the data centre's Blackwell,
# but two, which the latter's older matrix instructions serve, do not.
_MOST_WEIGHTS = 24 << 10

_PROGRAMS = 1024  # of a forward step, if there are rows enough: several per multiprocessor of any GPU
# KiB of shared memory of a backward program, at most.
SHARED_KIB = {"fp32": 48, "tf32": 81, "fp16": 48, "bf16": 48}
_INTERPRETED_PLACES = 6
_MOST_WAVES = 4  # of programs for one sample each, of which there may be more than the GPU runs at once


class Tile(NamedTuple):
    """Columns and rows of one forward program, its warps, and whether it carries profiles, see `step_fwd`."""

    columns: int
    rows: int
    warps: int = WARPS
    CARRIED: bool = True


class Pass(NamedTuple):
    """What one launch of the backward kernel computes, see `step_bwd`; its warps, columns, units of a chunk, and
    whether it saves registers that hold addresses."""

    GRAD_X: bool
    GRAD_W1: bool
    GRAD_W: bool
    CARRIED: bool
    warps: int = WARPS
    columns: int = 0  # as many as usual
    RING: bool = False
    chunk: int = 64
    NARROW: bool = False

    @property
    def written(self) -> int:
        """Columns of a strip: those of a program without its halo."""
        return self.columns - 2 * (self.GRAD_X and not self.RING)


# Launches of the first layer's sums where those of both layers would spill, for rules of more than 12 channels.
_APART = {
    (8, 6): Pass(False, True, False, True, NARROW=True),
    (8, 9): Pass(False, True, False, True, NARROW=True),
    (12, 0): Pass(False, True, False, False, chunk=32),
}


class Bands(NamedTuple):
    """How the bands of all strips are dealt out, see `step_bwd`."""

    rows: int
    bands: int
    programs: int
    several: bool


def capability(device: torch.device) -> tuple[int, int] | None:
    """Returns the compute capability of an NVIDIA GPU; None of anything else."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    return torch.cuda.get_device_capability(device)


def weights_in_registers(device: torch.device) -> bool:
    """Says whether it is an NVIDIA GPU whose matrix units take weights from registers, of which fewer are left.

    Those of Hopper (9) and of the data centre's Blackwell (10, 11) take them from shared memory; consumer cards of
    Blackwell (12) are as Ampere was.
    """
    found = capability(device)
    return found is not None and found[0] not in (9, 10, 11)


def forward_tile(weights: PackedWeights, B: int, H: int, W: int) -> Tile:
    """Chooses a forward program: one that does it without spilling."""
    constants, device = weights.packing.constants, weights.matrices.device
    columns, warps, carried = COLUMNS[weights.precision], WARPS, True
    if constants["HIDDEN2"] and weights.matrices.element_size() == 2:
        found, packed = capability(device), weights.matrices.shape[-1]
        if (found is None or found[0] == 10) and packed > _MOST_WEIGHTS:
            columns, warps, carried = columns // 2, WARPS // 2, found is None
        carried = carried and not weights_in_registers(device)
    rows = triton.cdiv(B * H * triton.cdiv(W, columns), _PROGRAMS)
    rows = max(4, min(32, -(-rows // 2) * 2))  # even, because the loop takes two rows at once
    return Tile(columns, rows, warps, carried)


def passes(weights: PackedWeights, per_cell: bool, W: int, framed: bool = False) -> tuple[Pass, ...]:
    """Lists the launches of one backward step: as few as do it without spilling.

    Args:
        per_cell: Whether the fire rate is a map.
        W: Columns of the canvas.
        framed: Whether there are frames.
    """
    found = capability(weights.matrices.device)
    columns, circular = COLUMNS[weights.precision], weights.packing.constants["PADDING"] == "circular"
    if framed and weights.matrices.element_size() == 2:
        launches = _launches_of_frames(found, per_cell)
    else:
        launches = _launches(weights, per_cell, found, W if circular and W in (columns, 2 * columns) else 0)
    if circular and 2 * columns == W and len(launches) == 1 and found and found[0] in _WIDE_RING:
        warps, carried = _WIDE_RING[found[0]]
        return (launches[0]._replace(columns=W, RING=True, CARRIED=carried, warps=warps),)
    if found and found[0] == 10 and len(launches) == 1 and not (circular and columns == W):
        launches = (launches[0]._replace(columns=32, CARRIED=True),)  # 64 spill, but not as a ring
    launches = tuple(p._replace(columns=p.columns or columns) for p in launches)
    return tuple(p._replace(RING=circular and p.columns == W and p.GRAD_X) for p in launches)


def _launches(weights, per_cell, found, ring):
    constants = weights.packing.constants
    few_sums = constants["UNITS1"] * (sum(constants["INPUTS"][1::2]) + constants["OUTPUTS"][1]) <= 96 * 80
    few_channels = constants["C"] <= 12 and not constants["BIAS1"] and not per_cell
    if weights.precision == "fp32":
        warps = WARPS if found is None else 8  # AMD's units of four warps hold more registers than those of eight
        return Pass(True, False, False, True), Pass(False, True, False, False, warps), Pass(False, False, True, False)
    blackwell = found is not None and found[0] == 10  # of data centres
    if weights.precision == "tf32":
        warps, columns = (2, 32) if blackwell else (WARPS, 0)
        return Pass(True, False, False, False, warps, columns), Pass(False, True, True, False)
    if few_sums and few_channels:
        return _launches_of_few(found, ring)
    if few_sums and constants["C"] > 12:
        columns, warps = (32, 2) if found == (8, 0) else (0, WARPS)
        return (
            Pass(True, False, False, not blackwell, warps, columns),
            Pass(False, True, False, True, columns=columns),
            Pass(False, False, True, True),
        )
    carried = not _RELOADS.get(found, (False, False))[constants["C"] > 12]
    grad_x = Pass(True, False, False, carried, chunk=_CHUNKS.get(found, (64, 64))[constants["C"] > 12])
    if constants["C"] > 12 and found in _APART:
        return grad_x, _APART[found], Pass(False, False, True, True, NARROW=True)
    if found == (12, 0):
        return grad_x, Pass(False, True, True, True, columns=32)
    return grad_x, Pass(False, True, True, carried and few_sums or blackwell)


def _launches_of_few(found, ring):
    """Lists the launches where there are few channels and sums; ring: the columns of a torus of 64 or 128, or 0."""
    architecture, wide = found[0] if found else None, ring == 128
    grad_x, weights = Pass(True, False, False, True, NARROW=True), Pass(False, True, True, True, NARROW=True)
    if architecture == 12:
        if wide:
            return grad_x._replace(columns=ring, warps=8, NARROW=False), weights._replace(columns=32, NARROW=False)
        return Pass(True, False, True, False, NARROW=True), Pass(False, True, False, True)
    if architecture == 8 and wide:
        return grad_x._replace(columns=ring, warps=8), weights
    if architecture == 8 and found != (8, 0):
        return (Pass(True, True, True, True),) if ring else (grad_x, weights)
    if architecture == 10 and wide:
        return grad_x._replace(columns=ring, chunk=32), weights._replace(NARROW=False)
    return (Pass(True, True, True, False, NARROW=architecture == 8),)


def _launches_of_frames(found, per_cell):
    """Lists the launches with frames, for the rules that come here with them (`limits.through_memory`)."""
    architecture = found[0] if found else None
    grad_x, weights = Pass(True, False, False, True, NARROW=True), Pass(False, True, True, True)
    if architecture == 12:
        return grad_x._replace(CARRIED=not per_cell), weights._replace(columns=32)
    return grad_x, weights._replace(NARROW=architecture == 8 and found != (8, 0))


def places(device: torch.device, precision: str, launch: Pass) -> int:
    """Counts the backward programs of a launch that a device runs at once."""
    if device.type != "cuda":
        return _INTERPRETED_PLACES
    facts = torch.cuda.get_device_properties(device)
    by_shared_memory = facts.shared_memory_per_block_optin // (SHARED_KIB[precision] << 10)
    return facts.multi_processor_count * max(1, min(resident(launch, torch.version.hip), by_shared_memory))


def resident(launch: Pass, hip: str | None) -> int:
    """Counts the programs of a launch whose registers a multiprocessor holds.

    Eight warps on NVIDIA, four on AMD's compute unit; and on both no more columns than two programs of 64 have, because
    more programs of fewer rows compute more rows at their ends.
    """
    return max(1, (4 if hip else 8) // max(launch.warps, launch.columns // 16))


@lru_cache(maxsize=512)
def deal(rules: int, strips: int, H: int, at_once: int, several: bool) -> Bands:
    """Deals the rows of strips out to programs so that the last one is done soonest.

    A program computes its rows, and two more for each strip that it touches. Where it may touch several, the programs
    of one rule all run at once; else there are a few waves of them, of which the last is no handful.

    Args:
        rules: Of which each has programs of its own: 1, or as many as samples.
        strips: Of the samples of one rule.
        H: Rows of a strip.
        at_once: Programs that run at once.
        several: Whether a program may go on with the next strip.
    """
    found = []
    for waves in range(1, 2 if several and rules == 1 else _MOST_WAVES + 1):
        most = max(1, waves * at_once // rules)
        heights = {-(-H // down) for down in range(1, min(H, most if several else max(1, most // strips)) + 1)}
        for rows in sorted(heights | {1} if several else heights):
            bands_down = -(-H // rows)
            bands = -(-strips * bands_down // most) if several else 1
            programs, touched = -(-strips * bands_down // bands), _touched(bands, bands_down)
            time = min(bands * rows, touched * H) + 2 * touched
            whole = -(-rules * programs // at_once) * time
            found.append((whole, programs, Bands(rows, bands, programs, touched > 1)))
    return min(found)[-1]


def _touched(bands, bands_down):
    """Counts the strips of a program, at most; programs begin at multiples of their bands."""
    if bands_down % bands == 0:
        return 1
    return bands // bands_down if bands % bands_down == 0 else (bands - 2) // bands_down + 2


def backward_plan(weights: PackedWeights, B: int, H: int, W: int, per_cell: bool, framed: bool = False):
    """Plans one backward step.

    Returns:
        [(pass, how its bands are dealt out)], and how many partial sums of weight gradients there are: the same with a
        fire rate map (per_cell) and without, one per program, rule after rule.
    """
    device, rules = weights.matrices.device, B if weights.per_sample else 1
    found = capability(device)
    several = weights.matrices.element_size() == 2 and (found is None or found[0] not in _ONE_STRIP)
    dealt = {}
    for kind in (False, True):
        dealt[kind] = [
            (p, deal(rules, B // rules * -(-W // p.written), H, places(device, weights.precision, p), several))
            for p in passes(weights, kind, W, framed)
        ]
    sums = max(bands.programs for kind in dealt.values() for _, bands in kind)
    if rules > 1:  # each has as many programs as sums, some of them without a band
        dealt[per_cell] = [
            (p, bands._replace(programs=sums, several=bands.several or bands.programs < sums))
            for p, bands in dealt[per_cell]
        ]
    return dealt[per_cell], sums * rules
