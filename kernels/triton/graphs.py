"""Runs of steps as CUDA graphs, for states so small that Python launches kernels more slowly than the GPU runs them.

Training draws another number of steps in each iteration, so what is captured is not a rollout but a run of 1, 2, 4, ...
steps, from which every rollout is put together: a few graphs serve all numbers of steps. A graph always works on the
same memory, that of a `Frame`, which is copied into before and out of after each run. So the states that autograd keeps
are ordinary tensors: nothing that is alive is ever overwritten, however many rollouts are under way. The seed and the
number of the next step lie in the frame's memory too, and each run moves the latter on.

Frames are kept per device and stream, because one stream runs what it is given in order, and for the most recent kinds
of rollouts. Of each kind the first call is launched step by step, the second makes a frame, later ones replay.
"""

import threading
import warnings
from collections import OrderedDict
from functools import lru_cache, partial

import torch
from torch import Tensor

from .fire import RowKeys, Step, word
from .memory import in_the_common_pool
from .steps import RolloutWeights, backward_step, forward_step
from .through_memory.steps import ThroughMemory
from .weights import Gradients

# Steps of the longest run whose states are kept, which lie in the frame, and of one that only goes on. The scale of
# float16 gradients is chosen once per run of SAVED_STEPS, with graphs and without, so that the bits are the same.
SAVED_STEPS = 8
_FREE_STEPS = 64
# Bytes of the largest state that is replayed on an H200, where its step is one launch: above it launches cost less than
# 5 %, because they are done before the GPU is, or than the copies of states that are saved. bench/graph_limits.py
# derives it from what launches cost and the bytes that a step must move.
LARGEST_STATE = 7 << 20
LARGEST_FREE_STATE = 13 << 20  # likewise where no state is saved: nothing is copied but where a rollout begins and ends
THROUGH_MEMORY = 2  # times that, where a step is many launches
H200 = 4.8e12  # bytes per second; other cards in proportion
_FEWEST_STEPS = 4  # copies into the frame and out of it cost as much as launching a few steps
_FRAMES_BYTES = 192 << 20  # of all frames of a device, or of the last one where that has more
_KINDS = 64  # kinds of rollouts that are remembered, most of them without a frame

_lock = threading.RLock()  # between the first and the last launch of a run no other thread may use its frame
_frames = OrderedDict()  # of each kind of rollout, last used last; None: seen once


def runs(steps: int, longest: int) -> list[tuple[int, int]]:
    """Cuts steps into runs of (first step, steps): the longest first, each a power of two."""
    found, start = [], 0
    while start < steps:
        count = min(longest, 1 << (steps - start).bit_length() - 1)
        found.append((start, count))
        start += count
    return found


class Graphs:
    """Captures launches on the current device; the graphs share their memory, because they run one after another."""

    def __init__(self):
        self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def capture(self, launch):
        """Returns a function that repeats launch() with the same tensors. launch() must have run once before."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self.stream):
            # torch.cuda.graph would synchronize and empty the cache of memory each time.
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                launch()
            finally:
                graph.capture_end()
        return graph.replay


class Frame:
    """The memory and the graphs of all rollouts of one kind.

    `states` [SAVED_STEPS + 1 or 2, B, H, W, C4]: the last is where a run begins and ends, the others are in between.
    Of states that are too large to be saved there are two.
    """

    def __init__(self, x: Tensor, weights: RolloutWeights, fire: Tensor, rule, origin_column: int):
        self.weights, self.fire, self.origin_column = weights.twin(), fire.clone(), origin_column
        self.keys = RowKeys(_FREE_STEPS, x, rule)
        self.states = x.new_empty(SAVED_STEPS + 1 if x.nbytes <= largest_state(x, weights) else 2, *x.shape)
        self.grads = self.buffer = None
        self.graphs, self.replays = Graphs(), {}

    @property
    def nbytes(self) -> int:
        """Bytes of the memory that counts."""
        kept = self.weights.scratch.kept.values()
        return sum(t.nbytes for t in (self.states, self.grads, *(self.buffer or ()), *kept) if t is not None)

    def take(self, weights: RolloutWeights, fire: Tensor, place) -> None:
        """Copies in what belongs to one rollout; it stays until another one does so."""
        self.weights.copy_(weights)
        self.fire.copy_(fire)
        self.keys.put(place)

    def run(self, what, steps: int) -> None:
        """Runs one of the functions below, which are given a number of steps."""
        key = what.__name__, steps
        if key in self.replays:
            self.replays[key]()
            return
        launch = partial(what, steps)
        launch()  # compiles what is not yet compiled, which a capture would not allow
        try:
            self.replays[key] = self.graphs.capture(launch)
        except RuntimeError as error:
            self.replays[key] = launch
            warnings.warn(
                f"nca_fast launches its kernels one by one, because a CUDA graph failed: {error}", stacklevel=2
            )

    def _step(self, n):
        return Step(self.keys.table[n], self.fire, self.origin_column)

    # These are captured: nothing here may depend on what changes from one run to the next, but for the frame's memory.

    def advance(self, steps: int) -> None:
        """Replaces the last state by the one so many steps later."""
        self.keys.make(steps)
        a, b = self.states[-1], self.states[0]
        for n in range(steps):
            forward_step(a, b, self.weights, self._step(n))
            a, b = b, a
        if steps % 2:
            self.states[-1].copy_(self.states[0])
        self.keys.move(steps)

    def advance_and_keep(self, steps: int) -> None:
        """Does likewise and keeps the state after each step: the last `steps` of the frame's are these."""
        if steps == 1:
            return self.advance(1)
        self.keys.make(steps)
        x = self.states[-1]
        for n, out in enumerate(self.states[len(self.states) - steps :]):
            forward_step(x, out, self.weights, self._step(n))
            x = out
        self.keys.move(steps)

    def backward(self, steps: int) -> None:
        """Replaces the first gradient by that of the first state; the first `steps` states are those before each."""
        self._back(steps, None)

    def backward_to(self, steps: int) -> None:
        """Does likewise, and the next of the states is the one after the last step."""
        self._back(steps, self.states[steps])

    def _back(self, steps, last):
        self.keys.move(-steps)
        self.keys.make(steps)
        a, b = self.grads
        if self.weights.scaled:
            self.weights.choose_scale(a)
        for n in reversed(range(steps)):
            following = self.states[n + 1] if n + 1 < steps else last
            backward_step(self.states[n], a, b, self.buffer, self.weights, self.weights.scale, self._step(n), following)
            a, b = b, a
        if steps % 2:
            self.grads[0].copy_(self.grads[1])


