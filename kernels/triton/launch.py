"""Launches kernels, and repeats the launches of a step on other tensors without Triton's front end.

`kernel[grid](...)` binds its arguments, looks at each of them to find what it was compiled for, and makes a text of all
options, every time: 10 to 50 us of Python, where the GPU may take less for the step. All steps of a rollout launch the
same kernels with the same arguments, but for the memory of a few tensors. So a step is launched once in this way, with
its launches noted, and afterwards what was compiled is launched with the other addresses put in.

What a kernel was compiled for hangs on whether an address is a multiple of 16 (and on AMD whether the memory is smaller
than 2 GiB), so launches are noted for each such kind of tensors. Where launches cannot be repeated, in the interpreter
or with a Triton that is not as it was, every step goes through the front end.
"""

import threading
from collections.abc import Callable
from functools import partial

import torch
import triton
from torch import Tensor

_ALIGNMENT = 16  # of addresses: what Triton compiles for
_SMALL = 2**31 - 1  # bytes of memory that AMD's kernels address by 32 bits

_noted = threading.local()  # .launches: a list while a step is noted


def launch(kernel, grid: tuple[int, ...], *arguments, **constants) -> None:
    """Launches a kernel, as `kernel[grid](*arguments, **constants)` does.

    Args:
        arguments: All that are not constants, in the kernel's order.
        constants: What it is compiled for: its constants and the compiler's options.
    """
    compiled = kernel[grid](*arguments, **constants)
    launches = getattr(_noted, "launches", None)
    if launches is not None:
        launches.append((kernel, compiled, grid, arguments, constants))


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
        launches = self.of_kinds.get(kinds)
        if launches is None:
            return self._note(kinds, tensors, addresses)
        for run, arguments, places, _ in launches:
            for at, n in places:
                arguments[at] = addresses[n]
            run(*arguments)

    def _note(self, kinds, tensors, addresses):
        """Takes the step by Triton's front end and notes its launches."""
        _noted.launches = []
        try:
            self.step(*tensors)
            noted = _noted.launches
        finally:
            _noted.launches = None
        launches = [_repeatable(*one, tensors, addresses) for one in noted]
        self.plain = not launches or None in launches
        self.of_kinds[kinds] = launches


def _kind(tensor, address):
    return address % _ALIGNMENT == 0


def _kind_on_amd(tensor, address):
    return address % _ALIGNMENT == 0, tensor.untyped_storage().nbytes() <= _SMALL


def _repeatable(kernel, compiled, grid, arguments, constants, tensors, addresses):
    """Makes of a launch: a function that runs it, its arguments with addresses in the place of tensors, which of them
    are which of the step's tensors, and what must stay alive. None where it cannot be repeated."""
    names = getattr(kernel, "arg_names", ())[len(arguments) :]
    if not isinstance(compiled, triton.compiler.CompiledKernel) or not constants.keys() >= set(names):
        return None  # in the interpreter; or a constant has its default
    memories = {t.untyped_storage().data_ptr() for t in tensors}
    values, places, kept = [], [], []
    for at, argument in enumerate((*arguments, *(constants[name] for name in names))):
        if not isinstance(argument, Tensor):
            values.append(argument)
            continue
        values.append(argument.data_ptr())
        if values[at] in addresses:
            places.append((at, addresses.index(values[at])))
        elif argument.untyped_storage().data_ptr() in memories:
            return None  # another part of a tensor that changes
        else:
            kept.append(argument)
    run = _runner(compiled, (*grid, 1, 1)[:3], values)
    return run and (run, values, tuple(places), kept)


class _Asked:
    """Stands for what was compiled, and notes what Triton would tell the function that launches it."""

    def __init__(self, compiled):
        self._compiled, self.told = compiled, ()

    def __getattr__(self, name):
        return getattr(self._compiled, name)

    def run(self, *told):
        self.told = told


def _runner(compiled, grid, values):
    """Makes a function of a launch's arguments that launches what was compiled, with nothing between it and C but the
    driver's own. What it is told before the arguments is what Triton would say; None where that is not understood."""
    active = triton.runtime.driver.active
    asked, stream = _Asked(compiled), active.get_current_stream(active.get_current_device())
    try:
        type(compiled).__getitem__(asked, grid)(*values, stream=stream)
    except (AttributeError, TypeError):
        return None
    before, after = asked.told[: -len(values)], asked.told[-len(values) :]
    if before[:4] != (*grid, stream) or len(before) != 9 or list(after) != values:
        return None
    *before, _, enter, leave = before
    if any(hook is not None and getattr(hook, "calls", True) for hook in (enter, leave)):
        return partial(compiled[grid], stream=stream)  # a profiler wants to be told of each launch
    return partial(compiled.run, *before, None, None, None)
