"""A program for test_triton_launch: what Triton is told to launch, by its front end and repeated, with a fake driver;
and what the driver is told by C.

    PYTHONPATH=.:tests python tests/launches.py

It runs without the interpreter, in which nothing is compiled, so not in the process of the tests.
"""

import ctypes
import dataclasses
import gc
import sys
import weakref
from ctypes import POINTER, c_int, c_uint, c_void_p
from unittest import mock

import torch
import triton
import triton.language as tl
from nca_fast.kernels.triton import fire, laid_out, rollout, steps, together
from nca_fast.kernels.triton import launch as module
from nca_fast.kernels.triton.fire import Step, row_keys, word, write_place
from nca_fast.kernels.triton.launch import RepeatedStep, launch
from nca_fast.kernels.triton.rollout import pack_weights

from bench.launch_cost import Launcher, use_the_fake_driver
from nca_fast import Rule
from nca_fast.backends import Place
from nca_fast.fire_masks import threshold


@triton.jit
def shift(x, out, count, shift_by, BLOCK: tl.constexpr, SCALE: tl.constexpr = 2):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < count) * SCALE + shift_by, mask=i < count)


@triton.jit
def clear(x, BLOCK: tl.constexpr):
    tl.store(x + tl.arange(0, BLOCK), 0.0)


def told(take, calls):
    """All that the launcher is given in these calls, with addresses in the place of tensors."""
    Launcher.noted = []
    for tensors in calls:
        take(*tensors)
    return [(*n[:-1], addresses_of(n[-1])) for n in Launcher.noted]


def addresses_of(arguments):
    """Arguments with addresses in the place of tensors."""
    return tuple(a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments)


def same(step, calls, remembered=True):
    """Launches steps in all ways, checks that they are told the same, and returns that and the repeated step."""
    by_front_end, repeated = told(step, calls), RepeatedStep(step)
    assert told(repeated, calls) == by_front_end and len(by_front_end) >= len(calls)
    with mock.patch.object(module._Launch, "run", lambda self: 1 / 0) if remembered else mock.MagicMock():
        assert told(RepeatedStep(step), calls) == by_front_end  # and nothing is compiled again
    return by_front_end, repeated


