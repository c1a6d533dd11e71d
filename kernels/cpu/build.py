"""Compiles rollout.cpp for this machine on first use (seconds, then cached).

The C++ file is compiled by the system's compiler against the headers of the installed torch and runs on torch's own
threads. The cache is one folder per user; a library's name holds everything that it depends on, and it is moved into
place whole, so a build that was interrupted leaves nothing that a later one could trip over.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch

_FOLDER = Path(__file__).parent


class Status(NamedTuple):
    """Which library serves this process, or would.

    Args:
        source: "prebuilt" came with the wheel; "compiled" lies in the cache; "not compiled yet" will be compiled at the
            first call; "none" there can be no library, and the reference serves.
        isa: Instruction set as the compiler's -march names it.
        library: The file, also where it is not there yet; None where there can be none.
        cache: The folder of compiled kernels.
        compiler: The command that compiles, in words; $CXX or c++.
        reason: Why there is no library, in a sentence; None unless source is "none".
    """

    source: Literal["prebuilt", "compiled", "not compiled yet", "none"]
    isa: str
    library: Path | None
    cache: Path
    compiler: tuple[str, ...]
    reason: str | None = None


def cache_folder() -> Path:
    """Gives the folder of compiled kernels: $XDG_CACHE_HOME/nca_fast, by default ~/.cache/nca_fast."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nca_fast"


def _cpu_model():
    """Reads the model and the features of this CPU, on which -march=native depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))
    except OSError:
        return platform.processor() + platform.machine()


def _sources():
    """Reads names and texts of all that may be compiled or included: found by glob, so that none can be forgotten."""
    return [text for path in sorted(_FOLDER.glob("*.[ch]*")) for text in (path.name, path.read_text())]


def _flags(isa):
    if isa != "native":
        return [f"-march={isa}"]
    return ["-mcpu=native"] if platform.machine() in ("aarch64", "arm64") else ["-march=native"]


def status(isa: str | None = None) -> Status:
    """Finds out what `load` would load, without compiling or loading anything; takes milliseconds."""
    isa = isa or os.environ.get("NCA_FAST_ISA", "native")
    compiler = (os.environ.get("CXX", "c++"),)
    if shutil.which(compiler[0]) is None:
        return Status("none", isa, None, cache_folder(), compiler, f"there is no {compiler[0]!r} on this machine.")
    return Status("not compiled yet", isa, None, cache_folder(), compiler)


@cache
def load(isa: str | None = None):
    """Gives the compiled operators `pack`, `advance` and `backward`, built first if this machine has not got them yet.

    Args:
        isa: Instruction set as the compiler's -march names it ("haswell", "x86-64"); "native" is this machine's. None
            is what the environment variable NCA_FAST_ISA says, by default "native". (CPUs of different kinds compute
            the same bits with the same one, as torch does with ATEN_CPU_CAPABILITY.)

    Raises:
        RuntimeError: there is no compiler, or it failed.
    """
    from torch.utils import cpp_extension

    isa = isa or os.environ.get("NCA_FAST_ISA", "native")
    namespace = "nca_fast_cpu" if isa == "native" else "nca_fast_cpu_" + isa.replace("-", "_")
    compiler = os.environ.get("CXX", "c++")
    flags = ["-std=c++20", "-O3", *_flags(isa), "-fPIC", "-shared", "-fopenmp", f"-DNCA_FAST_NAMESPACE={namespace}"]
    # Hidden, because two libraries for two instruction sets hold functions of the same names.
    flags += ["-fvisibility=hidden", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    known = [torch.__version__, sys.platform, _cpu_model(), compiler, *flags, *_sources()]
    library = cache_folder() / f"rollout_{hashlib.sha256(chr(0).join(known).encode()).hexdigest()[:20]}.so"
    if not library.exists():
        if shutil.which(compiler) is None:
            raise RuntimeError(
                f"the C++ kernel needs a compiler, but there is no {compiler!r} on this machine: install one "
                "(for example `apt install g++`), or set CXX."
            )
        includes = [f"-I{path}" for path in cpp_extension.include_paths()]
        links = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch_cpu", "-lc10"]
        _compile([compiler, *flags, *includes, str(_FOLDER / "rollout.cpp")], links, library)
    torch.ops.load_library(str(library))
    return getattr(torch.ops, namespace)


def _compile(command, links, library):
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=library.parent)
    except OSError as error:
        raise RuntimeError(
            f"the compiled C++ kernel cannot be kept in {library.parent} ({error}): set XDG_CACHE_HOME to a folder "
            "that can be written."
        ) from error
    with folder as folder:
        built = Path(folder) / library.name
        result = subprocess.run([*command, "-o", str(built), *links], capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"the C++ kernel did not compile ({' '.join(command)}): {result.stderr[-2000:]}")
        os.replace(built, library)
