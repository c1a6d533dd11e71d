"""Compiles rollout.cpp: the command, the instruction sets, and a file that tells whether it is whole.

Imports nothing but Python's own: setup.py, too, compiles with it, in an environment without torch.
"""

import errno
import hashlib
import itertools
import mmap
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

FOLDER = Path(__file__).parent

_SCRATCH = "compiling-"  # what the folder is called in which a library is made
_STALE = 3600  # seconds after which such a folder is one that a killed process left
# What a compiler says when this process, or this moment, leaves it too little of something.
_SHORT = tuple(map(os.strerror, (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EAGAIN, errno.EMFILE, errno.ENFILE)))
_SHORT += ("out of memory", "memory exhausted", "quota exceeded", "signal terminated program")

_HASWELL = ("avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
# Instruction sets that wheels are built for, best first, by the name of the compiler's -march; and the flags by which
# /proc/cpuinfo says that a CPU has what compilers take from them.
_VARIANTS = {
    "x86_64": {
        "skylake-avx512": (*_HASWELL, "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"),
        "haswell": _HASWELL,
        "x86-64": (),
    },
    "aarch64": {"armv8-a": ()},
}
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def variants() -> dict[str, tuple[str, ...]]:
    """Gives the instruction sets of a wheel for this machine and the CPU flags of each, best first; {} elsewhere."""
    machine = platform.machine().lower()
    return _VARIANTS.get(_MACHINES.get(machine, machine), {})


def command() -> list[str]:
    """Gives the compiler as the words of a command: $CXX, which may have several, or c++."""
    words = os.environ.get("CXX", "")
    try:
        return shlex.split(words, posix=os.name != "nt") or ["c++"]  # Windows' paths have backslashes
    except ValueError:  # a quotation without an end
        return [words]


def identity() -> list[str]:
    """Tells this compiler from another of the same name, or a new version: paths, sizes and times of its programs."""
    found = [Path(path).resolve() for path in map(shutil.which, command()) if path]
    return [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in found]


def missing() -> str | None:
    """Says that there is no compiler, and the remedy; or None."""
    name = command()[0]
    if shutil.which(name):
        return None
    how = {"darwin": "`xcode-select --install`", "win32": "MinGW's g++, or work in WSL"}
    remedy = how.get(sys.platform, "`apt install g++`")
    return (
        f"the C++ kernel needs a compiler, but there is no {name!r} on this machine: install one (for example "
        f"{remedy}), or set CXX."
    )


def flags(isa: str) -> list[str]:
    """Lists the options of the compiler for an instruction set, as -march names it, or "native"."""
    arm = variants().keys() == _VARIANTS["aarch64"].keys()
    machine = "-mcpu=native" if isa == "native" and arm else f"-march={isa}"
    # c++2a is what GCC 8 and 9 call C++20. Hidden, because libraries for two instruction sets have the same functions.
    return ["-std=c++2a", "-O3", machine, "-fPIC", "-shared", "-fvisibility=hidden"]


def sources() -> list[str]:
    """Reads names and texts of all that may be compiled or included: found by glob, so that none can be forgotten."""
    return [text for path in sorted(FOLDER.glob("*.[ch]*")) for text in (path.name, path.read_text())]


def digest(text: bytes) -> str:
    """Gives 20 hexadecimal digits of SHA-256."""
    return hashlib.sha256(text).hexdigest()[:20]


def find(folder: Path, name: str) -> Path | None:
    """Finds the library NAME_DIGEST.so that has its digest; one that is empty, cut short or another is none."""
    return next(filter(_is_whole, sorted(folder.glob(f"{name}_*.so"))), None)


def _is_whole(library):
    try:
        return library.stem.endswith("_" + digest(library.read_bytes()))
    except OSError:
        return False  # another process has just removed it, or it cannot be read


class CompilerError(Exception):
    """The compiler failed: its command, and all that it said.

    Args:
        words: All of that.
        passing: Whether it was ended, or had too little memory or disk: another time it may succeed.
    """

    def __init__(self, words: str, passing: bool):
        super().__init__(words)
        self.passing = passing


def compile_library(
    options: list[str], links: list[str], folder: Path, name: str, source: Path = FOLDER / "rollout.cpp"
) -> Path:
    """Compiles a source into folder/NAME_DIGEST.so, which appears there whole and on the disk, or not at all.

    Args:
        options: Of the compiler, before the source; see `flags`.
        links: Of the compiler, after it.
        folder: Made if need be.
        name: Libraries of this name that are not whole are removed.
        source: The kernel, or another file.

    Raises:
        OSError: the folder cannot be written.
        CompilerError: the compiler failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_SCRATCH}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder, ignore_cleanup_errors=True) as scratch:
        built = Path(scratch) / "library.so"
        words = [*command(), *options, str(source), "-o", str(built), *links]
        # Messages that can be searched for, and its own files where they are removed with the rest.
        status, said = _run(words, os.environ | {"LC_ALL": "C", "TMPDIR": scratch})
        if status or not built.exists():
            passing = status < 0 or any(sign in said for sign in _SHORT)
            raise CompilerError(f"{shlex.join(words)}\n{said}", passing)
        with built.open("rb+") as file:
            final = folder / f"{name}_{digest(file.read())}.so"
            os.fsync(file.fileno())
        os.replace(built, final)
    for damaged in itertools.filterfalse(_is_whole, folder.glob(f"{name}_*.so")):
        damaged.unlink(missing_ok=True)
    return final


def _run(words: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Runs a compiler; what interrupts this process ends that and all that it started. Returns status and words."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    how = {"env": environment, "start_new_session": True, **pipes}
    with ThreadPoolExecutor(1) as apart:  # an exception in the midst of Popen would lose what is started
        starting = apart.submit(subprocess.Popen, words, **how)
        try:
            process = starting.result()
            out, said = process.communicate()
        except BaseException:
            with suppress(OSError), starting.result() as process:
                os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
            raise
    return process.returncode, said or out


def short_of_memory(library: Path) -> bool:
    """Whether this process would not get the memory that a library takes: why it could not be loaded."""
    try:
        mmap.mmap(-1, library.stat().st_size + 2**24).close()  # all that is mapped of it, and its own variables
    except OSError as error:
        return error.errno == errno.ENOMEM
    return False


def cpu() -> dict[str, str]:
    """Reads model and features of this CPU, as Linux names them; {} elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {key: facts[key] for key in ("model name", "flags", "Features", "CPU part") if key in facts}


def best_variant() -> str | None:
    """Names the best of `variants` that this CPU can run; None where there is none, or where that is not known."""
    has = set(cpu().get("flags", "").split())
    for isa, needs in variants().items():
        if has.issuperset(needs) and (has or len(variants()) == 1):
            return isa
    return None