def _replays(x):
    """Says whether launches on x's device can be replayed, and are not just being captured by the caller."""
    return x.is_cuda and not torch.cuda.is_current_stream_capturing()


def _stream(x):
    return torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0


@lru_cache
def _bandwidth(device):
    """Computes the bytes per second of a GPU's memory; that of an H200 where PyTorch does not know."""
    facts = torch.cuda.get_device_properties(device)
    kilohertz, bits = (getattr(facts, name, 0) for name in ("memory_clock_rate", "memory_bus_width"))
    return 2e3 * kilohertz * bits / 8 or H200


def largest_state(x: Tensor, weights: RolloutWeights, free: bool = False) -> float:
    """Computes the bytes of the largest state that is replayed on x's device; free: where none is saved."""
    way, largest = (weights.forward_way, LARGEST_FREE_STATE) if free else (weights.backward_way, LARGEST_STATE)
    share = _bandwidth(x.device) / H200 if x.is_cuda else 1
    return largest * share * (THROUGH_MEMORY if isinstance(way, ThroughMemory) else 1)


def _frame(x, weights, fire, rule, place, steps, free=False):
    """Finds the frame that serves a rollout, or None where its steps are launched one by one."""
    largest = max(largest_state(x, weights), largest_state(x, weights, free))
    packed, column = weights.packed, word(place.column)
    if steps < _FEWEST_STEPS or x.nbytes > largest or not _replays(x) or packed.by_step or fire.ndim > 2:
        return None
    shapes = [None if t is None else t.shape for t in (weights.noise, weights.frames and weights.frames.field)]
    kind = packed.precision, packed.per_sample, fire.ndim, *shapes, column
    key = x.device, _stream(x), x.shape, x.dtype, rule, *kind
    if key not in _frames:
        _frames[key] = None
        if len(_frames) > _KINDS:
            _frames.popitem(last=False)
        return None
    if _frames[key] is None:
        with torch.inference_mode(False), torch.no_grad():  # or only that mode could write to the frame
            frame = Frame(x, weights, fire, rule, column)
        _frames[key] = frame if in_the_common_pool(frame.states) else None
    _frames.move_to_end(key)
    return _frames[key]


def _release(device):
    """Drops the frames that were used least recently, as many as are too many."""
    total = 0
    for key, frame in reversed(list(_frames.items())):
        if frame is not None and key[0] == device:
            total += frame.nbytes
            if total > _FRAMES_BYTES and total > frame.nbytes:
                del _frames[key]


def replayed_advance(x: Tensor, weights: RolloutWeights, fire: Tensor, rule, place, states: Tensor, every: int) -> bool:
    """Does what `rollout.advance` does; False where nothing was done, because it is better launched one by one."""
    with _lock:
        # A run that is cut into many saves nearly every state, too.
        frame = _frame(x, weights, fire, rule, place, len(states) * every, every >= SAVED_STEPS)
        if frame is None:
            return False
        frame.take(weights, fire, place)
        frame.states[-1].copy_(x)
        if every == 1:
            for start, count in runs(len(states), SAVED_STEPS):
                frame.run(frame.advance_and_keep, count)
                states[start : start + count].copy_(frame.states[len(frame.states) - count :])
        else:
            for state in states:
                for _, count in runs(every, _FREE_STEPS):
                    frame.run(frame.advance, count)
                state.copy_(frame.states[-1])
        _release(x.device)
        return True


def replayed_backward(
    states: Tensor, grad: Tensor, weights: RolloutWeights, fire: Tensor, rule, place, buffer: Gradients
) -> bool:
    """Does what `rollout.backward` does, the result always in grad; False likewise."""
    with _lock:
        frame = _frame(grad, weights, fire, rule, place, len(states))
        if frame is None:
            return False
        if frame.grads is None:
            frame.grads = grad.new_empty(2, *grad.shape)
            frame.buffer = Gradients(*(None if t is None else torch.empty_like(t) for t in buffer))
            if not in_the_common_pool(frame.grads):
                frame.grads = None
                return False
        frame.take(weights, fire, place.after(len(states)))
        frame.grads[0].copy_(grad)
        copied = [(mine, t) for mine, t in zip(frame.buffer, buffer, strict=True) if t is not None]
        for mine, given in copied:
            mine.copy_(given)
        looks_after = weights.alive is not None and weights.alive.looks_after
        for start, count in reversed(runs(len(states), SAVED_STEPS)):
            more = looks_after and start + count < len(states)
            frame.states[: count + more].copy_(states[start : start + count + more])
            frame.run(frame.backward_to if more else frame.backward, count)
        grad.copy_(frame.grads[0])
        for mine, given in copied:
            given.copy_(mine)
        _release(grad.device)
        return True
