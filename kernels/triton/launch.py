"""Launches kernels, and repeats the launches of a step on other tensors without Triton's front end.

`kernel[grid](...)` binds its arguments, looks at each of them to find what it was compiled for, and makes a text of all
options, every time: 10 to 50 us of Python, where the GPU may take less for the step. All steps of a rollout launch the
same kernels with the same arguments, but for the memory of a few tensors. So a step is launched once in this way, with
its launches noted, and afterwards what was compiled is launched with the other addresses put in.

What a kernel was compiled for hangs on whether an address is a multiple of 16 (and on AMD whether the memory is smaller
than 2 GiB), so launches are noted for each such kind of tensors. Where launches cannot be repeated, in the interpreter
or with a Triton that is not as it was, every step goes through the front end.
"""

import inspect
import threading
from collections.abc import Callable

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
        self.step, self.of_kinds, self.plain, self.stream = step, {}, False, None
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
            run(*arguments, stream=self.stream)

    def _note(self, kinds, tensors, addresses):
        """Takes the step by Triton's front end and notes its launches."""
        _noted.launches = []
        try:
            self.step(*tensors)
            noted = _noted.launches
        finally:
            _noted.launches = None
        launches = [_repeatable(*one, tensors, addresses) for one in noted]
        if not noted or None in launches:
            self.plain = True
            return
        self.of_kinds[kinds] = launches
        if self.stream is None:
            active = triton.runtime.driver.active
            self.stream = active.get_current_stream(active.get_current_device())


def _kind(tensor, address):
    return address % _ALIGNMENT == 0


def _kind_on_amd(tensor, address):
    return address % _ALIGNMENT == 0, tensor.untyped_storage().nbytes() <= _SMALL


def _repeatable(kernel, compiled, grid, arguments, constants, tensors, addresses):
    """Makes of a launch: how to run it, its arguments with addresses in the place of tensors, which arguments are which
    of the step's tensors, and what must stay alive. None where it cannot be repeated."""
    run = _runner(compiled, (*grid, 1, 1)[:3])
    names = getattr(kernel, "arg_names", None)
    if run is None or names is None:
        return None
    rest = names[len(arguments) :]
    if not all(name in constants for name in rest):  # defaults
        return None
    memories = {t.untyped_storage().data_ptr() for t in tensors}
    values, places = [], []
    for at, argument in enumerate((*arguments, *(constants[name] for name in rest))):
        if isinstance(argument, Tensor):
            address = argument.data_ptr()
            if address in addresses:
                places.append((at, addresses.index(address)))
            elif argument.untyped_storage().data_ptr() in memories:
                return None  # another part of a tensor that changes
            values.append(address)
        else:
            values.append(argument)
    kept = [a for a in arguments if isinstance(a, Tensor) and a.data_ptr() not in addresses]
    return run, values, tuple(places), kept


def _runner(compiled, grid):
    """Returns Triton's own function (*arguments, stream=) that launches what was compiled; None where there is none."""
    if not isinstance(compiled, triton.compiler.CompiledKernel):
        return None  # the interpreter's
    try:
        run = compiled[grid]
        parameters = list(inspect.signature(run).parameters.values())
    except (TypeError, ValueError):
        return None
    kinds = [p.kind for p in parameters]
    known = kinds == [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.KEYWORD_ONLY]
    return run if known and parameters[1].name == "stream" else None
