"""Rollouts that are replayed as CUDA graphs give the bits of those that are launched step by step.

Without a GPU a `Recorder` stands for graphs: what it captures is not executed, and a replay repeats the launches and
torch operations with the tensors and numbers of the capture. The kernels of a step take long in the interpreter: most
tests put a few torch operations in their place, which depend on all that the kernels do. With a GPU all is real.
"""

import json
import threading
import time
import warnings
from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from rollouts import random_weights
from torch.utils._python_dispatch import TorchDispatchMode

from nca_fast import NCA, Rule, rollout
from nca_fast.backends import Place

pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = DEVICE == "cpu"
needs_gpu = pytest.mark.skipif(INTERPRETED, reason="streams and captures need a GPU")
pytestmark = pytest.mark.filterwarnings("error:nca_fast")  # a capture that fails is no error, but here it is
RULE = Rule(channels=4, hidden=(8,), filters=("identity", "sobel_x"))
WIDE = Rule(channels=4, hidden=(5,), filters=("sobel_x5",), alive_channel=3)


class Tape(TorchDispatchMode):
    """Notes what torch would do, and does of it only what makes tensors."""

    def __init__(self, entries):
        super().__init__()
        self.entries = entries

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        again = partial(operation, *args, **(kwargs or {}))
        if operation._schema.is_mutable:
            self.entries.append(again)
            return args[0]
        out, memory = again(), {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        if isinstance(out, torch.Tensor) and not (operation.is_view and out.untyped_storage().data_ptr() in memory):
            self.entries.append(lambda: out.copy_(again()))
        return out


class Recorder:
    """Stands for `graphs.Graphs`."""

    def capture(self, launch):
        from triton.runtime.interpreter import InterpretedFunction

        entries, run = [], InterpretedFunction.run
        with (
            mock.patch.object(InterpretedFunction, "run", lambda *a, **k: entries.append(partial(run, *a, **k))),
            torch.inference_mode(False),  # what the tape keeps is written to in any mode
            torch.no_grad(),
            Tape(entries),
        ):
            launch()

        def replay():
            for entry in entries:
                entry()

        return replay


def cheap_forward_step(x, out, weights, step):
    """Depends on all that `forward_step` is given; a step after another is not the same as the other after the one."""
    assert x.data_ptr() != out.data_ptr()  # a kernel would overwrite what its neighbours read
    one = weights.packed.matrices.float().sum(-1) + 3 * weights.packed.biases.sum(-1)  # of each sample
    if weights.frames is not None:
        one = one + weights.frames.field[:, 1].mean((1, 2))
    z = (step.keys.long().sum(-1, keepdim=True) + step.fire + step.column) % 1009  # [B, H, 1 or W]
    out.copy_(torch.sin(0.8 * x + 0.2 * x.roll(1, 2) + z[..., None] * 1e-3 + one.reshape(-1, 1, 1, 1)))


def cheap_backward_step(x, grad, grad_x, buffer, weights, scale, step, following):
    """Likewise; rounds as float16 does, after scaling."""
    assert grad.data_ptr() != grad_x.data_ptr()
    if weights.packed.precision == "fp16":
        grad = (grad.float() * scale).half().float() / scale
    cheap_forward_step(x, grad_x, weights, step)
    for added in buffer if weights.frames is not None else buffer[:1]:
        added.add_((grad_x * grad).sum())
    grad_x.copy_(0.5 * grad_x * grad + 0.5 * grad.roll(1, 2))


@pytest.fixture
def graphs(graphs_of_kernels, monkeypatch):
    """`graphs_of_kernels` with cheap steps, if these are in the interpreter."""
    from nca_fast.kernels.triton import rollout as rollouts

    for module in (graphs_of_kernels, rollouts) if INTERPRETED else ():
        monkeypatch.setattr(module, "forward_step", cheap_forward_step)
        monkeypatch.setattr(module, "backward_step", cheap_backward_step)
    if INTERPRETED:  # what launches nothing cannot be repeated
        monkeypatch.setattr(rollouts._Steps, "repeated", lambda self, step, *more: step)
    return graphs_of_kernels


@pytest.fixture
def graphs_of_kernels(monkeypatch):
    """The module, without frames; `replayed` lists the runs that were replays."""
    from nca_fast.kernels.triton import graphs
    from nca_fast.kernels.triton.single_pass import plan

    if INTERPRETED:
        monkeypatch.setattr(graphs, "Graphs", Recorder)
        monkeypatch.setattr(graphs, "_replays", lambda x: True)
        for precision in plan.COLUMNS:
            monkeypatch.setitem(plan.COLUMNS, precision, 16)
    run = graphs.Frame.run
    replayed = []

    def noted(frame, what, steps):
        if (what.__name__, steps) in frame.replays:
            replayed.append((what.__name__, steps))
        run(frame, what, steps)

    monkeypatch.setattr(graphs.Frame, "run", noted)
    monkeypatch.setattr(graphs, "replayed", replayed, raising=False)
    graphs._frames.clear()
    yield graphs
    graphs._frames.clear()


def poison(graphs):
    """Fills the memory of all frames with what a later rollout must not see."""
    for frame in graphs._frames.values():
        if frame is not None:
            weights, turning = frame.weights.packed, frame.weights.frames or ()
            given = (weights.matrices, weights.biases, *turning[:1])
            for t in (frame.states, frame.grads, *(frame.buffer or ()), *given):
                if t is not None:
                    t.fill_(float("nan"))
            for t in (frame.keys.table, frame.keys.place, frame.fire):
                t.fill_(-1)


def weights_of(rule, batch=None):
    return [
        tuple(None if t is None else t.to(DEVICE).requires_grad_() for t in pair)
        for pair in random_weights(rule, batch)
    ]


def forward(steps, seed, rule=RULE, shape=(1, 3, 5), batch=None, **options):
    """A rollout that depends on the seed alone: y and what it depends on."""
    torch.manual_seed(seed)
    weights, (B, H, W) = weights_of(rule, batch), shape
    x = torch.randn(B, rule.channels, H, W).to(DEVICE, options.pop("dtype", torch.float32)).requires_grad_()
    grad_y = torch.randn(x.shape).to(x) * 10.0 ** -(seed % 7)
    frame = [(torch.rand(B, 2, H, W) + 0.5).to(DEVICE).requires_grad_()] if options.pop("framed", False) else []
    options |= dict(zip(("frame",), frame, strict=False))
    y = rollout(x, weights, rule, steps, seed=seed, backend="triton", **({"precision": "fp32"} | options))
    return y, grad_y, [x] + [t for pair in [*weights, frame] for t in pair if t is not None]


def results(*arguments, **options):
    """y and all gradients."""
    y, grad_y, inputs = forward(*arguments, **options)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad_y, allow_unused=True)]


