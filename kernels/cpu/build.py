"""Finds the library of the C++ kernel: prebuilt, from the wheel, or compiled for this machine on first use and kept.

A wheel holds libraries for common instruction sets, which need PyTorch 2.10 or later. In a checkout, with an older
PyTorch or on another CPU, rollout.cpp is compiled by the system's compiler (seconds). The cache is one folder per user;
a library's name holds everything that it depends on and its own digest, so one that was cut short, or is another, is
never loaded. A compilation that failed is not tried again for an hour, unless it was for want of memory or disk.
"""

import os
import platform
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from . import compiler
from .library import Library, torch_threads

PREBUILT = compiler.FOLDER / "prebuilt"
_RETRY_SECONDS = 3600
_failed: dict[Path, str] = {}  # what this process compiled in vain, and why, by the file that tells of it
_refused: set[Path] = set()  # prebuilt libraries that this system does not load
_loaded_ones: list[Library] = []


class Status(NamedTuple):
    """Which library serves this process, or would.

    Args:
        source: "prebuilt" came with the wheel; "compiled" lies in the cache; "not compiled yet" will be compiled at the
            first call; "none" there can be no library, and stock convolutions serve.
        isa: Instruction set as the compiler's -march names it.
        library: The file; None where it is not there yet, or cannot be.
        cache: The folder of compiled kernels; None where there is no place for one.
        compiler: The command that compiles, in words; $CXX or c++.
        reason: Why there is no library, in a sentence; None unless source is "none".
    """

    source: Literal["prebuilt", "compiled", "not compiled yet", "none"]
    isa: str
    library: Path | None
    cache: Path | None
    compiler: tuple[str, ...]
    reason: str | None = None


class _Plan(NamedTuple):
    """What is compiled on first use: the name of the library in the cache, and the compiler's options."""

    name: str
    options: list[str]
    links: list[str]

    @property
    def failure(self):
        """The file that tells of a compilation that failed; a compiler that was mended since has another."""
        return cache_folder() / f"{self.name}_{compiler.digest(chr(0).join(compiler.identity()).encode())}.failed"


def cache_folder() -> Path:
    """Gives the folder of compiled kernels: $XDG_CACHE_HOME/nca_fast, by default ~/.cache/nca_fast.

    Raises:
        RuntimeError: this user has no home.
    """
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "nca_fast"
    try:
        return Path.home() / ".cache" / "nca_fast"
    except RuntimeError as error:
        raise RuntimeError(
            "compiled C++ kernels have no place, for this user has no home: set XDG_CACHE_HOME to a folder."
        ) from error


def status(isa: str | None = None) -> Status:
    """Finds out what `load` would load, without compiling or loading a library; takes milliseconds."""
    words = tuple(compiler.command())
    try:
        folder, reason = cache_folder(), None
    except RuntimeError as error:
        folder, reason = None, str(error)
    variant, library = _prebuilt(isa)
    if library is not None:
        return Status("prebuilt", variant, library, folder, words)
    isa = _named(isa) or "native"
    if reason is None:
        plan = _plan(isa)
        if library := compiler.find(folder, plan.name):
            return Status("compiled", isa, library, folder, words)
        reason = _refusal(plan)
    return Status("none" if reason else "not compiled yet", isa, None, folder, words, reason)


@cache
def load(isa: str | None = None) -> Library:
    """Loads the library, compiled first if there is none for this machine yet.

    Args:
        isa: Instruction set as the compiler's -march names it ("haswell", "x86-64"); "native" is this machine's, always
            compiled here. None is what the environment variable NCA_FAST_ISA says, by default the best of the prebuilt
            ones, and "native" where there is none. (CPUs of different kinds compute the same bits with the same one, as
            torch does with ATEN_CPU_CAPABILITY.)

    Raises:
        RuntimeError: there is no library and no compiler, or it failed, or the cache cannot be used; in a sentence.
        MemoryError: this process has no room for the library.
    """
    _, library = _prebuilt(isa)
    if library is not None:
        try:
            return _loaded(library)
        except OSError:  # made for a newer system, say; what is compiled here may work
            _refused.add(library)
    plan = _plan(_named(isa) or "native")
    library = compiler.find(cache_folder(), plan.name)
    if library is not None:
        try:
            return _loaded(library)
        except OSError as error:
            if _refusal(plan):
                raise RuntimeError(_not_loaded(error)) from error
            with suppress(OSError):
                library.unlink()  # it would be found again
    if reason := _refusal(plan):
        raise RuntimeError(reason)
    return _compile(plan)


