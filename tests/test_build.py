"""How the C++ kernel's library is found, compiled, kept and loaded; compilers are scripts of a line or two."""

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import fresh
import pytest
import torch
from nca_fast.kernels.cpu import build, compiler
from rollouts import random_weights

from nca_fast import Rule, backends, rollout

ROOT = Path(__file__).parents[1]
X, WEIGHTS, RULE = torch.zeros(1, 4, 5, 6), random_weights(Rule(channels=4, hidden=(3,))), Rule(channels=4, hidden=(3,))
# Of a compiler's words, the file after -o.
OUTPUT = 'while [ "$1" != -o ]; do shift; done; '


def fresh_process():
    """Forgets what this process knows of libraries and warnings, as a new one would; what is loaded stays loaded."""
    build.load.cache_clear()
    build._failed.clear()
    build._refused.clear()
    backends._said.clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of compiled kernels; the real one is back afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("NCA_FAST_ISA", raising=False)
    fresh_process()
    yield tmp_path / "nca_fast"
    fresh_process()


@pytest.fixture(scope="session")
def good():
    """A library that serves this machine."""
    fresh_process()
    return build.load().path


@pytest.fixture
def compiles(good, tmp_path, monkeypatch):
    """A function that makes a script the compiler; `starts()` counts how often it was started."""
    path, log = tmp_path / "c++", tmp_path / "starts"

    def script(body):
        path.write_text(f"#!/bin/sh\necho >> {log}\n{body}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        return path

    script.starts = lambda: len(log.read_text()) if log.exists() else 0
    script.well = f'{OUTPUT} cp {good} "$2"'
    return script


FAILS = "echo 'In file included from x' >&2; echo 'x.h:1: error: no headers' >&2; echo more >&2; exit 1"


def refusals():
    """The sentences with which stock convolutions serve three rollouts, which are right all the same."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ys = [rollout(X, WEIGHTS, RULE, 2, seed=0) for _ in range(3)]
    torch.testing.assert_close(ys[0], rollout(X, WEIGHTS, RULE, 2, seed=0, backend="reference"))
    return [str(warning.message) for warning in caught]


class TestCompilers:
    def test_without_one_there_is_one_warning_and_convolutions(self, good, cache, monkeypatch):
        monkeypatch.setenv("CXX", "no-such-compiler")
        (said,) = refusals()
        assert said.startswith(
            "nca_fast runs stock convolutions, no faster than PyTorch alone: the C++ kernel needs a compiler"
        )
        assert "no 'no-such-compiler'" in said and "apt install g++" in said
        assert build.status().source == "none" and build.status().reason in said
        with pytest.raises(RuntimeError, match="needs a compiler, but there is no 'no-such-compiler'"):
            rollout(X, WEIGHTS, RULE, 2, backend="cpu")

    def test_one_that_fails_is_started_once_an_hour(self, cache, compiles):
        """Once in a process, with one short warning; others read of it, until an hour is over."""
        compiles(FAILS)
        (said,) = refusals()
        assert compiles.starts() == 1
        assert "did not compile (x.h:1: error: no headers)" in said
        (record,) = cache.iterdir()  # nothing else is left
        assert str(record) in said and len(said) - len(str(record)) < 250
        assert record.read_text().endswith("In file included from x\nx.h:1: error: no headers\nmore\n\n")
        fresh_process()
        assert refusals() == [said] and compiles.starts() == 1
        assert build.status().source == "none" and build.status().reason in said
        fresh_process()
        os.utime(record, (time.time() - 3601,) * 2)
        assert build.status().source == "not compiled yet"
        os.utime(record, (time.time() + 3601,) * 2)  # the clock was set back
        assert build.status().source == "not compiled yet"
        assert refusals() == [said] and compiles.starts() == 2

    def test_one_that_was_mended_is_started_at_once(self, cache, compiles):
        compiles(FAILS)
        refusals()
        compiles(compiles.well)
        assert refusals() == [] and build.status().source == "compiled"

    @pytest.mark.parametrize(
        "ends",
        [
            "echo 'ld: final link failed: No space left on device' >&2; exit 1",
            "echo 'cc1plus: out of memory allocating 65536 bytes after a total of 9 bytes' >&2; exit 1",
            "echo 'c++: fatal error: Killed signal terminated program cc1plus' >&2; exit 1",
            "kill -9 $$",
        ],
        ids=["disk", "memory", "killed within", "killed"],
    )
    def test_what_passes_says_nothing_of_the_next_hour(self, ends, cache, compiles):
        """Too little memory or disk for one process must not take the kernel from all others."""
        compiles(ends)
        (said,) = refusals()
        assert "did not compile (" in said and "the next process tries again" in said and compiles.starts() == 1
        assert not list(cache.iterdir())
        fresh_process()
        assert build.status().source == "not compiled yet"

    def test_no_memory_to_load_says_nothing_of_the_library(self, cache, compiles, monkeypatch):
        compiles(compiles.well)
        build.load()
        fresh_process()
        (library,), before = cache.iterdir(), resource.getrlimit(resource.RLIMIT_AS)

        def unmapped(path, threads):
            raise OSError(f"{path}: failed to map segment from shared object")  # all that Linux says then

        monkeypatch.setattr(build, "Library", unmapped)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + 2**23, before[1]))
        try:
            with pytest.raises(MemoryError, match=r"no memory for the compiled C\+\+ kernel"):
                build.load()
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
        assert [*cache.iterdir()] == [library] and compiles.starts() == 1

    @pytest.mark.parametrize("slowly", [0, 1])
    def test_ctrl_c_ends_all_that_the_compiler_has_started(self, slowly, cache, compiles, tmp_path, monkeypatch):
        """Its programs are children of its own; what they hold open is closed when they have ended. Also where they are
        there before Popen has returned, as on a busy machine."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        compiles(f"(sleep 20; echo lived on) > {pipe}; exit 1")

        def popen(*words, started=subprocess.Popen, **how):
            process = started(*words, **how)
            time.sleep(slowly)
            return process

        monkeypatch.setattr(subprocess, "Popen", popen)

        def interrupt():
            with pipe.open() as file:  # when they are there
                os.kill(os.getpid(), signal.SIGINT)
                said.append(file.read())

        said = []
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off for pytest
        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                build.load()
        finally:
            signal.signal(signal.SIGINT, before)
        thread.join()
        assert said == [""] and not list(cache.iterdir())

    def test_what_a_killed_build_left_is_removed_in_the_end(self, cache, compiles):
        for name, age in (("compiling-long-ago", 3700), ("compiling-now", 0)):
            (cache / name).mkdir(parents=True)
            (cache / name / "rollout.so").touch()
            os.utime(cache / name, (time.time() - age,) * 2)
        compiles(compiles.well)
        library = build.load().path
        assert sorted(cache.iterdir()) == [cache / "compiling-now", library]

    @pytest.mark.parametrize("body", ["exit 0", f"{OUTPUT} mkdir $2; exit 1"], ids=["nothing", "no file"])
    def test_one_that_writes_no_library(self, body, cache, compiles):
        compiles(body)
        assert "did not compile (without a word)" in refusals()[0] and compiles.starts() == 1

    def test_a_command_of_several_words(self, cache, compiles, monkeypatch):
        script = compiles(compiles.well)
        monkeypatch.setenv("CXX", f"env WORDS='a b' {script}")
        assert build.status().compiler == ("env", "WORDS=a b", str(script))
        assert refusals() == [] and compiles.starts() == 1
        monkeypatch.setenv("CXX", 'c++ "')
        assert compiler.missing().startswith("the C++ kernel needs a compiler, but there is no 'c++ \"'")

    def test_a_killed_build_does_not_hang_or_break_the_next(self, cache, compiles, monkeypatch):
        """A compiler that is killed half-way, as the whole process may be: its part of a file is no library."""
        compiles(f'{OUTPUT} echo part > "$2"; kill -9 $PPID')
        code = "from nca_fast.kernels.cpu import build; build.load()"
        killed = fresh.run(["-c", code], cwd=ROOT)
        assert killed.returncode == -9
        assert not list(cache.glob("*.so"))
        compiles(compiles.well)
        assert refusals() == []
        assert len(list(cache.glob("*.so"))) == 1

    def test_options(self, monkeypatch):
        """C++20 as GCC 8 names it; no OpenMP, for threads are PyTorch's, nor, before 2.10, where Apple has none."""
        assert "-std=c++2a" in compiler.flags("native") and "-fopenmp" not in build._plan("native").options
        monkeypatch.setattr(build, "torch_threads", lambda: None)
        assert "-fopenmp" in build._plan("native").options
        monkeypatch.setattr(sys, "platform", "darwin")
        assert "-fopenmp" not in build._plan("native").options


class TestCache:
    def test_a_library_is_compiled_once(self, cache, compiles):
        compiles(compiles.well)
        assert build.status().source == "not compiled yet"
        assert refusals() == [] and compiles.starts() == 1
        assert build.status().source == "compiled" and build.status().library == build.load().path
        fresh_process()
        assert refusals() == [] and compiles.starts() == 1
        assert len(list(cache.iterdir())) == 1

    @pytest.mark.parametrize("damage", ["empty", "cut short", "a bit", "another", "none can read it"])
    def test_a_damaged_library_is_compiled_again(self, damage, cache, compiles):
        """Seen before it is loaded, which would end the process: beyond the end of a file there is SIGBUS."""
        compiles(compiles.well)
        refusals()
        fresh_process()
        (library,) = cache.iterdir()
        whole = library.read_bytes()
        library.unlink()  # this process has mapped the file
        if damage == "none can read it":
            library.symlink_to(library)
        else:
            flipped = whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]
            other = Path(torch.__file__).parent / "lib" / "libshm.so"
            cut = {"empty": b"", "cut short": whole[: len(whole) // 2], "a bit": flipped}
            library.write_bytes(cut[damage] if damage in cut else other.read_bytes())
        assert build.status().source == "not compiled yet"
        assert refusals() == [] and compiles.starts() == 2
        assert build.load().path.read_bytes() == whole and len(list(cache.iterdir())) == 1

    def test_a_damaged_library_of_another_digest_is_removed(self, cache, compiles):
        compiles(compiles.well)
        refusals()
        fresh_process()
        (library,) = cache.iterdir()
        library.rename(library.with_name(library.name[:-6] + "abc.so"))
        assert refusals() == [] and compiles.starts() == 2
        assert list(cache.iterdir()) == [library]

    def test_a_library_reaches_the_disk_before_its_place(self, cache, compiles, monkeypatch):
        done, sync, replace = [], os.fsync, os.replace
        monkeypatch.setattr(os, "fsync", lambda file: (done.append("sync"), sync(file)))
        monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
        compiles(compiles.well)
        build.load()
        assert done == ["sync", "replace"]

    def test_what_the_system_does_not_load_is_compiled_again_once(self, cache, compiles):
        """Whole, but made for another C library, say: a home that two systems share."""
        compiles(compiles.well)
        name = build._plan("native").name
        cache.mkdir()
        (cache / f"{name}_{compiler.digest(b'strange')}.so").write_bytes(b"strange")
        assert refusals() == [] and compiles.starts() == 1
        fresh_process()
        assert refusals() == [] and compiles.starts() == 1

    def test_what_the_system_never_loads_is_compiled_once_an_hour(self, cache, compiles):
        compiles(f'{OUTPUT} echo strange > "$2"')
        (said,) = refusals()
        assert f"does not load the compiled C++ kernel from {cache} (" in said and "XDG_CACHE_HOME" in said
        fresh_process()
        assert refusals() == [said] and compiles.starts() == 1
        assert build.status().reason in said

    def test_a_folder_mounted_noexec_is_named(self, cache, compiles, monkeypatch):
        compiles(compiles.well)
        monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC))
        (said,) = refusals()
        assert f"from {cache} (its file system is mounted noexec): set XDG_CACHE_HOME" in said
        assert compiles.starts() == 0 and build.status().source == "none"

    def test_one_that_cannot_be_written_is_named(self, tmp_path, cache, compiles, monkeypatch):
        compiles(compiles.well)
        cache.write_text("")
        (said,) = refusals()
        assert f"cannot be kept in {cache} (" in said and "XDG_CACHE_HOME" in said
        assert build.status().cache == cache

    def test_what_cannot_be_put_in_its_place_is_compiled_once(self, cache, compiles):
        """A disk that fails, or a folder that has the name."""
        compiles(compiles.well)
        build.load()
        (library,) = cache.glob("*.so")
        library.unlink()
        (library / "x").mkdir(parents=True)
        fresh_process()
        starts = compiles.starts()
        (said,) = refusals()
        assert "cannot be kept in" in said and compiles.starts() == starts + 1

    def test_a_user_without_a_home(self, cache, monkeypatch):
        def nobody():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", nobody)
        assert "no home: set XDG_CACHE_HOME" in refusals()[0]
        assert build.status()[:4] == ("none", "native", None, None)

    def test_names_know_flags_sources_system_and_torch(self, tmp_path, monkeypatch):
        """A library built for something else must not be loaded: each of these changes its name."""

        def name(isa="native"):
            return build._plan(isa).name

        names = [name(), name("haswell")]
        assert name() == names[0]
        monkeypatch.setattr(compiler, "cpu", lambda: {"model name": "another CPU"})
        names.append(name())
        monkeypatch.setattr(build.platform, "libc_ver", lambda: ("another", "1.2"))
        names.append(name())
        monkeypatch.setenv("CXX", "another-compiler")
        names.append(name())
        sources = shutil.copytree(compiler.FOLDER, tmp_path / "sources")
        monkeypatch.setattr(compiler, "FOLDER", sources)
        assert name() == names[-1]
        (sources / "new.h").write_text("// a header that nobody has listed\n")
        names.append(name())
        (sources / "step.h").write_text((sources / "step.h").read_text() + "\n")
        names.append(name())
        monkeypatch.setattr(torch, "__version__", "2.99")
        assert name() == names[-1]  # it has nothing of PyTorch
        monkeypatch.setattr(build, "torch_threads", lambda: None)
        names.append(name())
        monkeypatch.setattr(torch, "__version__", "2.9")
        names.append(name())
        assert len(set(names)) == len(names)


