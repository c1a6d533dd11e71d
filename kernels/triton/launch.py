"""Launches kernels, and repeats the launches of a step on other tensors without Triton's front end.

`kernel[grid](...)` binds its arguments, looks at each of them to find what it was compiled for, and makes a text of all
options, every time: 10 to 50 us of Python, where the GPU may take less for the step. All steps of a rollout launch the
same kernels with the same arguments, but for the memory of a few tensors. So the launches of a step are listed once,
and afterwards what was compiled is launched with the other addresses put in (laid_out.py): all at once (together.py),
or one by one. What was laid out serves the next rollout of its kind too; and what was compiled is remembered by what it
was compiled for, so that only the first rollout of its kind asks Triton.

What a kernel was compiled for hangs on whether an address is a multiple of 16 (and on AMD whether the memory is smaller
than 2 GiB), so launches are listed for each such kind of tensors. Where launches cannot be repeated, in the interpreter
or with a Triton that is not as it was, every step goes through the front end.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from . import laid_out, together
from .memory import Scratch

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

    def key(self, device, kinds):
        """Says what it is compiled for: its constants, its numbers, and the kinds of its tensors, by their ids."""
        of_arguments = [kinds[id(a)] if isinstance(a, Tensor) else a for a in self.arguments]
        # The kernel itself would be compared by its text; it lives as long as what was compiled of it.
        return id(self.kernel), device, *of_arguments, *self.constants, *self.constants.values()

    @property
    def whole_grid(self):
        """Its grid, three numbers."""
        return (*self.grid, 1, 1)[:3]

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


def launch_alone(kernel, grid: tuple[int, ...], *arguments, **constants) -> None:
    """Does likewise without Triton's front end, where what was compiled is remembered; for a launch beside the steps.

    Args:
        arguments: Tensors, integers; those that the kernel is not specialized for are of 32 bits.
    """
    kind, kinds = _kind_on_amd if torch.version.hip else _kind, {}
    for a in arguments:
        if isinstance(a, Tensor):
            kinds[id(a)], device = (a.dtype, kind(a, a.data_ptr())), a.device
    one = _Launch(kernel, grid, arguments, constants)
    free = [p.do_not_specialize for p in getattr(kernel, "params", ())[: len(arguments)]]
    told = [None if of else a for a, of in zip(arguments, free, strict=True)] if any(free) else arguments
    key = one._replace(arguments=told).key(device, kinds)
    found = _known.get(key)
    if found is None:
        _remembered(key, one, one.run())
        return
    if laid_out.are_launches_told():
        one.run()
        return
    values, compiled = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments], found.kernel
    before = *one.whole_grid, laid_out.stream_now(), compiled.function, compiled.packed_metadata, None, None, None
    compiled.run(*before, *values, *found.constants)


class RepeatedStep:
    """A step of a rollout that is called many times with tensors of the same types and shapes.

    To be called on one stream of one device, where Triton launches.

    Args:
        step: Called with tensors; it does nothing but `launch`, and always the same but for these tensors. What it
            allocates it keeps.
        what: All that its launches hang on beside the tensors here and those that it is called with; None: they are not
            kept for other rollouts.
        fixed: Tensors that it launches on and is not called with.
        scratch: From which it takes more.
    """

    def __init__(
        self,
        step: Callable[..., None],
        what: Hashable | None = None,
        fixed: Sequence[Tensor] = (),
        scratch: Scratch | None = None,
    ):
        self.step, self.what, self.fixed, self.scratch = step, what, [*fixed], scratch
        self.of_kinds, self.plain = {}, False
        self.kind, self.kinds = (_kind_on_amd, _kinds_on_amd) if torch.version.hip else (_kind, _kinds)

    def __call__(self, *tensors: Tensor) -> None:
        """Takes the step on these tensors."""
        if self.plain:
            return self.step(*tensors)
        addresses = [t.data_ptr() for t in tensors]
        kinds = self.kinds(tensors, addresses)
        repeat = self.of_kinds.get(kinds)
        if repeat is None:
            return self._first(kinds, tensors, addresses)
        repeat(addresses)

    def _first(self, kinds, tensors, addresses):
        """Takes the first step of a kind of tensors, by the launches of an earlier rollout if there are any."""
        key = self._key(tensors)
        found = None if key is None else laid_out.find(key)
        more = None if found is None else found.tensors_of(self.scratch, tensors[0], self.kind)
        if more is None:
            return self._new(key, kinds, tensors, addresses)
        self.of_kinds[kinds] = repeat = found.on(self.fixed + more)
        repeat(addresses)

    def _key(self, tensors):
        """Says what the launches of a step on these tensors hang on."""
        if self.what is None:
            return None
        every = [*tensors, *self.fixed]
        ids = [id(t) for t in every]  # some are the same
        kinds = ((t.dtype, t.shape, self.kind(t, t.data_ptr())) for t in every)
        return self.what, tensors[0].device, len(tensors), *map(ids.index, ids), *kinds

    def _list(self, tensors):
        _listed.launches = []
        try:
            self.step(*tensors)
            return _listed.launches
        finally:
            _listed.launches = None

    def _new(self, key, kinds, tensors, addresses):
        """Lists the launches of the step and makes them, by Triton's front end if there are any that it has not yet
        compiled."""
        launches = self._list(tensors)
        found = {id(a): a for one in launches for a in one.arguments if isinstance(a, Tensor)}
        of_memory = {n: (a.dtype, self.kind(a, a.data_ptr())) for n, a in found.items()}
        keys = [one.key(tensors[0].device, of_memory) for one in launches]
        compiled = [_known.get(of) for of in keys]
        new = None in compiled
        if new:
            compiled = [_remembered(of, one, one.run()) for of, one in zip(keys, launches, strict=True)]
        known = launches and None not in compiled
        repeat = self._repeated(key, launches, compiled, found, tensors) if known else None
        self.plain = repeat is None
        self.of_kinds[kinds] = repeat
        if not new:
            repeat(addresses) if repeat else self.step(*tensors)

    def _repeated(self, key, launches, compiled, memory, tensors):
        """Makes a function of the step's addresses, and keeps the launches where another rollout may use them; None
        where they cannot be repeated."""
        changing, given = {t.untyped_storage().data_ptr() for t in tensors}, {id(t) for t in (*tensors, *self.fixed)}
        names = {id(t): name for name, t in self.scratch.kept.items()} if self.scratch else {}
        of_scratch = [n for n in memory if n in names and n not in given]
        others = [n for n in memory if n not in names and n not in given]
        if any(memory[n].untyped_storage().data_ptr() in changing for n in others):
            return None  # another part of a tensor that changes
        order = [*map(id, (*tensors, *self.fixed)), *of_scratch, *others]
        numbers = {n: at for at, n in reversed([*enumerate(order)])}  # of one that is there twice the first
        laid = []
        for one, found in zip(launches, compiled, strict=True):
            tensor = [isinstance(a, Tensor) for a in one.arguments]
            arguments = [0 if is_one else a for a, is_one in zip(one.arguments, tensor, strict=True)]
            changes = [(at, numbers[id(a)]) for at, a in enumerate(one.arguments) if tensor[at]]
            laid.append(laid_out.Laid(found, one.whole_grid, arguments, changes))
        scratch = [
            (names[n], memory[n].shape, memory[n].dtype, self.kind(memory[n], memory[n].data_ptr())) for n in of_scratch
        ]
        found = laid_out.LaidOut(laid, len(tensors), scratch)
        repeat = found.on([*self.fixed, *(memory[n] for n in (*of_scratch, *others))])
        if key is not None and not others:
            laid_out.keep(key, found)
        return repeat


class Compiled(NamedTuple):
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
    values = [0 if isinstance(a, Tensor) else a for a in one.arguments]
    if not laid_out.can_be_repeated(kernel, one.whole_grid, [*values, *constants]):
        return None
    passed = together.passed_arguments(kernel)
    if passed and passed[-1] >= len(one.arguments):
        passed = None  # one of the constants is an argument
    _known[key] = found = Compiled(kernel, constants, passed)
    if len(_known) > _MOST:
        _known.popitem(last=False)
    return found


def _kind(tensor, address):
    return address % _ALIGNMENT == 0


def _kinds(tensors, addresses):
    """Says of which kinds some tensors are: how many, where each is aligned, as they nearly always are."""
    return len(addresses) if not reduce(or_, addresses) % _ALIGNMENT else tuple(map(_kind, tensors, addresses))


def _kind_on_amd(tensor, address):
    return address % _ALIGNMENT == 0, tensor.untyped_storage().nbytes() <= _SMALL


def _kinds_on_amd(tensors, addresses):
    return tuple(map(_kind_on_amd, tensors, addresses))
