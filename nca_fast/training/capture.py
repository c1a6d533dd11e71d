"""What an iteration computes in the same way each time, as CUDA graphs: a GPU replays hundreds of launches as one.

A rollout has graphs of its own (`kernels.triton.graphs`), because its number of steps changes; the shapes of what
judges it do not. A graph repeats what it was captured with, so nothing random may be drawn in it: that is drawn before,
on the host, and goes in as a tensor. So the same seed draws the same bits with graphs and without.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nca_fast.devices import moved

# Shapes of which graphs are kept; others are launched one by one. A lattice of pixels has up to four.
MOST = 4


class Captured:
    """A function of tensors, differentiable, that is replayed on a GPU: forward is one graph and backward another.

    Elsewhere, without gradients, and within a capture of the caller, it is the function itself. It is so too where a
    capture fails, after a warning.

    Args:
        function: (inputs, then what is drawn) -> a tensor, or a list or dict of them, all of which need a gradient. It
            draws nothing, reads nothing from the device, and does the same for inputs of the same shapes. It runs four
            times when it is captured.
        parameters: Tensors that it uses beside its inputs and that need a gradient. They are changed in place only.
    """

    def __init__(self, function: Callable[..., Any], parameters: Sequence[Tensor] = ()):
        self.function, self.parameters = function, tuple(parameters)
        self._graphs: dict[tuple, _Graphs | None] = {}

    def __call__(self, *inputs: Tensor, drawn: Sequence[Tensor] = ()) -> Any:
        """Calls the function.

        Args:
            inputs: On the device. The results are to be used before the next call, which overwrites them on a GPU; so
                are the gradients.
            drawn: On the CPU, without gradients; they go to the device, on a GPU those of a dtype in one transfer.
        """
        graphs = self._graphs_of(inputs, drawn) if replays(inputs) else None
        if graphs is None:
            return self.function(*inputs, *(moved(tensor, inputs[0].device) for tensor in drawn))
        return graphs(inputs, drawn)

    def _graphs_of(self, inputs, drawn):
        key = tuple((tensor.shape, tensor.dtype, tensor.requires_grad) for tensor in (*inputs, *drawn))
        if key not in self._graphs:
            if len(self._graphs) >= MOST:
                return None
            self._graphs[key] = _captured(self.function, inputs, drawn, self.parameters)
        return self._graphs[key]


def replays(inputs: Sequence[Tensor]) -> bool:
    """Says whether a GPU can replay a function of these inputs, and is not just capturing for the caller."""
    if not (torch.is_grad_enabled() and all(tensor.is_cuda for tensor in inputs)):
        return False
    return MOST > 0 and not torch.cuda.is_current_stream_capturing()


def _captured(function, inputs, drawn, parameters):
    stream = torch.cuda.current_stream(inputs[0].device)
    try:
        return _Graphs(function, inputs, drawn, parameters)
    except Exception as error:  # whatever it is, launches one by one either work or say what is wrong
        torch.cuda.set_stream(stream)  # where a capture that fails does not return to
        warnings.warn(
            "nca_fast launches the losses of this training one by one, which is slower but gives the same, because a "
            f"CUDA graph of them failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            stacklevel=4,
        )
        return None


class _Graphs:
    """The two graphs of a function for inputs of some shapes, and the memory that they read."""

    def __init__(self, function, inputs, drawn, parameters):
        device, used = inputs[0].device, len(inputs) + len(drawn)
        self.parameters, self.flat, self.views = parameters, {}, [None] * len(drawn)
        for dtype in dict.fromkeys(tensor.dtype for tensor in drawn):
            places = [n for n, tensor in enumerate(drawn) if tensor.dtype == dtype]
            sizes = [drawn[n].numel() for n in places]
            flat = torch.empty(sum(sizes), dtype=dtype, device=device)
            self.flat[dtype] = flat
            for n, part in zip(places, flat.split(sizes), strict=True):
                self.views[n] = part.view(drawn[n].shape)
        self._draw(drawn)  # captured are numbers that can occur
        samples = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in inputs]
        arguments = (*samples, *self.views, *parameters)
        # A loss of weight 0 may leave an input unused.
        self.replay = torch.cuda.make_graphed_callables(
            lambda *given: function(*given[:used]), arguments, allow_unused_input=True
        )

    def __call__(self, inputs, drawn):
        self._draw(drawn)
        return self.replay(*inputs, *self.views, *self.parameters)

    def _draw(self, drawn):
        for dtype, flat in self.flat.items():
            flat.copy_(moved(torch.cat([t.reshape(-1) for t in drawn if t.dtype == dtype]), flat.device))