class TestPrebuilt:
    @pytest.fixture
    def wheel(self, good, cache, tmp_path, monkeypatch):
        """What a wheel has for this CPU, on a machine without a compiler."""
        folder = tmp_path / "prebuilt"
        folder.mkdir()
        monkeypatch.setattr(build, "PREBUILT", folder)
        monkeypatch.setenv("CXX", "no-such-compiler")
        isa = compiler.best_variant()
        if isa is None:
            pytest.skip("wheels hold nothing for this CPU")
        return Path(shutil.copy(good, folder / f"{isa}_{compiler.digest(good.read_bytes())}.so"))

    def test_it_serves_without_a_compiler_and_a_cache(self, wheel, cache):
        assert build.status() == ("prebuilt", compiler.best_variant(), wheel, cache, ("no-such-compiler",), None)
        assert refusals() == [] and build.load().path == wheel
        assert not cache.exists()

    def test_native_is_compiled(self, wheel, compiles, monkeypatch):
        compiles(compiles.well)
        monkeypatch.setenv("NCA_FAST_ISA", "native")
        assert refusals() == [] and compiles.starts() == 1
        assert build.status()[:2] == ("compiled", "native")

    def test_another_instruction_set_can_be_named(self, wheel, monkeypatch):
        other = Path(shutil.copy(wheel, wheel.with_name(wheel.name.replace(compiler.best_variant(), "power11"))))
        monkeypatch.setenv("NCA_FAST_ISA", "power11")
        assert build.status()[:3] == ("prebuilt", "power11", other)
        assert build.load().path == other and build.load(compiler.best_variant()).path == wheel

    def test_an_older_torch_compiles(self, wheel, monkeypatch):
        monkeypatch.setattr(build, "torch_threads", lambda: None)
        assert build.status().source == "none" and "needs a compiler" in refusals()[0]
        with pytest.raises(OSError, match="threads of PyTorch 2.10"):
            build.Library(wheel, None)

    @pytest.mark.parametrize("trouble", ["damaged", "not loaded"])
    def test_otherwise_one_is_compiled(self, trouble, wheel, compiles):
        wheel.unlink()  # this process may have mapped the file
        name = wheel.name if trouble == "damaged" else f"{compiler.best_variant()}_{compiler.digest(b'strange')}.so"
        wheel.with_name(name).write_bytes(b"strange")
        compiles(compiles.well)
        assert refusals() == [] and compiles.starts() == 1
        assert build.status().source == "compiled"

    def test_the_best_that_the_cpu_has(self, monkeypatch):
        def best(flags):
            monkeypatch.setattr(compiler, "cpu", lambda: {"flags": flags} if flags else {})
            return compiler.best_variant()

        avx2 = "fpu sse2 avx2 bmi1 bmi2 f16c fma movbe"
        avx512 = " avx512f avx512cd avx512bw avx512dq avx512vl"
        monkeypatch.setattr(compiler.platform, "machine", lambda: "x86_64")
        assert [best(avx2 + avx512), best(avx2), best("fpu sse2")] == ["skylake-avx512", "haswell", "x86-64"]
        assert best(avx2 + avx512[:-9]) == "haswell" and best(avx2.replace("bmi2 ", "")) == "x86-64"
        assert best("") is None  # a system that does not tell
        monkeypatch.setattr(compiler.platform, "machine", lambda: "arm64")
        assert best("") == "armv8-a" and "-mcpu=native" in compiler.flags("native")
        monkeypatch.setattr(compiler.platform, "machine", lambda: "riscv64")
        assert best("fpu") is None and compiler.variants() == {}


