"""Launches kernels, and repeats the launches of a step on other tensors without Triton's front end.

`kernel[grid](...)` binds its arguments, looks at each of them to find what it was compiled for, and makes a text of all
options, every time: 10 to 50 us of Python, where the GPU may take less for the step. All steps of a rollout launch the
same kernels with the same arguments, but for the memory of a few tensors. So the launches of a step are listed once,
and afterwards what was compiled is launched with the other addresses put in: all at once (together.py), or one by one.
What was compiled is remembered by what it was compiled for, so that only the first rollout of its kind asks Triton.

What a kernel was compiled for hangs on whether an address is a multiple of 16 (and on AMD whether the memory is smaller
than 2 GiB), so launches are listed for each such kind of tensors. Where launches cannot be repeated, in the interpreter
or with a Triton that is not as it was, every step goes through the front end.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from . import together

_ALIGNMENT = 16  # of addresses: what Triton compiles for
_SMALL = 2**31 - 1  # bytes of memory that AMD's kernels address by 32 bits
_MOST = 4096  # kinds of launches that are remembered

_listed = threading.local()  # .launches: a list while a step is listed
_known = OrderedDict()  # what was compiled, by `_Launch.key`


class _Launch(NamedTuple):
    """A launch that is listed: a kernel, its grid, all its arguments, and its constants and the compiler's options."""

    kernel: object
    grid: tuple[int, ...]
    arguments: tuple
    constants: dict

    def key(self, device, memory):
        """Says what it is compiled for: its constants, its numbers, and the kinds of its tensors."""
        of_arguments = [memory[id(a)].kind if isinstance(a, Tensor) else a for a in self.arguments]
        # The kernel itself would be compared by its text; it lives as long as what was compiled of it.
        return id(self.kernel), device, *of_arguments, *self.constants, *self.constants.values()

    def run(self):
        """Launches it through Triton's front end; returns what was compiled."""
        return self.kernel[self.grid](*self.arguments, **self.constants)


def launch(kernel, grid: tuple[int, ...], *arguments, **constants) -> None:
    """Launches a kernel, as `kernel[grid](*arguments, **constants)` does.

    Args:
        arguments: All that are not constants, in the kernel's order.
        constants: What it is compiled for: its constants and the compiler's options.
    """
    launches = getattr(_listed, "launches", None)
    if launches is None:
        kernel[grid](*arguments, **constants)
    else:
        launches.append(_Launch(kernel, grid, arguments, constants))


class RepeatedStep:
    """A step of a rollout that is called many times with tensors of the same types and shapes.

    To be called on one stream of one device, where Triton launches.

    Args:
        step: Called with tensors; it does nothing but `launch`, and always the same but for these tensors. What it
            allocates it keeps.
    """

    def __init__(self, step: Callable[..., None]):
        self.step, self.of_kinds, self.plain = step, {}, False
        self.kind = _kind_on_amd if torch.version.hip else _kind

    def __call__(self, *tensors: Tensor) -> None:
        """Takes the step on these tensors."""
        if self.plain:
            return self.step(*tensors)
        addresses = [t.data_ptr() for t in tensors]
        kinds = tuple(map(self.kind, tensors, addresses))
        repeat = self.of_kinds.get(kinds)
        if repeat is None:
            return self._first(kinds, tensors, addresses)
        repeat(addresses)

    def _list(self, tensors):
        _listed.launches = []
        try:
            self.step(*tensors)
            return _listed.launches
        finally:
            _listed.launches = None

    def _first(self, kinds, tensors, addresses):
        """Lists the launches of the step and makes them, by Triton's front end if there are any that it has not yet
        compiled."""
        launches = self._list(tensors)
        memory = self._memory(launches, tensors, addresses)
        keys = [one.key(tensors[0].device, memory) for one in launches]
        compiled = [_known.get(key) for key in keys]
        new = None in compiled
        if new:
            compiled = [_remembered(key, one, one.run()) for key, one in zip(keys, launches, strict=True)]
        count = len(addresses)
        repeat = _repeated(launches, compiled, memory, count) if launches and None not in compiled else None
        self.plain = repeat is None
        self.of_kinds[kinds] = repeat
        if not new:
            repeat(addresses) if repeat else self.step(*tensors)

    def _memory(self, launches, tensors, addresses):
        """Looks once at every tensor of the launches; by its id, because most of them are in many."""
        memory, changing = {}, {t.untyped_storage().data_ptr() for t in tensors}
        for argument in (a for one in launches for a in one.arguments):
            if isinstance(argument, Tensor) and id(argument) not in memory:
                address = argument.data_ptr()
                number = addresses.index(address) if address in addresses else None
                part = number is None and argument.untyped_storage().data_ptr() in changing
                kind = argument.dtype, self.kind(argument, address)
                memory[id(argument)] = _Memory(argument, kind, address, number, part)
        return memory