def plainly(graphs, call):
    with mock.patch.object(graphs, "_replays", lambda x: False):
        return call()


def assert_same(got, want):
    assert all((a is None) == (b is None) for a, b in zip(got, want, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True) if a is not None)


@pytest.mark.parametrize("longest", [8, 64])
def test_runs_of_powers_of_two_make_up_all_numbers_of_steps(longest):
    from nca_fast.kernels.triton.graphs import runs

    for steps in range(200):
        found = runs(steps, longest)
        assert [start for start, _ in found] == [sum(n for _, n in found[:i]) for i in range(len(found))]
        assert sum(n for _, n in found) == steps
        assert all(n & n - 1 == 0 and n <= longest for _, n in found)
        assert len(found) <= steps // longest + longest.bit_length() - 1
    assert runs(longest + 5, longest) == [(0, longest), (longest, 4), (longest + 4, 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gradient_scale_takes_the_largest_element_to_about_one(dtype):
    from nca_fast.kernels.triton.gradient_scale import choose_scale
    from nca_fast.kernels.triton.memory import Scratch

    scale, scratch = torch.empty((), device=DEVICE), Scratch()
    for value in (1.0, 1.5, 0.99, 2.0, 65504.0, 1e-8, 1e-25, 3e38, 1e-40, 0.0, float("inf"), float("nan")):
        grad = torch.tensor([0.0, -value, value / 2, 0.0], device=DEVICE).to(dtype)
        largest = grad.abs().amax().float()
        want = torch.exp2(-torch.log2(largest).floor().clamp(-60, 60))
        choose_scale(grad, scale, scratch)
        assert torch.equal(scale.nan_to_num(7.0), want.nan_to_num(7.0)), value


def test_gradient_scale_looks_at_every_element(monkeypatch):
    """Of a last block that is not full too; and not at what lies beyond."""
    from nca_fast.kernels.triton import gradient_scale
    from nca_fast.kernels.triton.memory import Scratch

    monkeypatch.setattr(gradient_scale, "_PARTS", 4)
    monkeypatch.setattr(gradient_scale, "_BLOCK", 16)
    scale, scratch = torch.empty((), device=DEVICE), Scratch()
    for count in (4, 64, 68, 200):
        poisoned = torch.full((count + 64,), torch.inf, device=DEVICE)
        for at in {0, 15, 16, count // 2, count - 1} & {*range(count)}:
            grad = poisoned[:count].zero_()
            grad[at] = -4
            gradient_scale.choose_scale(grad, scale, scratch)
            assert scale == 0.25, (count, at)


def test_replays_of_any_number_of_steps_draw_new_masks(graphs):
    """One frame serves them all; seeds, first steps, places and weights differ from call to call."""
    with torch.no_grad():
        for call, steps in enumerate((1, 7, 8, 33, 96, 7, 33, 7, 8, 96, 65)):
            place = {"first_step": 2**32 - 100 * (call % 3 + 1), "origin": (call * 2**30 % 2**32, 3)}
            place |= {"first_sample": call, "canvas_height": 2**32 - call % 2}
            run = partial(forward, steps, 2**63 * (call % 2) + call, **place)
            want = plainly(graphs, run)[0]
            assert torch.equal(run()[0], want)
            poison(graphs)
    assert len([f for f in graphs._frames.values() if f is not None]) == 1
    assert {n for _, n in graphs.replayed} >= {1, 2, 4, 32, 64}


@pytest.mark.parametrize(
    "precision, dtype", [("fp32", torch.float32), ("fp16", torch.float32), ("fp16", torch.float16)]
)
def test_gradients_of_replays(precision, dtype, graphs):
    for seed, steps in enumerate((6, 12, 20, 12, 6, 30)):
        run = partial(results, steps, seed, precision=precision, dtype=dtype)
        want = plainly(graphs, run)
        assert_same(run(), want)
        poison(graphs)
    assert {(what, n) for what in ("backward", "advance_and_keep") for n in (1, 2, 8)} <= set(graphs.replayed)


@pytest.mark.parametrize("rule", [RULE, WIDE], ids=["one pass", "through memory"])
def test_kernels_in_graphs(rule, graphs_of_kernels):
    """The kernels themselves; those that keep perception in memory forward only, because they take long."""
    with torch.set_grad_enabled(rule is RULE):
        run = partial(results if rule is RULE else lambda *a, **k: [forward(*a, **k)[0]], rule=rule)
        for seed in range(3):
            got = run(5, seed)
            poison(graphs_of_kernels)
        assert_same(got, plainly(graphs_of_kernels, partial(run, 5, seed)))
    assert ({"backward", "advance_and_keep"} if rule is RULE else {"advance"}) <= {
        n for n, _ in graphs_of_kernels.replayed
    }


OPTIONS = {
    "checkpoints": {"checkpoint_every": 5},
    "truncated": {"bptt_steps": 6},
    "checkpoints, truncated": {"checkpoint_every": 4, "bptt_steps": 7},
    "a rule per sample": {"shape": (3, 3, 4), "batch": 3},
    "two hidden layers": {"rule": Rule(channels=4, hidden=(5, 6))},
    "an alive mask and a large filter": {"rule": WIDE},
    "frames": {"rule": Rule(channels=4, hidden=(8,), filters=("sobel_x", "sobel_y")), "framed": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_all_ways_through_a_rollout(name, graphs):
    for seed in range(3):
        run = partial(results, 11, seed, **OPTIONS[name])
        want = plainly(graphs, run)
        assert_same(run(), want)
        poison(graphs)
    assert {"backward"} < {what for what, _ in graphs.replayed}


def test_fire_rate_maps_are_taken_anew(graphs):
    for seed in range(3):
        run = partial(results, 6, seed, fire_rate=torch.rand(3, 5, device=DEVICE))
        assert_same(run(), plainly(graphs, run))
        poison(graphs)
    assert graphs.replayed


def test_rollouts_that_are_under_way_together(graphs):
    """Two forward passes before the first backward pass, in either order, and one graph differentiated twice."""
    for seed in range(3):
        results(9, seed)
    runs = [partial(forward, 9, seed) for seed in (5, 6)]
    want = plainly(graphs, lambda: [results(9, seed)[1:] for seed in (5, 6)])
    for order in ((0, 1), (1, 0), (0, 0, 1, 1)):
        made = [run() for run in runs]
        poison(graphs)
        for i in order:
            y, grad_y, inputs = made[i]
            assert_same(torch.autograd.grad(y, inputs, grad_y, retain_graph=True), want[i])
            poison(graphs)
    assert ("backward", 8) in graphs.replayed


def test_results_are_never_the_memory_of_a_frame(graphs):
    with torch.no_grad():
        made = [forward(8, seed)[0] for seed in range(4)]
        copies = [y.clone() for y in made]
        poison(graphs)
    assert_same(made, copies)


def test_kinds_of_rollouts_have_frames_of_their_own(graphs):
    """The column of the canvas, the stream, shapes, dtypes, rules, precisions: what a capture holds fast."""
    kinds = [
        {},
        {"origin": (0, 7)},
        {"shape": (1, 5, 3)},
        {"dtype": torch.float16},
        {"precision": "fp16"},
        {"rule": Rule(channels=4, hidden=(8,), filters=("identity", "sobel_x"), padding="zero")},
        {"fire_rate": torch.rand(3, 5, device=DEVICE)},
    ]
    with torch.no_grad():
        for seed in range(3):
            for kind in kinds:
                run = partial(forward, 5, seed, **kind)
                assert torch.equal(run()[0], plainly(graphs, run)[0])
        with mock.patch.object(graphs, "_stream", lambda x: 17):
            forward(5, 0)
            forward(5, 0)
    assert len([f for f in graphs._frames.values() if f is not None]) == len(kinds) + 1


def test_frames_are_bounded_and_those_let_go_are_made_again(graphs, monkeypatch):
    with torch.no_grad():
        for _ in range(3):
            forward(5, 0)
        (frame,) = graphs._frames.values()
        monkeypatch.setattr(graphs, "_FRAMES_BYTES", int(2.5 * frame.nbytes))
        for column in (1, 2, 3, 0):
            for seed in range(3):
                run = partial(forward, 5, seed, origin=(0, column))
                assert torch.equal(run()[0], plainly(graphs, run)[0])
            assert sum(f.nbytes for f in graphs._frames.values() if f) <= graphs._FRAMES_BYTES
        columns = [key[-1] for key, f in graphs._frames.items() if f]
        assert columns == [3, 0]  # used last
        monkeypatch.setattr(graphs, "_FRAMES_BYTES", 0)
        forward(5, 0, origin=(0, 3))
        assert [key[-1] for key, f in graphs._frames.items() if f] == [3]  # one always serves
        monkeypatch.setattr(graphs, "_KINDS", 3)
        for column in range(10, 20):
            forward(5, 0, origin=(0, column))
        assert len(graphs._frames) == 3


def test_what_is_launched_step_by_step(graphs, monkeypatch):
    """Few steps, large states, a pool of memory that somebody resets."""
    with torch.no_grad():
        for _ in range(3):
            forward(3, 0)
        assert not graphs._frames
        monkeypatch.setattr(graphs, "LARGEST_STATE", 1 * 3 * 5 * 4 * 4 - 1)
        monkeypatch.setattr(graphs, "LARGEST_FREE_STATE", 1 * 3 * 5 * 4 * 4 - 1)
        for _ in range(3):
            forward(8, 0)
        assert not graphs._frames
        monkeypatch.setattr(graphs, "LARGEST_STATE", 1 * 3 * 5 * 4 * 4)
        monkeypatch.setattr(graphs, "in_the_common_pool", lambda x: False)
        for seed in range(3):
            run = partial(forward, 8, seed)
            assert torch.equal(run()[0], plainly(graphs, run)[0])
        assert list(graphs._frames.values()) == [None] and not graphs.replayed


def test_large_states_are_replayed_where_none_is_saved(graphs, monkeypatch):
    """In a frame of two states."""
    monkeypatch.setattr(graphs, "LARGEST_STATE", 1 * 3 * 5 * 4 * 4 - 1)
    with torch.no_grad():
        for seed in range(3):
            run = partial(forward, 11, seed)
            assert torch.equal(run()[0], plainly(graphs, run)[0])
        (frame,) = graphs._frames.values()
        assert len(frame.states) == 2 and graphs.replayed
        for _ in range(3):
            forward(7, 0)  # fewer steps than a run that saves has: not worth the copies
        assert list(graphs._frames.values()) == [frame]


def test_limits_are_those_that_launches_and_bytes_give():
    """Of a step of one launch and of many, saved and not, within a quarter of the figures that were measured."""
    from nca_fast.kernels.triton import graphs

    from bench.graph_limits import CARDS, RESULTS, limits

    rows = limits(json.loads((RESULTS / "launch_cost.json").read_text())["rows"])
    of = {(row["case"], row["direction"]): row for row in rows}
    texture, many = of["texture", "forward"], of["vae-mnist", "forward"]
    assert pytest.approx(texture["saved"]["H200"], rel=0.25) == graphs.LARGEST_STATE / 2**20
    assert pytest.approx(texture["free"]["H200"], rel=0.25) == graphs.LARGEST_FREE_STATE / 2**20
    assert pytest.approx(many["free"]["H200"] / texture["free"]["H200"], rel=0.25) == graphs.THROUGH_MEMORY
    for card, bandwidth in CARDS.items():
        facts = SimpleNamespace(memory_clock_rate=bandwidth / 2e3 / 512, memory_bus_width=4096)
        graphs._bandwidth.cache_clear()
        with mock.patch("torch.cuda.get_device_properties", lambda device, facts=facts: facts):
            weights = SimpleNamespace(forward_way=None, backward_way=None)
            free = graphs.largest_state(mock.Mock(is_cuda=True, device=card), weights, free=True)
        assert free / 2**20 == pytest.approx(texture["free"][card], rel=0.25)
    graphs._bandwidth.cache_clear()


def test_the_pool_is_that_of_the_segment_that_holds_the_tensor(monkeypatch):
    from nca_fast.kernels.triton import memory

    x = mock.Mock(is_cuda=True, data_ptr=lambda: 2000)
    for pool, address in (((0, 0), 1500), ((0, 3), 1500), ((0, 0), 2001)):
        segments = [
            {"address": 0, "total_size": 2000, "segment_pool_id": (0, 9)},
            {"address": address, "total_size": 501, "segment_pool_id": pool},
        ]
        monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda segments=segments: segments)
        assert memory.in_the_common_pool(x) == (pool == (0, 0) and address == 1500)


def test_inside_a_capture_of_the_caller_nothing_is_replayed(monkeypatch):
    from nca_fast.kernels.triton import graphs

    for capturing in (True, False):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda capturing=capturing: capturing)
        assert graphs._replays(mock.Mock(is_cuda=True)) is not capturing
    assert not graphs._replays(torch.zeros(1))


def test_a_capture_that_fails_is_said_and_costs_nothing_else(graphs, monkeypatch):
    def fail(self, launch):
        raise RuntimeError("no more graphs")

    monkeypatch.setattr(graphs.Graphs, "capture", fail)
    with torch.no_grad():
        forward(8, 0)
        with pytest.warns(UserWarning, match="launches its kernels one by one.*no more graphs"):
            forward(8, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # said once
            assert torch.equal(forward(8, 1)[0], plainly(graphs, lambda: forward(8, 1)[0]))


def test_threads_do_not_meet_in_a_frame(graphs, monkeypatch):
    """Each adds its own number in every step, slowly; the interpreter itself knows one thread only."""

    class Weights:
        def __init__(self, number):
            self.packed = SimpleNamespace(number=torch.full((), number), precision="fp32")
            self.packed.per_sample = self.packed.by_step = False
            self.scratch, self.noise, self.frames = SimpleNamespace(kept={}), None, None
            self.forward_way = self.backward_way = None

        def twin(self):
            return Weights(self.packed.number.item())

        def copy_(self, other):
            self.packed.number.copy_(other.packed.number)

    def add(x, out, weights, *_):
        time.sleep(1e-3)
        out.copy_(x + weights.packed.number)

    for name in ("put", "make", "move"):
        monkeypatch.setattr(graphs.RowKeys, name, lambda *_: None)
    monkeypatch.setattr(graphs.Graphs, "capture", lambda self, launch: launch)
    monkeypatch.setattr(graphs, "forward_step", add)
    monkeypatch.setattr(graphs, "_stream", lambda x: 0)
    fire, x, found = torch.zeros((), dtype=torch.int64), torch.zeros(1, 3, 5, 4), [None] * 4

    def work(i):
        for _ in range(5):
            states = torch.empty(1, *x.shape)
            if graphs.replayed_advance(
                x, Weights(float(i)), fire, RULE.kernel_rule, Place(0, 0, 0, 0, 0, 1), states, 8
            ):
                found[i] = states.unique().tolist()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[8.0 * i] for i in range(4)]


def test_inference_mode_and_no_grad(graphs):
    want = plainly(graphs, lambda: forward(8, 1)[0].detach())
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        graphs._frames.clear()
        for now in (mode, mode, torch.no_grad, torch.inference_mode, torch.enable_grad):
            with now():
                assert torch.equal(forward(8, 1)[0], want)
            poison(graphs)
    assert graphs.replayed


def test_a_compiled_model_replays(graphs):
    """The operator is opaque to torch.compile: one graph, no break, the same bits."""
    nca = NCA(RULE, init_gain=1.0).to(DEVICE)
    x = torch.randn(1, 4, 3, 5, device=DEVICE)

    def loss(x, seed):
        return nca(x, 6, seed=seed, backend="triton").square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for seed in range(3):
        want = plainly(graphs, lambda seed=seed: torch.autograd.grad(loss(x, seed), list(nca.parameters())))
        assert_same(torch.autograd.grad(compiled(x, seed), list(nca.parameters())), want)
        poison(graphs)
    assert ("backward", 4) in graphs.replayed


@pytest.mark.parametrize("backend", ["triton", "reference", None])
def test_autocast_does_not_reach_into_a_rollout(backend, graphs):
    """Neither the state's type nor what is multiplied changes: `precision` says that."""
    torch.manual_seed(0)
    weights, x = weights_of(RULE), torch.randn(1, 4, 3, 5, device=DEVICE)
    y, grads = [], []
    for enabled in (False, True):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=enabled):
            y.append(rollout(x, weights, RULE, 2, seed=0, backend=backend))
        grads.append(torch.autograd.grad(y[-1].square().sum(), [t for pair in weights for t in pair if t is not None]))
    assert y[1].dtype == torch.float32 and torch.equal(*y)
    assert_same(*grads)


@needs_gpu
def test_streams_do_not_disturb_each_other(graphs):
    streams = [torch.cuda.Stream() for _ in range(3)]
    want = [plainly(graphs, partial(results, 40, seed, shape=(2, 64, 64))) for seed in range(9)]
    torch.cuda.synchronize()
    got = []
    for seed in range(9):
        with torch.cuda.stream(streams[seed % 3]):
            got.append(results(40, seed, shape=(2, 64, 64)))
    torch.cuda.synchronize()
    for a, b in zip(got, want, strict=True):
        assert_same(a, b)
    assert graphs.replayed


@needs_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_gpu_that_is_not_the_current_one(graphs):
    weights, x = weights_of(RULE), torch.randn(1, 4, 32, 32, device=DEVICE)
    there = [tuple(None if t is None else t.detach().to("cuda:1") for t in pair) for pair in weights]
    with torch.no_grad():
        for seed in range(3):
            want = rollout(x, weights, RULE, 20, seed=seed, backend="triton")
            got = rollout(x.to("cuda:1"), there, RULE, 20, seed=seed, backend="triton")
            assert torch.equal(got.to(DEVICE), want)
    assert len({key[0] for key in graphs._frames}) == 2


@needs_gpu
def test_inside_a_graph_of_the_caller(graphs):
    """A whole iteration is captured and replayed with other inputs; before that, frames of the same kind were used."""
    nca = NCA(RULE, init_gain=1.0).to(DEVICE)
    x, parameters = torch.randn(1, 4, 32, 32, device=DEVICE), list(nca.parameters())

    def iteration():
        return torch.autograd.grad(nca(x, 20, seed=3, backend="triton").square().sum(), parameters)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            iteration()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = iteration()
    for seed in range(2):
        torch.manual_seed(seed)
        x.copy_(torch.randn_like(x))
        graph.replay()
        torch.cuda.synchronize()
        assert_same(captured, plainly(graphs, iteration))


@needs_gpu
def test_compiled_with_graphs_of_its_own(graphs):
    """mode="reduce-overhead": the compiler's graphs, in its own pool of memory, around ours."""
    nca = NCA(RULE, init_gain=1.0).to(DEVICE)
    x, parameters = torch.randn(1, 4, 32, 32, device=DEVICE), list(nca.parameters())

    def loss(x):
        return (nca(x * 2, 20, seed=3, backend="triton") * 3).square().sum()

    compiled = torch.compile(loss, mode="reduce-overhead")
    for seed in range(5):
        torch.manual_seed(seed)
        x = torch.randn_like(x)
        want = plainly(graphs, lambda x=x: torch.autograd.grad(loss(x), parameters))
        got = [g.clone() for g in torch.autograd.grad(compiled(x), parameters)]
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # the sum outside the rollout has another order
