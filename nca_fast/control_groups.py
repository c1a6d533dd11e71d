"""The CPUs and the memory that Linux leaves to this process: the limits of its control groups and of all their parents.

Containers, Slurm and systemd set them, in one or both of two file systems that may be mounted side by side: version 2
(`cpu.max`, `memory.max`) and version 1 (`cpu.cfs_quota_us`, `memory.limit_in_bytes`), which keeps a tree of groups for
each kind of limit. /proc/self/cgroup says in which group this process is, /proc/self/mountinfo where the trees are
seen, which in a container is often from its own group downwards. What is missing or cannot be read sets no limit.

Source: the kernel's documentation, admin-guide/cgroup-v2 and admin-guide/cgroup-v1; proc(5); cgroup_namespaces(7).
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path("/")
_UNLIMITED = 2**62  # version 1 writes a number near 2**63 where there is no limit


class CpuQuota(NamedTuple):
    """How many CPUs a group may take on average, and the folder that says so."""

    cpus: float
    folder: Path


class MemoryLimit(NamedTuple):
    """How many bytes a group may take, how many of them nothing else needs, and the folder that says so."""

    limit: int
    free: int
    folder: Path


def cpu_quotas(root: Path = ROOT) -> list[CpuQuota]:
    """Reads the quotas on the CPU time of this process: cpu.max, or cpu.cfs_quota_us of version 1.

    Args:
        root: Folder in which proc and sys lie.
    """
    found = []
    for folder in _folders("cpu", root):
        words = _words(folder / "cpu.max") or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):  # none is "max", or -1
            found.append(CpuQuota(int(words[0]) / int(words[1]), folder))
    return found


def memory_limits(root: Path = ROOT) -> list[MemoryLimit]:
    """Reads the limits on the memory of this process: memory.max and memory.high, or memory.limit_in_bytes.

    Pages that only hold what is in files count as free, because the kernel gives them up when memory is wanted: they
    are among what a group has taken, and after the writing of large files they may be nearly all of it.

    Args:
        root: Folder in which proc and sys lie.
    """
    found = []
    for folder in _folders("memory", root):
        names = ("memory.max", "memory.high", "memory.limit_in_bytes")
        limits = [limit for name in names if (limit := _number(folder / name)) is not None and limit < _UNLIMITED]
        used = next((n for n in map(_number, (folder / "memory.current", folder / "memory.usage_in_bytes")) if n), 0)
        if limits:
            needed = max(used - _file_pages(folder / "memory.stat"), 0)
            found.append(MemoryLimit(min(limits), max(min(limits) - needed, 0), folder))
    return found


def _file_pages(stat: Path) -> int:
    """Counts the bytes of a group that only hold what is in files, those of its children included."""
    words = _words(stat)
    counts = dict(zip(words[::2], words[1::2], strict=False))
    prefix = "total_" if "total_inactive_file" in counts else ""  # version 1 counts a group alone, too
    return sum(int(counts.get(f"{prefix}{name}", "0")) for name in ("inactive_file", "active_file"))


def _folders(controller: str, root: Path) -> Iterator[Path]:
    """Gives the folders of this process's groups that may limit something, and of their parents as far as one sees."""
    mounts = list(_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        controllers, _, group = line.partition(":")[2].partition(":")
        if not group or (controllers and controller not in controllers.split(",")):
            continue
        for kind, options, top, point in mounts:
            if kind == ("cgroup" if controllers else "cgroup2") and (not controllers or controller in options):
                yield from _upwards(root / point.relative_to("/"), PurePosixPath(group), top)


def _upwards(point: Path, group: PurePosixPath, top: PurePosixPath) -> Iterator[Path]:
    """Gives the folder of a group, in a tree that is seen at `point` from the group `top` on, and those above it."""
    inside = group.relative_to(top) if group.is_relative_to(top) and ".." not in group.parts else PurePosixPath()
    yield from (point / folder for folder in (inside, *inside.parents))


def _mounts(root: Path) -> Iterator[tuple[str, list[str], PurePosixPath, PurePosixPath]]:
    """Lists where trees of groups are seen: "cgroup" or "cgroup2", options, the group at the top, and the folder."""
    for line in _lines(root / "proc/self/mountinfo"):
        match = re.match(r"\S+ \S+ \S+ (\S+) (/\S*) .*- (cgroup2?) \S+ (\S+)$", line)
        if match:
            top, point = (PurePosixPath(re.sub(r"\\([0-7]{3})", _character, path)) for path in match.groups()[:2])
            yield match[3], match[4].split(","), top, point


def _character(match: re.Match) -> str:
    return chr(int(match[1], 8))  # a blank in a folder's name is \040


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _number(path: Path) -> int | None:
    """Reads a number; None where there is no such file, or it says "max"."""
    words = _words(path)
    return int(words[0]) if words and words[0].isdecimal() else None
