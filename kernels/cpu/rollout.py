"""Builds rollout_cpu.cpp for this machine on first use (seconds, then cached) and runs its functions.

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
from typing import NamedTuple

import torch
from torch import Tensor

_NAMES = (
    "rollout.cpp",
    "backward.h",
    "forward.h",
    "alive.h",
    "canvas.h",
    "bits.h",
    "filters.h",
    "network.h",
    "simd.h",
)
_SOURCES = tuple(Path(__file__).with_name(name) for name in _NAMES)
# Steps of one call into C++ are limited to about this many cell-steps, a second or two, so that Ctrl-C is heard.
_CELL_STEPS_PER_CALL = 50_000_000


def cache_folder() -> Path:
    """Where compiled kernels are kept: $XDG_CACHE_HOME/nca_fast, by default ~/.cache/nca_fast."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nca_fast"


def _cpu_model():
    """What -march=native depends on: the model and its features, as the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))
    except OSError:
        return platform.processor() + platform.machine()


def _flags(isa):
    if isa != "native":
        return [f"-march={isa}"]
    return ["-mcpu=native"] if platform.machine() in ("aarch64", "arm64") else ["-march=native"]


@cache
def load(isa: str | None = None):
    """The compiled operators `pack`, `advance` and `retreat`, built first if this machine has not got them yet.

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
    known = [torch.__version__, sys.platform, _cpu_model(), compiler, *flags, *(s.read_text() for s in _SOURCES)]
    library = cache_folder() / f"rollout_{hashlib.sha256(chr(0).join(known).encode()).hexdigest()[:20]}.so"
    if not library.exists():
        if shutil.which(compiler) is None:
            raise RuntimeError(
                f"the C++ kernel needs a compiler, but there is no {compiler!r} on this machine: install one "
                "(for example `apt install g++`), or set CXX."
            )
        includes = [f"-I{path}" for path in cpp_extension.include_paths()]
        links = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch_cpu", "-lc10"]
        _compile([compiler, *flags, *includes, str(_SOURCES[0])], links, library)
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


# What Triton's kernels lay out in their own way (see rollout.py) is here as PyTorch has it.


def enter(x: Tensor) -> Tensor:
    """x as the kernels take it: as it is."""
    return x


def leave(state: Tensor, channels: int) -> Tensor:
    """What the kernels wrote, as [B, C, H, W]: as it is."""
    return state


class Prepared(NamedTuple):
    """The weights as `pack` lays them out for the network, and params itself for its shape."""

    networks: Tensor
    params: Tensor


def prepare(params: Tensor, about, precision: str) -> Prepared:
    """The weights as `advance` and `retreat` take them."""
    return Prepared(load().pack(params, _shapes(about)), params)


def gradients(weights: Prepared, x: Tensor) -> Tensor:
    """Where `retreat` adds up the gradient of params: zeros in float64."""
    return torch.zeros_like(weights.params, dtype=torch.float64)


def total(grad_params: Tensor, weights: Prepared) -> Tensor:
    """The gradient of params, in their type."""
    return grad_params.to(weights.params.dtype)


def _shapes(about):
    return [int(v) for layer in about.layers for v in layer]


def _settings(weights, fire, about, place):
    """What both operators take after the states."""
    alive = -1 if about.alive_channel is None else about.alive_channel
    rule = (about.stencils, _shapes(about), about.frozen, about.circular, about.maximum_window or 0, alive)
    return (weights.networks, fire, *rule, about.alive_threshold, *place)


def advance(x: Tensor, weights: Prepared, fire: Tensor, about, place, first_step: int, states: Tensor, every: int):
    """states[j] = x after (j + 1) * every steps.

    Args:
        x: [B, C, H, W] float32, contiguous, as all tensors here.
        weights: What `prepare` made of all layers' weights [out, in] and biases in a row [P], or of one such row per
            sample [B, P].
        fire: A cell fires when its hash is below: int64, [] or a map [H, W].
        about: What a kernel needs to know of a rule (`backends.About`).
        place: (seed as a signed integer, origin row, origin column, first sample, canvas height).
        first_step: Number of the first step.
        states: Written. [n, B, C, H, W].
        every: Steps between two states.
    """
    kernel = load()
    settings = _settings(weights, fire, about, place)
    cells = x.numel() // x.shape[1]
    # An even number, because a call that starts from states[j] must not write there in its first step.
    most = max(2, _CELL_STEPS_PER_CALL // cells // 2 * 2)
    for j in range(len(states)):
        done = 0
        while done < every:
            count = (every - done) % most or most
            kernel.advance(x, *settings, first_step + j * every + done, states[j : j + 1], count)
            x, done = states[j], done + count


def retreat(
    states: Tensor, grad: Tensor, weights: Prepared, fire: Tensor, about, place, first_step: int, grad_params: Tensor
) -> Tensor:
    """The gradient of states[0], in the memory of grad or in new memory.

    Args:
        states: Before each of some consecutive steps. [n, B, C, H, W] float32.
        grad: Gradient of the state after the last of them; overwritten. [B, C, H, W] float32.
        first_step: Number of the step taken from states[0].
        grad_params: Added to: gradient of what `prepare` was given. float64.
        The others as in `advance`.
    """
    kernel, settings, scratch = load(), _settings(weights, fire, about, place), torch.empty_like(grad)
    for n in reversed(range(len(states))):
        kernel.retreat(states[n], grad, *settings, first_step + n, scratch, grad_params)
        grad, scratch = scratch, grad
    return grad