def loaded() -> Library | None:
    """Gives the last library that this process loaded; None where there was none yet, for who can do without."""
    return _loaded_ones[-1] if _loaded_ones else None


def _loaded(library):
    """Loads a library.

    Raises:
        OSError: the system does not.
        MemoryError: this process has no room for it.
    """
    try:
        _loaded_ones.append(Library(library, torch_threads()))
        return _loaded_ones[-1]
    except OSError as error:
        if compiler.short_of_memory(library):
            raise MemoryError(f"no memory for the compiled C++ kernel {library}: {error}") from error
        raise


def _named(isa):
    return isa or os.environ.get("NCA_FAST_ISA") or None


def _prebuilt(isa):
    """Finds the (instruction set, library) of the wheel that serves here; the library None where there is none."""
    isa = _named(isa) or compiler.best_variant()
    if isa is None or not PREBUILT.is_dir() or torch_threads() is None:
        return isa, None
    library = compiler.find(PREBUILT, isa)
    return isa, None if library in _refused else library


def _plan(isa):
    options, links = compiler.flags(isa), []
    known = []
    if torch_threads() is None:
        torch_folder = Path(torch.__file__).parent
        options += ["-DNCA_FAST_ATEN", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
        options += [f"-I{torch_folder / 'include'}"]
        # Apple's compiler has no OpenMP of its own: one thread.
        options += [] if sys.platform == "darwin" else ["-fopenmp"]
        links = [f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
        known = [torch.__version__]
    cpu = [f"{key}: {value}" for key, value in compiler.cpu().items()] or [platform.processor(), platform.machine()]
    # A home may be shared by systems with different C libraries.
    known += [sys.platform, *platform.libc_ver(), *cpu, *compiler.command(), *options, *compiler.sources()]
    return _Plan(f"rollout_{compiler.digest(chr(0).join(known).encode())}", options, links)


def _refusal(plan):
    """Says why nothing can be compiled, as far as can be told before; or None.

    A compilation that failed is not tried again in this process, and in others for an hour.
    """
    if reason := compiler.missing() or _failed.get(plan.failure):
        return reason
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    if hasattr(os, "ST_NOEXEC") and os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return _not_loaded("its file system is mounted noexec")
    try:
        # Of a time to come where the clock was set back: then it is tried again.
        if 0 <= time.time() - plan.failure.stat().st_mtime < _RETRY_SECONDS:
            return plan.failure.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        pass  # there is no such file
    return None


def _not_loaded(why):
    return (
        f"this system does not load the compiled C++ kernel from {cache_folder()} ({why}): set XDG_CACHE_HOME to a "
        "folder from which programs may run."
    )


def _compile(plan):
    try:
        library = compiler.compile_library(plan.options, plan.links, cache_folder(), plan.name)
    except OSError as error:
        _failed[plan.failure] = (
            f"the compiled C++ kernel cannot be kept in {cache_folder()} ({error}): set XDG_CACHE_HOME to a folder "
            "that can be written."
        )
        raise RuntimeError(_failed[plan.failure]) from error
    except compiler.CompilerError as error:
        words, passing = str(error), error.passing
        reason = f"the C++ kernel did not compile ({_complaint(words)}): {_remedy(plan, passing)}"
    else:
        try:
            return _loaded(library)
        except OSError as error:
            library.unlink(missing_ok=True)
            words, passing, reason = str(error), False, _not_loaded(error)
    _failed[plan.failure] = reason
    if not passing:
        with suppress(OSError):
            plan.failure.write_text(f"{reason}\n{words}\n", encoding="utf-8", errors="replace")
    raise RuntimeError(reason)


def _remedy(plan, passing):
    if passing:
        return "the next process tries again."
    return (
        f"all that the compiler said is in {plan.failure}; remove that file to try again, which is else done after an "
        "hour."
    )


def _complaint(words):
    """The line of a compiler's words that says most: its first error, or the last line."""
    lines = [line.strip() for line in words.splitlines()[1:] if line.strip()]
    return next((line for line in lines if "error" in line.lower()), (lines or ["without a word"])[-1])[:200]