class _Memory(NamedTuple):
    """Where a tensor of a step lies.

    Args:
        kind: What kernels are compiled for of it.
        number: Which of the step's tensors it is, or None.
        part: Whether it is another part of one of them.
    """

    tensor: Tensor
    kind: tuple
    address: int
    number: int | None
    part: bool


class _Compiled(NamedTuple):
    """What was compiled for a kind of launches.

    Args:
        kernel: A `triton.compiler.CompiledKernel`.
        constants: All that follow the arguments, in the kernel's order.
        passed: Which of the arguments it takes; None where it cannot be launched from C.
    """

    kernel: object
    constants: tuple
    passed: list[int] | None


def _remembered(key, one, kernel):
    """Remembers what was compiled for a launch; None where it cannot be repeated."""
    names = getattr(one.kernel, "arg_names", ())[len(one.arguments) :]
    if not isinstance(kernel, triton.compiler.CompiledKernel) or not one.constants.keys() >= set(names):
        return None  # in the interpreter; or a constant has its default
    constants = tuple(one.constants[name] for name in names)
    passed = together.passed_arguments(kernel)
    if passed and passed[-1] >= len(one.arguments):
        passed = None  # one of the constants is an argument
    _known[key] = found = _Compiled(kernel, constants, passed)
    if len(_known) > _MOST:
        _known.popitem(last=False)
    return found


def _kind(tensor, address):
    return address % _ALIGNMENT == 0


def _kind_on_amd(tensor, address):
    return address % _ALIGNMENT == 0, tensor.untyped_storage().nbytes() <= _SMALL


class _OneByOne:
    """The launches of a step, by the driver's own function in Python: (function, arguments, changes) each."""

    def __init__(self, launches, kept):
        self.launches, self.kept = launches, kept

    def __call__(self, addresses):
        for run, arguments, changes in self.launches:
            for at, n in changes:
                arguments[at] = addresses[n]
            run(*arguments)


def _repeated(launches, compiled, memory, count):
    """Makes of launches a function of the step's addresses, so many; None where they cannot be repeated."""
    if any(of.part for of in memory.values()):
        return None
    kept, values = (compiled, [of.tensor for of in memory.values() if of.number is None]), []
    for one in launches:
        arguments, changes = list(one.arguments), []
        for at, argument in enumerate(arguments):
            if isinstance(argument, Tensor):
                of = memory[id(argument)]
                arguments[at] = of.address
                if of.number is not None:
                    changes.append((at, of.number))
        values.append((arguments, changes))
    grids = [(*one.grid, 1, 1)[:3] for one in launches]
    told = _told(compiled[0].kernel, grids[0], [*values[0][0], *compiled[0].constants])
    if told is None:
        return None
    stream, profiled = told
    if not profiled and together.available() and all(found.passed is not None for found in compiled):
        return _together(compiled, grids, values, stream, count, kept)
    runs = []
    for (kernel, constants, _), grid, (arguments, changes) in zip(compiled, grids, values, strict=True):
        if profiled:  # somebody wants to be told of each launch
            run = partial(kernel[grid], stream=stream)
        else:
            run = partial(kernel.run, *grid, stream, kernel.function, kernel.packed_metadata, None, None, None)
        runs.append((run, [*arguments, *constants], changes))
    return _OneByOne(runs, kept)


def _together(compiled, grids, values, stream, count, kept):
    """Lays launches out for one call into C."""
    launches = []
    for (kernel, _, passed), grid, (arguments, changes) in zip(compiled, grids, values, strict=True):
        facts, numbers = kernel.metadata, [arguments[at] for at in passed]
        changes = [(passed.index(at), n) for at, n in changes]
        launches.append((kernel.name, kernel.function, grid, 32 * facts.num_warps, facts.shared, numbers, changes))
    return together.Together(launches, stream, count, kept)


class _Asked:
    """Stands for what was compiled, and notes what Triton would tell the function that launches it."""

    def __init__(self, compiled):
        self._compiled, self.told = compiled, ()

    def __getattr__(self, name):
        return getattr(self._compiled, name)

    def run(self, *told):
        self.told = told


def _told(compiled, grid, values):
    """Finds out what Triton would say: (the stream, whether somebody wants to be told of launches). None where it
    would not tell its launcher what this module does."""
    active = triton.runtime.driver.active
    asked, stream = _Asked(compiled), active.get_current_stream(active.get_current_device())
    try:
        type(compiled).__getitem__(asked, grid)(*values, stream=stream)
    except (AttributeError, TypeError):
        return None
    before, after = asked.told[: -len(values)], asked.told[-len(values) :]
    expected = (*grid, stream, compiled.function, compiled.packed_metadata)
    if before[:6] != expected or len(before) != 9 or list(after) != values:
        return None
    return stream, any(hook is not None and getattr(hook, "calls", True) for hook in before[7:])
