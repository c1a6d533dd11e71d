"""What control groups leave to a process, on machines that are folders: proc and sys as Linux shows them."""

import os
from types import SimpleNamespace

import pytest
import torch

from nca_fast import control_groups, devices
from nca_fast.canvas import memory
from nca_fast.training import run_folder

GIB = 2**30
V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"


def v1(controllers, top="/"):
    """The mount of a tree of version 1."""
    return f"35 31 0:32 {top} /sys/fs/cgroup/{controllers} rw,relatime - cgroup cgroup rw,{controllers}"


@pytest.fixture
def machine(tmp_path):
    """Writes what Linux would show: groups of this process, mounts, and files of /sys/fs/cgroup."""

    def make(groups=(), mounts=(), available=64 * GIB, **files):
        files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
        for name, lines in (("proc/self/cgroup", groups), ("proc/self/mountinfo", mounts)):
            if lines:
                files[name] = "".join(f"{line}\n" for line in lines)
        if available:
            files["proc/meminfo"] = f"MemTotal: 99 kB\nMemAvailable:   {available // 1024} kB\n"
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text if str(text).endswith("\n") else f"{text}\n")
        return tmp_path

    return make


def group2(folder, limit="max", used=0, stat="", high=None):
    files = {f"{folder}/memory.max": limit, f"{folder}/memory.current": used, f"{folder}/memory.stat": stat}
    return files | ({} if high is None else {f"{folder}/memory.high": high})


def group1(folder, limit=9223372036854771712, used=0, stat=""):
    names = ("limit_in_bytes", "usage_in_bytes", "stat")
    return {f"{folder}/memory.{name}": value for name, value in zip(names, (limit, used, stat), strict=True)}


def free(root):
    """The memory that nothing else needs, before an eighth is left alone."""
    assert memory.free_memory(root) == min([memory.machine_memory(root), *(g.free for g in limits(root))]) * 7 // 8
    return memory.free_memory(root) * 8 / 7


limits = control_groups.memory_limits


