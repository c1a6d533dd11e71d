"""The compiled library as Python sees it: plain C, called with the addresses of tensors.

Nothing in it depends on the version of Python, and of PyTorch it calls two functions of the stable interface in C,
which run its loops on PyTorch's own threads. (What that interface has beside them, tensors and the registration of
operators, would want PyTorch's headers where a wheel is made, and gain nothing: operators are registered in Python.)
"""

import ctypes
from ctypes import byref, c_char_p, c_double, c_int64, c_void_p
from pathlib import Path

import torch


class Activation(ctypes.Structure):
    """`Activation` of interface.h."""

    _fields_ = [("function", c_int64), ("parameter", c_double), ("divisor", c_double)]


class Rule(ctypes.Structure):
    """`Rule` of interface.h. The arrays that it points to must outlive it."""

    _fields_ = [
        ("stencils", c_void_p),
        ("filters", c_int64),
        ("size", c_int64),
        ("learned", c_int64),
        ("shapes", c_void_p),
        ("layers", c_int64),
        ("activations", c_void_p),
        ("frozen", c_int64),
        ("padding", c_int64),
        ("window", c_int64),
        ("alive_channel", c_int64),
        ("alive_threshold", c_double),
        *((name, c_int64) for name in ("alive_mask", "alive_circular", "fire_shared", "residual")),
        *((name, c_double) for name in ("low", "high", "state_noise", "update_noise")),
        ("pairs", c_void_p),
        ("pair_count", c_int64),
        ("laplacians", c_void_p),
        ("laplacian_count", c_int64),
    ]


class Canvas(ctypes.Structure):
    """`Canvas` of interface.h."""

    _fields_ = [
        *((name, c_int64) for name in "BCHW"),
        ("networks", c_void_p),
        ("periods", c_int64),
        ("rules", c_int64),
        ("fire", c_void_p),
        *((name, c_int64) for name in ("fire_map", "fire_periods", "fire_samples", "fire_channels")),
        ("noise", c_void_p),
        ("noise_samples", c_int64),
        *((name, c_int64) for name in ("seed", "row", "column", "sample", "height")),
        ("frames", c_void_p),
        ("frame_samples", c_int64),
    ]


class Draw(ctypes.Structure):
    """`Draw` of interface.h."""

    _fields_ = [(name, c_int64) for name in ("seed", "row", "column", "sample", "height", "shared", "step")]


_RULE, _CANVAS, _NUMBER = ctypes.POINTER(Rule), ctypes.POINTER(Canvas), ctypes.POINTER(c_int64)
_FUNCTIONS = {
    "packed_size": ([_RULE], c_int64),
    "pack": ([_RULE, c_void_p, c_int64, c_void_p], c_char_p),
    "steps_at_once": ([_RULE, _CANVAS, _NUMBER], c_char_p),
    "advance": ([_RULE, _CANVAS, c_int64, c_void_p, c_void_p, c_int64, c_int64, c_void_p], c_char_p),
    "backward": ([_RULE, _CANVAS, c_int64, c_void_p, c_int64, *[c_void_p] * 4], c_char_p),
    "fire_mask": ([ctypes.POINTER(Draw), *[c_int64] * 6, c_void_p], c_char_p),
    "alive": ([c_void_p, *[c_int64] * 4, c_double, c_int64, c_void_p, _NUMBER], c_char_p),
}


def torch_threads() -> tuple[int, int] | None:
    """Gives the addresses of torch_parallel_for and torch_get_num_threads; None before PyTorch 2.10."""
    try:
        # A handle finds what the libraries behind it hold, wherever those lie.
        binary = ctypes.CDLL(torch._C.__file__)
        return tuple(
            ctypes.cast(getattr(binary, name), c_void_p).value
            for name in ("torch_parallel_for", "torch_get_num_threads")
        )
    except (OSError, AttributeError):
        return None


class Library:
    """The functions of a library that was built from rollout.cpp; see there for what each one does.

    Raises:
        OSError: the system does not load the file, or it is another library.
    """

    def __init__(self, path: Path, threads: tuple[int, int] | None):
        self.path = path
        binary = ctypes.CDLL(str(path))
        try:
            for name, (arguments, result) in _FUNCTIONS.items():
                function = getattr(binary, f"nca_fast_{name}")
                function.argtypes, function.restype = arguments, result
                setattr(self, f"_{name}", function)
            if threads is not None:
                binary.nca_fast_threads(*map(c_void_p, threads))
            elif hasattr(binary, "nca_fast_threads"):
                raise OSError("it wants the threads of PyTorch 2.10 or later")
        except AttributeError as error:
            raise OSError(str(error)) from error

    def packed_size(self, rule: Rule) -> int:
        """Counts the numbers of a packed network."""
        return self._packed_size(byref(rule))

    def pack(self, rule: Rule, params: torch.Tensor, networks: torch.Tensor) -> None:
        """Packs params [rules, parameters] into networks [rules, packed_size]."""
        _raise(self._pack(byref(rule), params.data_ptr(), len(networks), networks.data_ptr()))

    def steps_at_once(self, rule: Rule, canvas: Canvas) -> int:
        """Counts the steps that `advance` takes in one go down the rows, without memory for another state."""
        steps = c_int64()
        _raise(self._steps_at_once(byref(rule), byref(canvas), byref(steps)))
        return steps.value

    def advance(self, rule: Rule, canvas: Canvas, first_step: int, x, states, every: int, scratch) -> None:
        """Makes states[j] the state after (j + 1) * every steps from x.

        Args:
            scratch: Like x; it may be None where `every` is at most `steps_at_once`, and x is not states[0].
        """
        spare = None if scratch is None else scratch.data_ptr()
        counts = len(states), every
        _raise(self._advance(byref(rule), byref(canvas), first_step, x.data_ptr(), states.data_ptr(), *counts, spare))

    def backward(self, rule: Rule, canvas: Canvas, step: int, states, grad, other, grad_params, grad_frames) -> None:
        """Makes the gradient of states[0], from which `step` is taken, of that of the state after the last step.

        Args:
            grad, other: The given gradient, and a buffer like it. The result is in `grad` where the number of steps is
                even, and else in `other`.
            grad_params, grad_frames: Added to; grad_frames is None where there are no frames.
        """
        tensors = (None if t is None else t.data_ptr() for t in (grad, other, grad_params, grad_frames))
        _raise(self._backward(byref(rule), byref(canvas), step, states.data_ptr(), len(states), *tensors))

    def fire_mask(self, draw: Draw, first: int, limit: int, fires: torch.Tensor) -> None:
        """Fills fires, bool [samples, lanes, rows, columns], lanes from `first` on: whether a hash is below limit."""
        samples, lanes, rows, columns = fires.shape
        _raise(self._fire_mask(byref(draw), samples, lanes, first, rows, columns, limit, fires.data_ptr()))

    def alive(self, alpha: torch.Tensor, threshold: float, circular: bool, living: torch.Tensor) -> bool:
        """Fills living, bool [B, 1, H, W], from rows of alpha that follow each other; False where it holds NaN."""
        known, (samples, _, rows, columns) = c_int64(), living.shape
        where = (alpha.data_ptr(), alpha.stride(0), samples, rows, columns)
        _raise(self._alive(*where, threshold, circular, living.data_ptr(), byref(known)))
        return bool(known.value)


def _raise(message):
    if message is not None:
        raise RuntimeError(message.decode())
