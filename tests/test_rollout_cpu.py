"""How the C++ kernel is built and loaded, and that every instruction set computes the same."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from nca_fast.kernels.cpu import build
from rollouts import random_weights, relative_error, values_and_gradients

from nca_fast import Rule, backends, rollout
from nca_fast.ops import advance

RULES = [
    Rule(),
    Rule(channels=5, hidden=(7, 13), frozen=2, padding="zero", output_bias=True, filters=("identity", "scharr_y")),
    Rule(channels=5, hidden=(9,), filters=("sobel_x9", "sobel_y5"), maximum_window=3, alive_channel=3, padding="zero"),
]


BUILT = build.cache_folder()


def can_run(isa):
    flags = Path("/proc/cpuinfo").read_text()
    return {"x86-64": " sse2 ", "haswell": " avx2 "}[isa] in flags


@pytest.mark.parametrize("isa", ["haswell", "x86-64"])
@pytest.mark.parametrize("rule", RULES, ids=["texture", "style", "vae"])
def test_every_instruction_set(isa, rule, monkeypatch, poisoned):
    """AVX2 and plain SSE2 (which takes the code that any other CPU takes) against the float64 reference."""
    if not can_run(isa):
        pytest.skip(f"this CPU is no {isa}; the native build is tested in test_rollout")
    torch.manual_seed(1)
    torch.set_num_threads(2)
    load = build.load
    monkeypatch.setattr(build, "load", lambda: load(isa))
    weights, x = random_weights(rule, 2), torch.randn(2, rule.channels, 19, 45) * 0.5
    exact, plain, fused = (
        values_and_gradients(rule, weights, x, x, 3, backend=backend, dtype=dtype)
        for backend, dtype in (("reference", torch.float64), ("reference", torch.float32), ("cpu", torch.float32))
    )
    for e, p, f in zip(exact, plain, fused, strict=True):
        assert relative_error(f, e) <= max(2 * relative_error(p, e), 3e-7)


def test_scratch_memory_need_not_be_clean():
    """glibc fills what malloc gives with 0x7F7F7F7F = 3.4e38: nothing that was not written may be used."""
    code = """
import sys; sys.path.insert(0, "tests")
import torch
from rollouts import *
from nca_fast import Rule
rule = Rule(channels=5, hidden=(7, 13), output_bias=True)
weights, x = random_weights(rule), torch.randn(1, 5, 9, 21) * 0.5
runs = [values_and_gradients(rule, weights, x, x, 3, backend=b, dtype=torch.float32) for b in ("cpu", "reference")]
print(max(relative_error(a, b.double()) for a, b in zip(*runs)))
"""
    environment = os.environ | {"MALLOC_PERTURB_": "128"}
    root = Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=root
    )
    assert float(result.stdout) < 1e-6


def test_one_openmp_runtime_and_torchs_threads():
    """Two OpenMP runtimes would fight for the cores. In a fresh process, as scikit-learn brings one of its own."""
    code = """