class TestMemory:
    def test_no_groups(self, machine):
        assert free(machine()) == 64 * GIB and limits(machine()) == []

    def test_without_proc_the_machine_is_asked(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": GIB // 512}.__getitem__)
        assert memory.free_memory(tmp_path) == 4 * GIB * 7 // 8
        monkeypatch.delattr(os, "sysconf")
        assert memory.free_memory(tmp_path) == 2 * GIB * 7 // 8

    def test_version_2(self, machine):
        root = machine(["0::/box"], [V2], **group2("box", 8 * GIB, 3 * GIB))
        assert free(root) == 5 * GIB
        assert limits(root) == [(8 * GIB, 5 * GIB, root / "sys/fs/cgroup/box")]

    def test_what_is_kept_of_files_is_free(self, machine):
        stat = f"anon {GIB}\ninactive_file {4 * GIB}\nactive_file {2 * GIB}\nslab 5"
        assert free(machine(["0::/box"], [V2], **group2("box", 8 * GIB, 8 * GIB, stat))) == 6 * GIB

    def test_more_files_than_what_was_taken(self, machine):
        """The two numbers are not of the same moment."""
        root = machine(["0::/box"], [V2], **group2("box", 8 * GIB, GIB, f"inactive_file {2 * GIB}"))
        assert free(root) == 8 * GIB

    def test_full(self, machine):
        root = machine(["0::/box"], [V2], **group2("box", 8 * GIB, 9 * GIB))
        assert free(root) == 0

    def test_max_is_no_limit(self, machine):
        root = machine(["0::/box"], [V2], **group2("box", high="max"))
        assert limits(root) == [] and free(root) == 64 * GIB

    def test_the_machine_may_have_less_than_the_limit(self, machine):
        assert free(machine(["0::/box"], [V2], GIB, **group2("box", 8 * GIB))) == GIB

    def test_nested_groups_of_version_2(self, machine):
        """A parent's limit holds for its children together, whether they have limits of their own or not."""
        parents = group2("a", 6 * GIB, GIB) | group2("a/b", 9 * GIB) | group2("a/b/c")
        assert free(machine(["0::/a/b/c"], [V2], **parents)) == 5 * GIB
        parents |= group2("a/b/c", 2 * GIB) | group2("a", 6 * GIB, 5 * GIB)
        assert free(machine(["0::/a/b/c"], [V2], **parents)) == GIB

    def test_systemd_slices(self, machine):
        """MemoryMax of the slice, MemoryHigh of the unit: above it the kernel slows a process down."""
        session = "user.slice/user-1000.slice/session-7.scope"
        files = group2("user.slice") | group2("user.slice/user-1000.slice", 16 * GIB, 2 * GIB)
        root = machine([f"0::/{session}"], [V2], **files, **group2(session, high=4 * GIB))
        assert free(root) == 4 * GIB

    def test_slurm_version_2(self, machine):
        job = "system.slice/slurmstepd.scope/job_42"
        files = group2(job, 10 * GIB, 4 * GIB) | group2(f"{job}/step_0") | group2(f"{job}/step_0/user/task_0")
        assert free(machine([f"0::/{job}/step_0/user/task_0"], [V2], **files)) == 6 * GIB

    def test_version_1(self, machine):
        stat = f"cache 9\ninactive_file 7\nactive_file 7\ntotal_inactive_file {GIB}\ntotal_active_file {2 * GIB}"
        files = group1("memory") | group1("memory/box", 8 * GIB, 6 * GIB, stat)
        root = machine(["4:memory:/box", "1:cpu:/"], [v1("memory"), v1("cpu")], **files)
        assert limits(root) == [(8 * GIB, 5 * GIB, root / "sys/fs/cgroup/memory/box")]

    def test_slurm_version_1_beside_an_empty_version_2(self, machine):
        job = "memory/slurm/uid_1000/job_42"
        files = group1("memory") | group1(job, 10 * GIB, 4 * GIB) | group1(f"{job}/step_0/task_0")
        groups = ["9:cpuset:/slurm", "4:memory:/slurm/uid_1000/job_42/step_0/task_0", "0::/system.slice/slurmd.service"]
        assert free(machine(groups, [v1("cpuset"), v1("memory"), UNIFIED], **files)) == 6 * GIB

    def test_both_versions_limit(self, machine):
        files = group1("memory/box", 8 * GIB) | group2("unified/box", 3 * GIB)
        assert free(machine(["4:memory:/box", "0::/box"], [v1("memory"), UNIFIED], **files)) == 3 * GIB

    @pytest.mark.parametrize(
        ("group", "top"), [("/", "/"), ("/docker/abc", "/docker/abc"), ("/docker/abc", "/elsewhere"), ("/../x", "/")]
    )
    def test_a_container_sees_its_own_group_at_the_top(self, machine, group, top):
        """With a namespace of its own, without one, and where path and mount are not of the same namespace."""
        mount = V2.replace(" / /sys", f" {top} /sys")
        assert free(machine([f"0::{group}"], [mount], **group2(".", 2 * GIB, GIB), **group2("../x", 1))) == GIB

    def test_groups_inside_a_container(self, machine):
        mount = V2.replace(" / /sys", " /docker/abc /sys")
        assert free(machine(["0::/docker/abc/inner"], [mount], **group2("."), **group2("inner", GIB))) == GIB

    def test_a_container_of_version_1(self, machine):
        root = machine(["4:memory:/docker/abc"], [v1("memory", "/docker/abc")], **group1("memory", 2 * GIB, GIB))
        assert free(root) == GIB

    def test_files_that_are_missing_or_odd(self, machine):
        root = machine(["0::/a/b"], [V2], **{"a/memory.max": 3 * GIB, "a/b/memory.max": "", "a/b/memory.current": "x"})
        assert free(root) == 3 * GIB
        assert limits(machine(["0::/gone"], [V2])) == limits(machine(["", "x", "0::/a"], ["", "x - cgroup2"])) == []

    def test_a_folder_whose_name_has_a_blank(self, machine):
        mount = V2.replace("/sys/fs/cgroup", r"/sys/fs/cgroup/a\040b")
        assert free(machine(["0::/"], [mount], **group2("a b", GIB))) == GIB


class TestThreads:
    @pytest.fixture(autouse=True)
    def sixteen(self, monkeypatch):
        """PyTorch would take 16 threads, on a machine of 64 CPUs."""
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)

    @pytest.mark.parametrize(
        ("quota", "threads"),
        [("max 100000", 16), ("800000 100000", 8), ("150000 100000", 1), ("20000 100000", 1), ("9900000 100000", 16)],
    )
    def test_version_2(self, machine, quota, threads):
        assert devices.default_threads(machine(["0::/box"], [V2], **{"box/cpu.max": quota})) == threads

    @pytest.mark.parametrize(("quota", "threads"), [(-1, 16), (350000, 3)])
    def test_version_1(self, machine, quota, threads):
        files = {"cpu,cpuacct/box/cpu.cfs_quota_us": quota, "cpu,cpuacct/box/cpu.cfs_period_us": 100000}
        root = machine(["3:cpu,cpuacct:/box", "0::/"], [v1("cpu,cpuacct"), UNIFIED], **files)
        assert devices.default_threads(root) == threads
        assert control_groups.cpu_quotas(root) == ([] if quota < 0 else [(3.5, root / "sys/fs/cgroup/cpu,cpuacct/box")])

    def test_a_parents_quota_holds(self, machine):
        files = {"a/cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}
        assert devices.default_threads(machine(["0::/a/b"], [V2], **files)) == 4

    def test_affinity(self, machine, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7})
        assert devices.default_threads(machine()) == 3
        monkeypatch.delattr(os, "sched_getaffinity")
        assert devices.default_threads(machine()) == 16

    def test_a_number_that_was_named_stays(self, machine, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "16")
        assert devices.default_threads(machine(["0::/"], [V2], **{"cpu.max": "200000 100000"})) == 16

    def test_trainings_and_commands_take_them(self, monkeypatch):
        asked = []
        monkeypatch.setattr(torch, "set_num_threads", asked.append)
        monkeypatch.setattr(run_folder, "default_threads", lambda: 3)
        for number in (None, 7):
            with run_folder.cpu_threads(number):
                pass
        assert asked == [3, 16, 7, 16]


def test_every_command_runs_with_them(monkeypatch):
    from nca_fast import cli
    from nca_fast.commands import parser

    seen = []
    command = SimpleNamespace(run=lambda line: seen.append(torch.get_num_threads()))
    monkeypatch.setattr(parser, "parse", lambda arguments: command)
    monkeypatch.setattr(run_folder, "default_threads", lambda: 5)
    assert cli.main(["render"]) == 0
    assert seen == [5] and torch.get_num_threads() == 1


def test_this_machine():
    """Whatever it has: a number of bytes, and as many threads as PyTorch takes, at most."""
    assert memory.free_memory() > 0 and 1 <= devices.default_threads() <= torch.get_num_threads()
