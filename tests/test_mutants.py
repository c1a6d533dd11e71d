"""The lists of mistakes that bench/mutants.py plants name lines that are there."""

from pathlib import Path

from bench.mutants import MUTANTS
from bench.mutants_frames import FRAME_MUTANTS
from bench.mutants_triton import FIELD_MUTANTS, GUARD_MUTANTS, LAUNCH_MUTANTS, MEMORY_MUTANTS
from bench.mutants_triton import MUTANTS as SINGLE_PASS_MUTANTS
from bench.traps import MISTAKES, TRAPS

KERNELS = Path(__file__).parents[1] / "kernels"


def test_every_mutant_has_a_place():
    traps = [mutant for _, *mutant, _ in MISTAKES]
    mutants = [*traps, *MUTANTS, *SINGLE_PASS_MUTANTS, *MEMORY_MUTANTS, *FIELD_MUTANTS, *GUARD_MUTANTS, *LAUNCH_MUTANTS]
    mutants += FRAME_MUTANTS
    missing = [(file, old) for file, old, _ in mutants if old not in (KERNELS / file).read_text()]
    assert len(mutants) > 130 and not missing
    assert all(old != new for _, old, new in mutants)


def test_every_trap_has_a_mutant():
    assert {trap for trap, *_ in MISTAKES} == set(TRAPS) == set(range(1, 17))