class TestLibrary:
    def test_one_openmp_runtime_and_no_setuptools(self):
        """Two OpenMP runtimes would fight for the cores. In a fresh process, as scikit-learn brings one of its own."""
        code = """
import re, sys
sys.modules["setuptools"] = sys.modules["torch.utils.cpp_extension"] = None  # importing them is an error
import torch
from pathlib import Path
from nca_fast import NCA
nca = NCA.preset("texture")
nca(torch.zeros(1, 12, 8, 8), steps=1, backend="cpu").sum().backward()
maps = Path("/proc/self/maps").read_text()
print(*set(re.findall(r"\\S*/lib(?:gomp|iomp5|omp)\\S*\\.so\\S*", maps)))
"""
        result = fresh.run(["-c", code], check=True, cwd=ROOT)
        assert len(result.stdout.split()) == 1, result.stdout

    def test_loops_run_on_the_threads_that_python_gives(self, monkeypatch, good):
        """All of them, and as many as there are; what goes wrong in one is an error in a sentence."""
        asked, fails = [], []
        run_type = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)

        @ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * 3, run_type, ctypes.c_void_p)
        def parallel_for(begin, end, grain, run, context):
            asked.append((begin, end, grain))
            for i in reversed(range(begin, end)):
                run(i, i + 1, context)
            return len(fails)

        @ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(ctypes.c_uint32))
        def count(result):
            result[0] = 3
            return 0

        x = torch.randn(1, 4, 64, 64)
        torch.set_num_threads(1)
        expected = rollout(x, WEIGHTS, RULE, 2, seed=0, backend="cpu")
        addresses = tuple(ctypes.cast(f, ctypes.c_void_p).value for f in (parallel_for, count))
        library = build.Library(good, addresses)
        monkeypatch.setattr(build, "load", lambda: library)
        try:
            assert torch.equal(rollout(x, WEIGHTS, RULE, 2, seed=0, backend="cpu"), expected)
            assert asked == [(0, 1, 1)] + [(0, 3, 1)] * 2  # the weights, and a step after the other
            fails.append(1)
            with pytest.raises(RuntimeError, match="torch_parallel_for failed"):
                rollout(x, WEIGHTS, RULE, 2, backend="cpu")
        finally:
            build.Library(good, build.torch_threads())

    def test_no_memory_on_a_thread_is_an_error(self, good):
        library, x = build.Library(good, build.torch_threads()), torch.zeros(1, 4, 64, 64)
        torch.set_num_threads(2)
        kernels = backends.kernels("cpu")
        told = kernels._rule(RULE.kernel_rule)
        weights = kernels.pack_weights(torch.zeros(4 * 4 * 3 + 3 + 3 * 4), RULE.kernel_rule, "fp32")
        canvas = kernels._canvas(x, weights, torch.tensor(0), backends.Place(0, 0, 0, 0, 0, 64))
        wide = type(told).from_buffer_copy(told)
        wide.window = 2**30  # so many rows are kept of each channel
        with pytest.raises(RuntimeError, match="out of memory for [0-9]+ bytes of scratch"):
            library.backward(wide, canvas, 0, x[None], x, x, x.double(), None)

    def test_with_a_torch_that_has_no_threads_for_c(self, cache, monkeypatch):
        """Before 2.10 it is compiled against ATen/Parallel.h; here in a moment, without optimisation."""
        flags = [flag.replace("-O3", "-O0") for flag in compiler.flags("native")]
        monkeypatch.setattr(compiler, "flags", lambda isa: flags)
        monkeypatch.setattr(build, "torch_threads", lambda: None)
        torch.set_num_threads(2)
        found = rollout(X + 1, WEIGHTS, RULE, 3, seed=0, backend="cpu")
        assert build.load().path.parent == cache
        torch.testing.assert_close(found, rollout(X + 1, WEIGHTS, RULE, 3, seed=0, backend="reference"))