import re, torch
from pathlib import Path
from nca_fast import NCA
nca = NCA.preset("texture")
nca(torch.zeros(1, 12, 8, 8), steps=1, backend="cpu").sum().backward()
maps = Path("/proc/self/maps").read_text()
print(*set(re.findall(r"\\S*/lib(?:gomp|iomp5|omp)\\S*\\.so\\S*", maps)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert len(result.stdout.split()) == 1, result.stdout


def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.load.cache_clear()
    backends._said.clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of compiled kernels; the real one, which holds at least this machine's, is back afterwards."""
    build.load()
    fresh_cache(tmp_path, monkeypatch)
    yield tmp_path / "nca_fast"
    build.load.cache_clear()


X, WEIGHTS, RULE = torch.zeros(1, 4, 5, 6), random_weights(Rule(channels=4, hidden=(3,))), Rule(channels=4, hidden=(3,))


def test_without_a_compiler_there_is_one_warning_and_convolutions(cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(
        UserWarning, match="stock convolutions, .*: the C.. kernel needs a compiler.*apt install g.."
    ) as caught:
        y = rollout(X, WEIGHTS, RULE, 2, seed=0)
        rollout(X, WEIGHTS, RULE, 2)
    assert len(caught) == 1
    assert torch.equal(y, rollout(X, WEIGHTS, RULE, 2, seed=0, backend="convolutions"))
    with pytest.raises(RuntimeError, match="needs a compiler, but there is no 'no-such-compiler'"):
        rollout(X, WEIGHTS, RULE, 2, backend="cpu")


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(cache, tmp_path, monkeypatch):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'error: no headers' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(RuntimeError, match="did not compile.*error: no headers"):
        rollout(X, WEIGHTS, RULE, 2, backend="cpu")
    assert not list(cache.iterdir())


def test_a_killed_build_does_not_hang_or_break_the_next(cache, tmp_path, monkeypatch):
    """A compiler that is killed half-way, as the whole process may be: its part of a file is no library."""
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho part > "$2"\nkill -9 $PPID\n')
    compiler.chmod(0o755)
    code = "from nca_fast.kernels.cpu import build; build.load('x86-64')"
    environment = os.environ | {"CXX": str(compiler)}
    root = Path(__file__).parents[1]
    killed = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True)
    assert killed.returncode == -9
    assert not list(cache.glob("*.so"))
    # The same call with a compiler that copies a good library: what a second, unharmed process does.
    good = next(BUILT.glob("*.so"))
    compiler.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncp {good} "$2"\n')
    subprocess.run(
        [sys.executable, "-c", code.replace("build.load", "build.load.__wrapped__")],
        env=environment,
        cwd=root,
        capture_output=True,
        timeout=60,
    )
    assert len(list(cache.glob("*.so"))) == 1


def test_the_cache_knows_flags_sources_and_torch(cache, tmp_path, monkeypatch):
    """A library built for something else must not be loaded: each of these changes its name."""
    asked = []

    def compile_nothing(command, links, library):
        asked.append(library.name)
        raise RuntimeError("stop here")

    monkeypatch.setattr(build, "_compile", compile_nothing)

    def ask(isa="native"):
        build.load.cache_clear()
        with pytest.raises(RuntimeError, match="stop here"):
            build.load(isa)

    ask()
    ask()
    assert asked[0] == asked[1]
    ask("haswell")
    monkeypatch.setattr(torch, "__version__", "2.99")
    ask()
    monkeypatch.setattr(build, "_cpu_model", lambda: "another CPU")
    ask()
    sources = shutil.copytree(build._FOLDER, tmp_path / "sources")
    monkeypatch.setattr(build, "_FOLDER", sources)
    ask()
    assert asked[-1] == asked[-2]
    (sources / "new.h").write_text("// a header that nobody has listed\n")
    ask()
    (sources / "step.h").write_text((sources / "step.h").read_text() + "\n")
    ask()
    assert len(set(asked)) == 6


def test_an_unwritable_cache_is_one_clear_refusal(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    build.load.cache_clear()
    backends._said.clear()
    with pytest.raises(RuntimeError, match="cannot be kept in .*XDG_CACHE_HOME"):
        rollout(X, WEIGHTS, RULE, 2, backend="cpu")
    with pytest.warns(UserWarning, match="stock convolutions"):
        rollout(X, WEIGHTS, RULE, 2)
    build.load.cache_clear()


def test_warnings_are_not_raised_when_the_kernel_serves():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rollout(X, WEIGHTS, RULE, 2)


HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
HALF_RULES = {
    "texture": Rule(),
    "growing": Rule(16, (32,), ("identity", "sobel_x/8", "sobel_y/8"), alive_channel=3, output_bias=True),
    "two layers": Rule(7, (9, 8), padding="zero", frozen=2, maximum_window=3),
}


def halves(rule, dtype, backend, x, weights, grad_y, **options):
    """`values_and_gradients` of a state of 16 bits and weights of float32."""
    x = x.to(dtype).requires_grad_()
    weights = [tuple(None if t is None else t.clone().requires_grad_() for t in pair) for pair in weights]
    y = rollout(x, weights, rule, 5, seed=3, backend=backend, **options)
    y.backward(grad_y.to(dtype))
    assert y.dtype == dtype and (x.grad is None or x.grad.dtype == dtype)
    return [y.detach(), x.grad] + [t.grad for pair in weights for t in pair if t is not None]


@HALVES
@pytest.mark.parametrize("name", HALF_RULES)
def test_states_of_16_bits(name, dtype, poisoned):
    """At most twice the error of the reference, which rounds the state after each step, and its gradient too."""
    rule = HALF_RULES[name]
    x = (torch.randn(2, rule.channels, 9, 20) * 0.5).to(dtype).float()
    weights, grad_y = random_weights(rule), torch.randn_like(x).to(dtype).float()
    exact = values_and_gradients(rule, weights, x, grad_y, 5, seed=3, backend="reference", dtype=torch.float64)
    plain, fused = (halves(rule, dtype, b, x, weights, grad_y) for b in ("reference", "cpu"))
    for e, p, f in zip(exact, plain, fused, strict=True):
        assert relative_error(f, e) <= 2 * relative_error(p, e)
    # Not only as near, but the same rounding: sums in another order round a number in a hundred to its neighbour.
    assert (plain[0] == fused[0]).float().mean() > 0.97


@HALVES
def test_states_of_16_bits_are_rounded_after_each_step(dtype):
    """However steps are cut into calls, segments and buffers, the bits are the same, and so is what lies outside."""
    rule, x = Rule(), torch.randn(2, 12, 9, 20).to(dtype)
    weights, before = random_weights(rule), x.clone()
    whole = rollout(x, weights, rule, 7, seed=5, backend="cpu")
    by_steps = x
    for n in range(7):
        by_steps = rollout(by_steps, weights, rule, 1, seed=5, first_step=n, backend="cpu")
    buffers = x.clone(), torch.full_like(x, torch.nan)
    in_two, _ = advance(*buffers, weights, rule, 7, seed=5, backend="cpu")
    assert torch.equal(by_steps, whole) and torch.equal(in_two, whole) and torch.equal(x, before)
    options = ({}, {"checkpoint_every": 2}, {"checkpoint_every": 3}, {"checkpoint_every": 9})
    runs = [halves(rule, dtype, "cpu", x.float(), weights, x.float(), **o) for o in options]
    assert all(torch.equal(run[0], runs[0][0]) for run in runs)
    for run in runs[1:]:  # between segments the gradient is rounded to 16 bits; eps is that of bfloat16
        for a, b in zip(run, runs[0], strict=True):
            assert relative_error(a, b.double()) < 2**-7
    cut = [halves(rule, dtype, b, x.float(), weights, x.float(), bptt_steps=2)[2:] for b in ("cpu", "reference")]
    for a, b in zip(*cut, strict=True):
        assert relative_error(a, b.double()) < 2**-6


def test_default_backend_serves_16_bits_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in (torch.bfloat16, torch.float16):
            x = torch.randn(1, 4, 5, 6).to(dtype)
            assert torch.equal(
                rollout(x, WEIGHTS, RULE, 2, seed=0), rollout(x, WEIGHTS, RULE, 2, seed=0, backend="cpu")
            )


def test_float64_is_served_by_convolutions_with_one_warning():
    backends._said.clear()
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    with pytest.warns(
        UserWarning, match=r"stock convolutions, .*: the C.. kernel takes.*but x is torch.float64: use x.float"
    ):
        y = rollout(x, WEIGHTS, RULE, 2, seed=0)
    assert torch.equal(y, rollout(x, WEIGHTS, RULE, 2, seed=0, backend="convolutions"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rollout(x, WEIGHTS, RULE, 2)
