"""The launches of a step laid out, kept across rollouts: one that is like an earlier one only fills in where its
tensors lie. What is kept holds no tensor, and of no more than `_MOST` kinds of steps.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cached_property, partial
from threading import Lock
from typing import NamedTuple

import triton

from . import together

_MOST = 128  # kinds of steps: less than 100 KB each
_kept, _lock = OrderedDict(), Lock()


class Laid(NamedTuple):
    """One launch: what was compiled, its grid, and its arguments, with 0 in the place of addresses.

    Args:
        compiled: A `launch.Compiled`.
        changes: (which argument, number of its tensor) for each tensor.
    """

    compiled: object
    grid: tuple[int, int, int]
    arguments: list[int]
    changes: list[tuple[int, int]]


class LaidOut:
    """The launches of a step, whose addresses are those of `count` tensors that change from step to step and of others
    that do not, numbered after these.

    Args:
        scratch: Of the others the last ones: (name, shape, dtype, kind) of each in the scratch of a rollout.
    """

    def __init__(self, launches: list[Laid], count: int, scratch: list[tuple]):
        self.launches, self.count, self.scratch = launches, count, scratch

    def tensors_of(self, scratch, like, kind: Callable) -> list | None:
        """Gives the scratch of a rollout that these launches want; None where it lies otherwise than they expect."""
        tensors = [scratch(name, like, *shape, dtype=dtype) for name, shape, dtype, _ in self.scratch]
        same = all(kind(t, t.data_ptr()) == wanted[3] for t, wanted in zip(tensors, self.scratch, strict=True))
        return tensors if same else None

    def on(self, fixed: list) -> Callable[[list[int]], None]:
        """Makes a function of a step's addresses that launches it on the current stream.

        Args:
            fixed: The tensors that do not change; they are kept with the function.
        """
        stream, addresses, profiled = stream_now(), [t.data_ptr() for t in fixed], are_launches_told()
        if not profiled and self.in_c is not None and together.available():
            return together.Together(self.in_c, stream, addresses, fixed)
        runs = []
        for (kernel, constants, _), grid, arguments, changes in self.launches:
            if profiled:
                run = partial(kernel[grid], stream=stream)
            else:
                run = partial(kernel.run, *grid, stream, kernel.function, kernel.packed_metadata, None, None, None)
            values = [*arguments, *constants]
            for at, n in changes:
                if n >= self.count:
                    values[at] = addresses[n - self.count]
            runs.append((run, values, [change for change in changes if change[1] < self.count]))
        return _OneByOne(runs, fixed)

    @cached_property
    def in_c(self) -> together.Layout | None:
        """All launches for one call into C; None where one of them cannot be made there."""
        if any(one.compiled.passed is None for one in self.launches):
            return None
        laid = []
        for (kernel, _, passed), grid, arguments, changes in self.launches:
            facts, numbers = kernel.metadata, [arguments[at] for at in passed]
            changes = [(passed.index(at), n) for at, n in changes]
            laid.append((kernel.name, kernel.function, grid, 32 * facts.num_warps, facts.shared, numbers, changes))
        return together.Layout(laid, self.count)


def find(key: Hashable) -> LaidOut | None:
    """Returns what is kept for a kind of steps."""
    with _lock:
        found = _kept.get(key)
        if found is not None:
            _kept.move_to_end(key)
        return found


def keep(key: Hashable, laid_out: LaidOut) -> None:
    """Keeps the launches of a kind of steps."""
    with _lock:
        _kept[key] = laid_out
        _kept.move_to_end(key)
        while len(_kept) > _MOST:
            _kept.popitem(last=False)


def forget() -> None:
    """Keeps nothing: for who changes how steps are cut into launches."""
    with _lock:
        _kept.clear()


class _OneByOne:
    """The launches of a step, by the driver's own function in Python: (function, arguments, changes) each."""

    def __init__(self, launches, fixed):
        self.launches, self.fixed = launches, fixed

    def __call__(self, addresses):
        for run, arguments, changes in self.launches:
            for at, n in changes:
                arguments[at] = addresses[n]
            run(*arguments)


class _Asked:
    """Stands for what was compiled, and notes what Triton would tell the function that launches it."""

    def __init__(self, compiled):
        self._compiled, self.told = compiled, ()

    def __getattr__(self, name):
        return getattr(self._compiled, name)

    def run(self, *told):
        self.told = told


def can_be_repeated(compiled, grid: tuple[int, int, int], values: list) -> bool:
    """Finds out whether Triton would tell its launcher what this module does."""
    of, stream = _Asked(compiled), stream_now()
    try:
        type(compiled).__getitem__(of, grid)(*values, stream=stream)
    except (AttributeError, TypeError):
        return False
    before, after = of.told[: -len(values)], of.told[-len(values) :]
    expected = (*grid, stream, compiled.function, compiled.packed_metadata)
    return before[:6] == expected and before[7:] == _hooks() and list(after) == values


def stream_now() -> int:
    """Returns the current stream."""
    active = triton.runtime.driver.active
    return active.get_current_stream(active.get_current_device())


def are_launches_told() -> bool:
    """Says whether somebody, a profiler, wants to be told of each launch."""
    return any(hook is not None and getattr(hook, "calls", True) for hook in _hooks())


def _hooks():
    return triton.knobs.runtime.launch_enter_hook, triton.knobs.runtime.launch_exit_hook