class FakeCuda:
    """A function that stands for cuLaunchKernel and notes what it is told, every argument by its bits.

    Args:
        fails_at: Number of the launch that it refuses.
    """

    def __init__(self, fails_at=None):
        self.noted, self.fails_at = [], fails_at
        numbers = [c_uint] * 7
        kind = ctypes.CFUNCTYPE(c_int, c_void_p, *numbers, c_void_p, POINTER(c_void_p), c_void_p)
        self.function = kind(self.launch)
        self.address = ctypes.cast(self.function, c_void_p).value

    def launch(self, function, x, y, z, threads, threads_y, threads_z, shared, stream, arguments, extra):
        if len(self.noted) == self.fails_at:
            return 700
        kinds = Launcher.of_functions[function].passed
        sizes = [8 if kind[0] == "*" else int(kind[1:]) // 8 for kind in kinds]
        bits = [ctypes.string_at(arguments[i], size) for i, size in enumerate(sizes)]
        scratch = [ctypes.string_at(arguments[len(kinds) + i], 8) for i in range(2)]
        assert (threads_y, threads_z, extra, scratch) == (1, 1, None, [bytes(8)] * 2)
        self.noted.append(((x, y, z), stream, function, threads, shared, bits))
        return 0


def as_the_driver_is_told(launches):
    """What Triton's launcher hands on of what it is told: `FakeCuda.noted`."""
    found = []
    for grid, stream, function, _, arguments in launches:
        launcher = Launcher.of_functions[function]
        pairs = zip(launcher.signature, arguments, strict=True)
        passed = [(kind, value) for kind, value in pairs if kind != "constexpr"]
        bits = [
            value.to_bytes(8 if kind[0] == "*" else int(kind[1:]) // 8, sys.byteorder, signed=kind[0] == "i")
            for kind, value in passed
        ]
        facts = launcher.metadata
        found.append((grid, stream, function, 32 * facts.num_warps, facts.shared, bits))
    return found


def from_c(step, calls, by_front_end):
    """Launches steps from C, and checks that the driver is told what Triton would tell it; returns all that it was."""
    cuda, repeated = FakeCuda(), RepeatedStep(step)
    with mock.patch.object(together, "driver", lambda: (cuda.address, str)):
        in_python = told(repeated, calls)  # the first step of a kind that is not known
    assert not in_python and cuda.noted == as_the_driver_is_told(by_front_end)
    return cuda.noted


def functions(launches):
    return {function for _, _, function, *_ in launches}


def step_of_a_rule():
    """Forward and backward, float16 states and keys of which every other one is not aligned to 16 bytes."""
    rule = Rule(channels=4, hidden=(8,), filters=("identity", "sobel_x"), alive_channel=3)
    weights = pack_weights(torch.zeros(sum(o * (i + b) for o, i, b in rule.layers)), rule.kernel_rule, "fp16")
    states, keys = torch.zeros(7, 1, 3, 5, 4, dtype=torch.float16), torch.zeros(7, 1, 3, 2, dtype=torch.int32)
    fire, scales = threshold(0.5), torch.ones(7, 1)
    buffer = steps.gradient_buffer(weights, states[0])

    def forward(x, out, keys):
        steps.forward_step(x, out, weights, Step(keys, fire, 3))

    def backward(x, grad, grad_x, scale, keys, following=None):
        steps.backward_step(x, grad, grad_x, buffer, weights, scale, Step(keys, fire, 3), following)

    grads = torch.zeros(2, 1, 3, 5, 4, dtype=torch.float16)
    for step, calls in (
        (forward, [(states[n], states[n + 1], keys[n]) for n in range(6)]),
        (
            backward,
            [
                (states[n], grads[n % 2], grads[1 - n % 2], scales[n], keys[n], *states[n + 1 : n + 1 + n % 2])
                for n in range(6)
            ],
        ),
    ):
        launches, repeated = same(step, calls)
        from_c(step, calls, launches)
        assert not repeated.plain and 1 < len(repeated.of_kinds) < len(calls)
        assert len(functions(launches)) > len(launches) // len(calls)  # of either kind of addresses another one


def ints_and_defaults():
    """Numbers keep what they were compiled for; constants may come after the arguments in any order."""
    x = torch.zeros(64)
    for count, by in ((1, 16), (16, 1), (17, 2**33), (2, -3)):

        def step(a, b, count=count, by=by):
            launch(shift, (2, 3), a, b, count, by, SCALE=3, BLOCK=16)

        calls = [(x[i:], x[j:]) for i, j in ((0, 4), (1, 4), (8, 0), (2, 4), (4, 8), (5, 5))]
        launches, repeated = same(step, calls)
        from_c(step, calls, launches)
        assert not repeated.plain and len(functions(launches)) == len(repeated.of_kinds) == 3
        assert launches[0][0] == (2, 3, 1) and launches[0][-1][2:] == (count, by, 16, 3)


def what_cannot_be_repeated():
    """Each step goes through the front end, where a default is left out or a launch takes a part of a tensor."""
    x = torch.zeros(64)
    calls = [(x[:8], x[8:16]), (x[16:24], x[24:])]

    def default(a, b):
        launch(shift, (1,), a, b, 8, 1, BLOCK=16)

    def part(a, b):
        launch(shift, (1,), a, b[4:], 8, 1, BLOCK=16, SCALE=3)

    for step in (default, part):
        assert same(step, calls, remembered=False)[1].plain


def a_refusal():
    """A launch that the driver refuses ends in an error with the kernel's name, and none is made after it."""
    x = torch.zeros(64)

    def step(a, b):
        launch(shift, (1,), a, b, 8, 1, BLOCK=16, SCALE=3)
        launch(clear, (1,), b, BLOCK=8)
        launch(shift, (1,), a, b, 6, 1, BLOCK=16, SCALE=3)

    RepeatedStep(step)(x[:8], x[8:16])  # compiles
    cuda = FakeCuda(fails_at=4)
    with mock.patch.object(together, "driver", lambda: (cuda.address, lambda status: f"words of {status}")):
        repeated = RepeatedStep(step)
        RepeatedStep(step)(x[:8], x[8:16])
        try:
            repeated(x[16:24], x[24:32])
        except RuntimeError as error:
            assert str(error) == "the kernel clear was not launched: words of 700 (status 700)."
        else:
            raise AssertionError("it was not refused")
    assert len(cuda.noted) == 4


def what_is_not_launched_from_c():
    """Without a compiler, with a number that is no integer, or one among the constants, Triton's launcher launches."""
    x = torch.zeros(64)
    calls = [(x[:8], x[8:16]), (x[16:24], x[24:])]

    def whole(a, b):
        launch(shift, (1,), a, b, 8, 1, BLOCK=16, SCALE=3)

    def broken(a, b):
        launch(shift, (1,), a, b, 8, 1.5, BLOCK=16, SCALE=3)

    def named(a, b):
        launch(shift, (1,), a, b, 8, shift_by=2, BLOCK=16, SCALE=3)

    for step, library in ((whole, lambda: None), (broken, together.library), (named, together.library)):
        by_front_end, cuda = told(step, calls), FakeCuda()
        with (
            mock.patch.object(together, "driver", lambda address=cuda.address: (address, str)),
            mock.patch.object(together, "library", library),
        ):
            assert told(RepeatedStep(step), calls) == by_front_end and not cuda.noted


def another_triton():
    """A function that launches with another signature, or none, or on something else."""
    x = torch.zeros(64)
    calls = [(x[:8], x[8:16]), (x[16:24], x[24:])]

    def step(a, b):
        launch(shift, (1,), a, b, 8, 1, BLOCK=16, SCALE=3)

    def whole(kernel, grid, stream):
        return *grid, stream, kernel.function, kernel.packed_metadata

    runtime = triton.knobs.runtime
    compiled, hooks = triton.compiler.CompiledKernel, (runtime.launch_enter_hook, runtime.launch_exit_hook)
    others = (
        lambda self, grid: None,
        lambda self, grid: lambda *arguments: None,
        lambda self, grid: lambda *arguments, stream: self.run(grid, stream, *arguments),
        lambda self, grid: lambda *arguments, stream: self.run(*grid, stream, self.function, *arguments[:-2]),
        lambda self, grid: lambda *a, stream: self.run(*grid, stream, 0, self.packed_metadata, None, *hooks, *a),
        lambda self, grid: lambda *a, stream: self.run(*whole(self, grid, stream), None, *hooks, *a[::-1]),
        lambda self, grid: lambda *a, stream: self.run(*whole(self, grid, stream), None, None, None, *a),
    )
    for other in others:
        module._known.clear()
        with mock.patch.object(compiled, "__getitem__", other):
            assert same(step, calls, remembered=False)[1].plain
    assert not same(step, calls)[1].plain


def a_profiler():
    """Is told of each launch."""
    x, names = torch.zeros(64), []
    calls = [(x[:8], x[8:16]), (x[16:24], x[24:])]

    def step(a, b):
        launch(shift, (1,), a, b, 8, 1, BLOCK=16, SCALE=3)

    def hook(metadata):
        names.append(metadata.get()["name"])

    for hooks in (triton.knobs.runtime.launch_enter_hook, triton.knobs.runtime.launch_exit_hook):
        hooks.add(hook)
        repeated = RepeatedStep(step)
        told(repeated, calls)
        hooks.remove(hook)
        assert names == ["shift", "shift"] and not repeated.plain
        names.clear()


def nothing_changing_is_kept():
    """A step holds on to what stays the same, and to nothing else."""
    x, fixed = torch.zeros(64), torch.zeros(8)

    def step(a):
        launch(shift, (1,), a, fixed, 8, 1, BLOCK=16, SCALE=3)

    repeated = RepeatedStep(step)
    repeated(x)
    (kept,) = next(iter(repeated.of_kinds.values())).fixed
    assert kept is fixed


def the_same_tensor_twice():
    """A step on one tensor is of another kind than one on two, or on one that does not change."""
    x, y, z = torch.zeros(3, 8)

    def of_three(fixed):
        return lambda a, b: [launch(shift, (1,), p, q, 8, 1, BLOCK=16, SCALE=3) for p, q in ((a, b), (b, fixed))]

    calls = [(fixed, (a, b)) for fixed in (x, z) for a, b in ((x, x), (y, y), (x, y), (y, x))]
    for fixed, call in [*calls, *calls[::-1]]:
        step = of_three(fixed)
        assert told(RepeatedStep(step, "of three", [fixed]), [call]) == told(step, [call])


def named(cuda, names):
    """What the driver was told, with the names of known memory in the place of addresses, and "other"."""
    found = []
    for grid, stream, function, threads, shared, bits in cuda.noted:
        arguments = []
        for kind, value in zip(Launcher.of_functions[function].passed, bits, strict=True):
            address = int.from_bytes(value, sys.byteorder)
            arguments.append(names.get(address, "other") if kind[0] == "*" else value)
        found.append((grid, stream, function, threads, shared, arguments))
    return found


class Run:
    """A rollout of a rule forward and backward on memory of its own.

    Args:
        of: () where all samples and steps share their weights and thresholds, or how many weights there are: by sample,
            or by step and sample; then thresholds differ by step too.
    """

    def __init__(self, rule, precision, shape, dtype, of, framed=False):
        params = torch.randn(*of, sum(o * (i + b) for o, i, b in rule.layers))
        noise = torch.ones(1) if rule.state_noise or rule.update_noise else None
        field = torch.ones(shape[0], 2, *shape[1:]) if framed else None
        self.rule, self.weights = rule.kernel_rule, pack_weights(params, rule.kernel_rule, precision, noise, field)
        self.fire, self.states = threshold(0.5), torch.zeros(4, *shape, 4, dtype=dtype)
        if len(of) > 1:
            self.fire = self.fire.expand(3, 1, 1, *shape[1:]).clone()
        self.grad = torch.zeros_like(self.states[0])
        self.buffer = steps.gradient_buffer(self.weights, self.grad)
        self.tensors = [t for way in self.weights.ways for pair in way.weights.of_steps for t in pair]
        self.tensors += self.fire.unbind() if self.fire.ndim else [self.fire]
        self.tensors += [t for t in (noise, self.weights.frames and self.weights.frames.field) if t is not None]
        self.tensors += [*self.states.unbind(), self.grad, *(t for t in self.buffer if t is not None)]

    def by_front_end(self, place):
        """Runs it with each step through Triton's front end; returns what the driver would be told."""
        cuda, Launcher.noted = FakeCuda(), []
        with mock.patch.object(rollout, "RepeatedStep", lambda step, *more: step):
            self._run(place)
        cuda.noted = as_the_driver_is_told([(*n[:-1], addresses_of(n[-1])) for n in Launcher.noted])
        Launcher.noted = None
        return self._named(cuda)

    def __call__(self, place):
        """Runs it; returns what the driver is told."""
        cuda = FakeCuda()
        with mock.patch.object(together, "driver", lambda: (cuda.address, str)):
            self._run(place)
        return self._named(cuda)

    def _run(self, place):
        arguments = self.weights, self.fire, self.rule, place
        with mock.patch.object(fire, "launch_alone"):
            rollout.advance(self.states[0], *arguments, self.states[1:], 1)
            rollout.backward(self.states[:3], self.grad, *arguments, self.buffer)

    def _named(self, cuda):
        kept = [*enumerate(self.tensors), *self.weights.scratch.kept.items()]
        return named(cuda, {t.data_ptr(): name for name, t in kept})


def what_is_kept_across_rollouts():
    """A rollout like an earlier one lists nothing and launches, argument for argument, what it would by itself; on
    whatever memory, from whatever seed and step. One that is not like it has launches of its own."""
    grows = Rule(channels=4, hidden=(8,), filters=("identity", "sobel_x"), alive_channel=3)
    wide = Rule(channels=4, hidden=(16,), filters=("sobel_x5",), state_noise=0.1)
    turned = Rule(channels=4, hidden=(8,), filters=("sobel_x", "sobel_y"), update_activation="tanh")
    kinds = [
        (grows, "fp16", (1, 3, 5), torch.float16, ()),
        (dataclasses.replace(grows, alive_threshold=0.5), "fp16", (1, 3, 5), torch.float16, ()),
        (grows, "fp16", (1, 3, 7), torch.float16, ()),
        (grows, "fp16", (3, 3, 5), torch.float32, (3,)),
        (wide, "fp32", (3, 6, 5), torch.float32, (3,)),
        (wide, "fp32", (3, 6, 5), torch.float32, ()),
        (wide, "fp32", (3, 6, 5), torch.float32, (2, 3)),
        (grows, "fp16", (3, 3, 5), torch.float32, (2, 1)),
        (turned, "fp16", (3, 6, 5), torch.float32, ()),
        (turned, "fp16", (3, 6, 5), torch.float32, (), True),
    ]
    places = Place(1, 0, 0, 0, 0, 2**32), Place(-5, 2**32 - 2, 3, 7, 9, 8)
    for kind in kinds:
        Run(*kind)(places[0])  # compiles
    laid_out.forget()
    for kind in kinds:
        for place in places:
            before = len(laid_out._kept)
            Run(*kind)(place)
            assert len(laid_out._kept) - before >= 2
    for place in places:
        for kind in reversed(kinds):
            held, run = [torch.empty(1000) for _ in range(100)], Run(*kind)
            with mock.patch.object(RepeatedStep, "_list", lambda *a: 1 / 0):
                kept = run(place)
            del held
            assert kept == run.by_front_end(place) and len(kept) > 5
    elsewhere = Run(*kinds[0])  # its scratch lies beside an address that is a multiple of 16
    elsewhere.weights.scratch.kept["living"] = torch.zeros(16, dtype=torch.int8)[1:].view(1, 3, 5)
    elsewhere(places[0])  # compiles
    assert elsewhere(places[0]) == elsewhere.by_front_end(places[0])


def what_is_kept_is_bounded_and_holds_no_memory():
    rule = Rule(channels=4, hidden=(8,), filters=("identity", "sobel_x"), alive_channel=3)
    laid_out.forget()
    run = Run(rule, "fp16", (1, 3, 5), torch.float16, ())
    run(Place(1, 0, 0, 0, 0, 2**32))
    of_rollout = map(weakref.ref, [*run.tensors, *run.weights.scratch.kept.values()])
    alive = [t for t in of_rollout if t() is not None]
    assert len(laid_out._kept) >= 3 and len(alive) > 6
    del run
    gc.collect()
    assert not any(t() is not None for t in alive)
    kept = next(iter(laid_out._kept.values()))
    for n in range(1000):
        laid_out.keep(n, kept)
        laid_out.find(7)
    assert len(laid_out._kept) == laid_out._MOST and laid_out.find(7) is kept and laid_out.find(8) is None
    laid_out.forget()
    assert laid_out.find(7) is None
    known = len(module._known)
    with mock.patch.object(module, "_MOST", known):
        for n in range(3):
            module.launch_alone(shift, (1,), torch.zeros(8), torch.zeros(8), 8, 100 + n, BLOCK=16, SCALE=3)
    assert len(module._known) == known


def numbers_beside_the_steps():
    """A launch beside the steps is what Triton's front end launches, whatever its numbers; compiled once."""
    table, place = torch.zeros(64, dtype=torch.int32), torch.zeros(6, dtype=torch.int32)
    places = place, torch.zeros(7, dtype=torch.int32)[1:]
    calls = [
        (place, *(word(v) for v in (seed, seed >> 32, n, 1, 2, 16)))
        for seed in (0, 1, 2**63 + 7)
        for n in (0, 5)
        for place in places
    ]

    def told_by(launch):
        return told(lambda *a: launch(write_place, (1,), *a), calls) + told(
            lambda *a: launch(row_keys, (1,), *a, WORDS=2, SHARED_BATCH=False, SHARED_HEIGHT=False, BLOCK=128),
            [(table, place, 8, 1, 8), (table, place[1:], 8, 1, 8), (table, place, 16, 1, 8), (table, place, 8, 2, 4)],
        )

    want, known = told_by(module.launch), set(module._known)
    assert told_by(module.launch_alone) == want and len({n[2] for n in want}) == 6
    assert len(set(module._known) - known) <= 6
    with mock.patch.object(module._Launch, "run", lambda self: 1 / 0):
        assert told_by(module.launch_alone) == want


if __name__ == "__main__":
    use_the_fake_driver()
    cases = (step_of_a_rule, ints_and_defaults, what_cannot_be_repeated, a_refusal, what_is_not_launched_from_c)
    kept = what_is_kept_across_rollouts, what_is_kept_is_bounded_and_holds_no_memory, numbers_beside_the_steps
    for case in (*cases, another_triton, a_profiler, nothing_changing_is_kept, the_same_tensor_twice, *kept):
        case()
        print(case.__name__, flush=True)
