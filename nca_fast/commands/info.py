"""What there is on this machine: what a report of a bug should hold."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch

import nca_fast
from nca_fast import backends, control_groups, devices
from nca_fast.canvas.memory import free_memory
from nca_fast.commands import streams
from nca_fast.commands.ending import finish
from nca_fast.features.torchvision_compat import import_torchvision
from nca_fast.kernels.cpu import build
from nca_fast.presets import PRESETS
from nca_fast.sizes import in_words

# What is imported by name -> how it is called when it is installed, and what for, where one can do without it.
PACKAGES = {
    "numpy": ("numpy", None),
    "PIL": ("pillow", None),
    "tyro": ("tyro", None),
    "tqdm": ("tqdm", None),
    "safetensors": ("safetensors", None),
    "huggingface_hub": ("huggingface_hub", None),
    "tifffile": ("tifffile", None),
    "imageio_ffmpeg": ("imageio-ffmpeg", None),
    "torchvision": ("torchvision", None),
    "open_clip": ("open_clip_torch", None),
    "skimage": ("scikit-image", "pictures such as skimage:brick, and faces"),
    "sklearn": ("scikit-learn", "the digits of nca-fast vae"),
}
VARIABLES = (
    *(
        "OMP_NUM_THREADS",
        "OMP_WAIT_POLICY",
        "GOMP_SPINCOUNT",
        "NCA_FAST_ISA",
        "ATEN_CPU_CAPABILITY",
        "CXX",
        "XDG_CACHE_HOME",
        "TRITON_CACHE_DIR",
    ),
    *("TRITON_INTERPRET", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
)


def show(as_json: bool) -> None:
    """Prints a section as soon as it is known, so that even a crash leaves those before it."""
    found = {}
    for name, probe in PROBES.items():
        with streams.waiting(f"looking at {name}"):
            found[name] = guarded(probe)
        if not as_json:
            print("\n".join(lines(name, found[name])), flush=True)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        finish((), then=["nca-fast check", "nca-fast profile"])


def guarded(probe: Callable[[], Any]) -> Any:
    """Gives what a probe finds, or a sentence on why it finds nothing."""
    try:
        return probe()
    except Exception as error:  # whatever is broken, the rest is worth knowing
        return f"cannot be told: {type(error).__name__}: {' '.join(str(error).split())}"


def lines(name: str, value: Any) -> list[str]:
    """Writes a value as lines: what a mapping holds lies below its name, two columns to the right."""
    if isinstance(value, Mapping) and value:
        return [name, *(f"  {line}" for key, inner in value.items() for line in lines(key, inner))]
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return [line for inner in value for line in lines(name, inner)]
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return [f"{name:<18} {value or 'none'}"]


def _package() -> dict[str, str]:
    folder = Path(nca_fast.__file__).parent
    facts = {"version": nca_fast.__version__, "folder": str(folder)}
    if (folder.parent / ".git").exists():
        facts["commit"] = guarded(lambda: _first_line("git", "-C", str(folder), "describe", "--always", "--dirty"))
    return facts


def _system() -> dict[str, str]:
    name = platform.processor()
    if sys.platform == "linux":
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")), name)
    return {"system": platform.platform(), "CPU": name, "Python": sys.version.split()[0]}


def _torch() -> dict[str, str]:
    built = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    built = [f"{name} {version}" for name, version in built.items() if version] or ["CPUs alone"]
    return {"version": torch.__version__, "built for": ", ".join(built)}


def _triton() -> str:
    try:
        return import_module("triton").__version__
    except ModuleNotFoundError:
        return "missing: GPUs need it (pip install triton, on Linux)"


def _gpus() -> list[dict[str, str]]:
    return [_gpu(device) for device in devices.available() if device.type != "cpu"]


def _gpu(device: torch.device) -> dict[str, str]:
    if device.type != "cuda":
        return {"device": str(device)}
    of = torch.cuda.get_device_properties(device)
    facts = {"device": str(device), "name": of.name, "memory": in_words(of.total_memory)}
    if torch.version.hip:
        return facts | {"architecture": of.gcnArchName}
    facts |= {"capability": f"{of.major}.{of.minor}", "driver": guarded(_driver)}
    return facts | {"shared memory": in_words(of.shared_memory_per_block_optin)}


def _driver() -> str:
    return _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return next(iter(done.stdout.splitlines()), "")


def served() -> list[dict[str, Any]]:
    """Says which backend serves each preset on each device, and of each other one why it does not."""
    found = []
    for device in devices.available():
        own = backends.of_device(device)
        for preset, fields in PRESETS.items():
            reasons = {}
            for name in backends.BACKENDS:
                reason = backends.refusal(name, fields["rule"], torch.empty(0, device=device), None)
                reason = reason or backends.trouble(name)
                if reason is not None:
                    reasons[name] = reason
            serves = own if own is not None and own not in reasons else "convolutions"
            group = {"device": str(device), "serves": serves, "presets": [preset]}
            group["precision"] = "fp32" if serves == "convolutions" else backends.default_precision(device)
            group |= {f"not {name}": reason for name, reason in reasons.items()}
            same = next((other for other in found if other | {"presets": [preset]} == group), None)
            if same is None:
                found.append(group)
            else:
                same["presets"].append(preset)
    return found


def _kernel() -> dict[str, Any]:
    trouble = backends.trouble("cpu")  # first, because it compiles what is not there yet
    status = build.status()
    facts = status._asdict() | {"compiler": " ".join(status.compiler)}
    facts["compiler is"] = guarded(lambda: _first_line(*status.compiler, "--version"))
    facts["trouble"] = trouble
    return {name: value if isinstance(value, str) else str(value) for name, value in facts.items() if value is not None}


def _threads() -> dict[str, Any]:
    facts = {"commands take": torch.get_num_threads(), "CPUs of the machine": os.cpu_count()}
    if hasattr(os, "sched_getaffinity"):
        facts["CPUs of this process"] = len(os.sched_getaffinity(0))
    quotas = [f"{quota.cpus:g} CPUs ({quota.folder})" for quota in control_groups.cpu_quotas()]
    facts["quotas"] = quotas
    return facts | ({"in Python": f"torch.set_num_threads({torch.get_num_threads()})"} if quotas else {})


def _memory() -> dict[str, Any]:
    limits = control_groups.memory_limits()
    words = [f"{in_words(of.limit)}, {in_words(of.free)} of it free ({of.folder})" for of in limits]
    return {"canvases take": in_words(free_memory()), "limits": words}


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def _packages() -> dict[str, str]:
    return {installed: guarded(lambda m=module: _version(m)) for module, (installed, _) in PACKAGES.items()}


def _version(module: str) -> str:
    installed, purpose = PACKAGES[module]
    try:
        version = metadata.version(installed)
    except metadata.PackageNotFoundError:
        return f"missing{f': {purpose} need it' if purpose else ''} (pip install {installed})"
    try:
        import_torchvision() if module == "torchvision" else import_module(module)
    except Exception as error:
        return f"{version}, but broken: {' '.join(str(error).split())}"
    return version


def _ffmpeg() -> str:
    ffmpeg = import_module("imageio_ffmpeg")
    return f"{ffmpeg.get_ffmpeg_version()} ({ffmpeg.get_ffmpeg_exe()})"


PROBES: dict[str, Callable[[], Any]] = {
    "nca_fast": _package,
    "machine": _system,
    "torch": _torch,
    "triton": _triton,
    "GPU": _gpus,
    "threads": _threads,
    "memory": _memory,
    "environment": _environment,
    "C++ kernel": _kernel,
    "backend": served,
    "ffmpeg": _ffmpeg,
    "packages": _packages,
}
