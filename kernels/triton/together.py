"""All launches of a step in one call into C, where each costs Python microseconds and C a tenth of one.

The library is together.cpp, compiled on first use (below a second) and kept beside that of the C++ kernel: Triton wants
a compiler on a GPU's machine too. Where there is none, and on AMD's GPUs, launches are made one by one (launch.py).
"""

import ctypes
import platform
import struct
import sys
from collections.abc import Callable
from ctypes import c_int32, c_uint64, c_void_p
from functools import cache
from pathlib import Path

import torch

from ..cpu import build, compiler

_SOURCE = Path(__file__).with_name("together.cpp")
_OPTIONS = ["-std=c++2a", "-O2", "-fPIC", "-shared", "-fvisibility=default"]
_LAUNCH, _CHANGE = "Qii5I4x", "ii"  # `Launch` and `Change` of together.cpp
_MOST_ARGUMENTS = 62  # and two more of Triton's own
_MOST_SHARED = 227 << 10  # bytes that a launch may have without an attribute


class _Step(ctypes.Structure):
    """`Step` of together.cpp."""

    _fields_ = [
        *((name, c_void_p) for name in ("launcher", "stream", "launches", "changes", "values")),
        *((name, c_int32) for name in ("launch_count", "change_count", "failed")),
    ]


@cache
def library() -> Callable | None:
    """Loads `nca_fast_launch` of together.cpp; None where it cannot be compiled."""
    facts = sys.byteorder, platform.machine(), *platform.libc_ver(), *compiler.command(), *_OPTIONS
    name = f"launch_{compiler.digest(chr(0).join((*facts, _SOURCE.read_text())).encode())}"
    try:
        folder = build.cache_folder()
        path = compiler.find(folder, name) or compiler.compile_library(_OPTIONS, [], folder, name, _SOURCE)
        function = ctypes.CDLL(str(path)).nca_fast_launch
    except (OSError, RuntimeError, AttributeError, compiler.CompilerError):
        return None
    function.argtypes, function.restype = [c_void_p, c_void_p], c_int32
    return function if sys.byteorder == "little" else None


@cache
def driver() -> tuple[int, Callable[[int], str]] | None:
    """Finds the address of cuLaunchKernel, and what says in words what a status means; None where there is no CUDA."""
    if torch.version.hip is not None:
        return None
    try:
        binary = ctypes.CDLL("libcuda.so.1")
        address = ctypes.cast(binary.cuLaunchKernel, c_void_p).value
    except (OSError, AttributeError):
        return None

    def words(status):
        text = ctypes.c_char_p()
        binary.cuGetErrorString(status, ctypes.byref(text))
        return (text.value or b"an unknown error").decode()

    return address, words


def available() -> bool:
    """Says whether launches can be made from C here."""
    return driver() is not None and library() is not None


def passed_arguments(compiled) -> list[int] | None:
    """Lists which of a launch's arguments and constants a compiled kernel takes; None where it takes, or wants, what
    is not handled here: numbers that are not integers, descriptors, clusters, memory of Triton's own."""
    facts, types = compiled.metadata, list(compiled.src.signature.values())
    passed = [at for at, kind in enumerate(types) if kind != "constexpr"]
    plain = all(isinstance(types[at], str) and types[at][0] in "*iu" for at in passed)
    alone = facts.num_ctas == 1 and facts.target.backend == "cuda" and facts.shared <= _MOST_SHARED
    wants = (
        "launch_cooperative_grid",
        "launch_pdl",
        "global_scratch_size",
        "profile_scratch_size",
        "tensordesc_meta",
        "instrumentation_mode",
    )
    known = not any(getattr(facts, name, None) for name in wants)
    return passed if plain and alone and known and len(passed) <= _MOST_ARGUMENTS else None


def _changes(pairs):
    """Writes (which value, which address) as together.cpp reads it."""
    return struct.pack("@" + _CHANGE * len(pairs), *(number for pair in pairs for number in pair))


class Layout:
    """The launches of a step as together.cpp reads them, without addresses.

    Args:
        launches: For each one its name, function, grid, threads of a block, shared memory in bytes, arguments (integers
            and addresses), and changes: (which argument, which of the addresses).
        count: Of the addresses that change from step to step, the first; the others are given once for a rollout.
    """

    def __init__(self, launches, count: int):
        self.names, values, records, changes = [name for name, *_ in launches], [], [], []
        for _, function, grid, threads, shared, arguments, of_launch in launches:
            first = len(values)
            # Triton's kernels take two addresses more, of scratch memory, which those here do not want.
            values += [v & (2**64 - 1) for v in arguments] + [0, 0]
            records += [function, first, len(values) - first, *grid, threads, shared]
            changes += [(first + at, address) for at, address in of_launch]
        self.size, self.values = len(values), struct.pack(f"@{len(values)}Q", *values)
        self.launches = struct.pack("@" + _LAUNCH * len(launches), *records)
        of_step, fixed = [c for c in changes if c[1] < count], [(at, n - count) for at, n in changes if n >= count]
        self.of_step, self.fixed = _changes(of_step), _changes(fixed)
        self.counts = len(launches), len(of_step), len(fixed)
        # Their memory stays where it is as long as they live.
        texts = self.launches, self.of_step, self.fixed
        self.at = [ctypes.cast(text, c_void_p).value for text in texts]
        self.packed = struct.Struct(f"@{count}Q").pack


class Together:
    """The launches of a step of one rollout, made by one call.

    Args:
        layout: Of the launches.
        stream: On which they are launched.
        fixed: The addresses that stay the same.
        kept: What must stay alive.
    """

    def __init__(self, layout: Layout, stream: int, fixed: list[int], kept):
        self.layout, self.kept, self.function = layout, kept, library()
        self.values = (c_uint64 * layout.size).from_buffer_copy(layout.values)
        self.launcher, self.words = driver()
        launches, of_step, of_rollout = layout.at
        launch_count, step_count, rollout_count = layout.counts
        values = ctypes.addressof(self.values)
        put = _Step(self.launcher, stream, launches, of_rollout, values, 0, rollout_count)
        self.function(ctypes.addressof(put), struct.pack(f"@{len(fixed)}Q", *fixed))
        self.step = _Step(self.launcher, stream, launches, of_step, values, launch_count, step_count)
        self.at, self.packed = ctypes.addressof(self.step), layout.packed

    def __call__(self, addresses: list[int]) -> None:
        """Launches on these addresses.

        Raises:
            RuntimeError: the driver refused a launch; with the kernel's name.
        """
        status = self.function(self.at, self.packed(*addresses))
        if status:
            name = self.layout.names[self.step.failed]
            raise RuntimeError(f"the kernel {name} was not launched: {self.words(status)} (status {status}).")
