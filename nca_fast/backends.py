"""What a backend is, which one serves a call, and in which precision.

A backend is a folder under kernels/ and a row of `BACKENDS`; those of `PLAIN` need no kernels.
Kernels import nothing of nca_fast: they are given tensors, a `KernelRule` and a `Place`, and read those by attribute.
"""

import os
import sys
import warnings
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from nca_fast import convolutions, folding, reference
from nca_fast.choices import PrecisionName
from nca_fast.kernel_rule import KernelRule
from nca_fast.kernels import cpu, triton
from nca_fast.rule import Rule

_UNSCALED = ("elu", "gelu", "silu")  # without a bound, and f(h 2**-e) is not f(h) 2**-e
PRECISIONS = get_args(PrecisionName)


class Place(NamedTuple):
    """Where and when some steps are taken: what, beside the fire rate, their fire masks depend on.

    Args:
        seed: Of all fire masks; its 64 bits as a signed integer, which is what operators can be given.
        first_step: Number of the first of the steps.
        row, column: Of the first cell in the whole canvas.
        sample: Number of the first sample in the whole batch.
        height: Rows of the whole canvas: after its last row comes its row 0.
    """

    seed: int
    first_step: int
    row: int
    column: int
    sample: int
    height: int

    def after(self, steps: int) -> "Place":
        """Returns the same place so many steps later."""
        return self._replace(first_step=self.first_step + steps)


class Backend(Protocol):
    """A package of kernels, which can be imported where what it needs is missing; see `Kernels` for what it runs.

    Args:
        DEVICE: Type of the devices on which it serves those who name no backend.
        LEARNS: Whether its kernels know learned filters; if not, they are folded into the first layer for it.
    """

    DEVICE: str
    LEARNS: bool

    def refusal(self, rule: KernelRule, x: Tensor, precision: str, uses: tuple[str, ...] = ()) -> str | None:
        """Says why a rule, a state [B, C, H, W] or a precision cannot be served, and the remedy; or None.

        Args:
            uses: What else a call asks for: "weights by step", "fire rates by step, sample and channel", "frames".
        """

    def load(self) -> object:
        """Builds what has to be built before the first launch. Raises RuntimeError where that fails."""

    def bytes_per_cell(self, rule: KernelRule) -> int:
        """Counts the bytes of a cell that `ops.advance` takes beside its two buffers."""


class Kernels(Protocol):
    """The module `rollout` of a backend's package, imported only where there is no refusal.

    READS_GRADIENT says whether `backward` from a single state leaves its gradient as it is.

    States inside a rollout are what `to_layout` gave, `weights` is what `pack_weights` gave: a backend lays them out as
    it likes. All tensors are contiguous, and those that are not written are left as they are.
    """

    READS_GRADIENT: bool

    def to_layout(self, x: Tensor) -> Tensor:
        """Lays out a state [B, C, H, W] for the kernels: a new tensor, or x itself where PyTorch's layout is theirs."""

    def from_layout(self, state: Tensor, channels: int) -> Tensor:
        """Converts a state back to [B, C, H, W]."""

    def pack_weights(
        self, params: Tensor, rule: KernelRule, precision: str, noise: Tensor | None = None, field: Tensor | None = None
    ) -> Any:
        """Packs the weights of one rollout, and what else is the same in all of its steps.

        Args:
            params: The kernels of learned filters [L, C, 3, 3], then all layers' weights [out, in] and biases in a row,
                float32 [P]; or, one rule per sample, [B, P]; or, by step, [T, B or 1, P].
            precision: What the matrix products multiply, one of PRECISIONS.
            noise: The factor of the rule's noise, float32 [1] or [B]; None where it has none.
            field: Frames, float32 [1 or B, 2, H, W], or None. A backend that refuses them need not know of it.
        """

    def steps_at_once(self, x: Tensor, weights: Any, fire: Tensor, rule: KernelRule, place: Place) -> int:
        """Counts the steps that `advance` takes from x to one state without memory for another; at least 1."""

    def advance(
        self, x: Tensor, weights: Any, fire: Tensor, rule: KernelRule, place: Place, states: Tensor, every: int
    ) -> None:
        """Makes states[j] the state after (j + 1) * every steps.

        Args:
            x: A state in the kernels' layout.
            fire: A cell fires when its hash is below: int64, [], a map [H, W], or by step
                [T, B or 1, written or 1, H, W].
            place: Of the first step.
            states: Written. [n, *x.shape].
            every: Steps between two states.
        """

    def gradient_buffer(self, weights: Any, x: Tensor) -> Any:
        """Makes zeros to which `backward` adds up the gradient of the weights; x is a state in the kernels' layout."""

    def backward(
        self, states: Tensor, grad: Tensor, weights: Any, fire: Tensor, rule: KernelRule, place: Place, buffer: Any
    ) -> Tensor:
        """Returns the gradient of states[0], in the memory of grad or in new memory.

        Args:
            states: Before each of some consecutive steps; all but the first as `advance` gave them. [n, *grad.shape].
            grad: Gradient of the state after the last of them; overwritten, see READS_GRADIENT.
            place: Of the step taken from states[0].
            buffer: What `gradient_buffer` made; added to.
            The others as in `advance`.
        """

    def reduce_gradients(self, buffer: Any, weights: Any) -> tuple[Tensor, Tensor | None]:
        """Sums up the gradients of params and of field, None where there is none, in their shapes and types."""


BACKENDS: dict[str, Backend] = {"cpu": cpu, "triton": triton}
# Differentiated by autograd. The reference is what all are judged by; where no kernels serve, convolutions do.
PLAIN = {"reference": reference, "convolutions": convolutions}
NAMES = (*PLAIN, *BACKENDS)
_OF_DEVICE = {backend.DEVICE: name for name, backend in BACKENDS.items()}

_said = set()  # why no kernels were taken, each reason told once


@cache
def kernels(backend: str) -> Kernels:
    """Imports the module that runs a backend's kernels."""
    if backend == "cpu":
        _forks_take_one_thread()
    return import_module(f"{BACKENDS[backend].__name__}.rollout")


@cache
def _forks_take_one_thread():
    """Lets processes that are forked from now on take one thread, for OpenMP would wait for those of its parent."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def _outside() -> int:
    """Counts the calls from the function that asks to the first one that is neither ours nor torch's, where a warning
    is of use; from the outermost one where all are."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("nca_fast", "torch"):
        frame, level = frame.f_back, level + 1
    return level


def choose(
    backend: str | None, rule: Rule, x: Tensor, precision: str | None, uses: tuple[str, ...] = ()
) -> tuple[str, str]:
    """Chooses the backend that serves a call, and the precision of its products.

    Args:
        backend, precision: As in `nca_fast.rollout`.
        uses: As in `Backend.refusal`.

    Raises:
        ValueError: there is no such backend or precision, or the backend was named and cannot serve.
        RuntimeError: the backend was named and cannot be built.

    Warns:
        UserWarning: stock convolutions serve in place of kernels, once for each reason.
    """
    if backend is not None and backend not in NAMES:
        raise ValueError(f"backend must be one of {NAMES} or None, but got {backend!r}.")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS} or None, but got {precision!r}.")
    exact = precision or "fp32"  # plain products are those of float32 unless something else is asked for
    if backend in PLAIN:
        return backend, exact
    name = backend or of_device(x.device)
    precision = precision or default_precision(x.device, rule)
    reason = f"there are no kernels for states on {x.device.type}: move model and state to the CPU, which has kernels."
    if name is not None:
        reason = refusal(name, rule, x, precision, uses)
    if reason is not None and backend is not None:
        raise ValueError(f'backend="{backend}" cannot serve: {reason} Use backend=None or "convolutions".')
    if torch.compiler.is_compiling():  # what has to be built is built when the compiled model first runs
        return ("convolutions", exact) if reason else (name, precision)
    if reason is None:
        try:
            BACKENDS[name].load()
            return name, precision
        except RuntimeError as error:
            if backend is not None:
                raise
            reason = str(error)
    if reason not in _said:
        _said.add(reason)
        warnings.warn(
            f"nca_fast runs stock convolutions, no faster than PyTorch alone: {reason}", stacklevel=_outside()
        )
    return "convolutions", exact


def of_device(device: torch.device) -> str | None:
    """Names the backend that serves those on a device who name none; None where there are no kernels."""
    return _OF_DEVICE.get(device.type)


def refusal(backend: str, rule: Rule, x: Tensor, precision: str | None, uses: tuple[str, ...] = ()) -> str | None:
    """Says why a backend cannot run a rule on states of x's type and device, or None where it can; see `Backend`."""
    own = _own_rule(backend, rule).kernel_rule
    return BACKENDS[backend].refusal(own, x, precision or default_precision(x.device, rule), uses)


def _own_rule(backend, rule):
    return rule if backend in PLAIN or BACKENDS[backend].LEARNS else folding.plain_rule(rule)


def as_served(backend: str, rule: Rule, weights: list) -> tuple[Rule, list]:
    """Gives rule and weights as a backend's kernels know them; gradients pass through to the weights that are given."""
    return (rule, weights) if BACKENDS[backend].LEARNS else folding.without_learned_filters(rule, weights)


def trouble(backend: str) -> str | None:
    """Builds what a backend has to have built, and says why that fails; None where it does not."""
    try:
        BACKENDS[backend].load()
    except Exception as error:  # of a library that does not load, too
        return " ".join(str(error).split())
    return None


def default_precision(device: torch.device, rule: Rule | None = None) -> str:
    """Returns the precision of stock convolutions of float32 on a device.

    On a GPU they multiply TF32, numbers with 10 bits after the point, unless the user has forbidden it; "fp16" has as
    many and costs a third of "tf32" in our kernels. But hidden units of some functions cannot be scaled into float16
    (kernels/triton/half_range.py): rules that have them take "tf32", or "fp32" where they have two hidden layers.
    """
    if device.type != "cuda" or not _stock_convolutions_use_tf32():
        return "fp32"
    *hidden, _ = (None,) if rule is None else rule.kernel_rule.activations
    if any(name in _UNSCALED for name, *_ in hidden):
        return "tf32" if len(hidden) == 1 else "fp32"
    return "fp16"


def _stock_convolutions_use_tf32():
    cudnn = torch.backends.cudnn
    # Since torch 2.9 the switch is `conv.fp32_precision`, which also tells what was set by the old one. Reading the old
    # one raises an error where the new ones were set.
    conv = getattr(cudnn, "conv", None)
    return cudnn.allow_tf32 if conv is None else conv.fp32_precision == "tf32"


# What torch.compiler.assume_constant_result does, which imports the compiler: the new switch cannot be traced, so a
# compiled model keeps the answer that its first run found.
_stock_convolutions_use_tf32._dynamo_marked_constant = True


def bytes_per_cell(backend: str, rule: Rule) -> int:
    """Counts the bytes of a cell that `ops.advance` takes beside its two buffers."""
    return (PLAIN | BACKENDS)[backend].bytes_per_cell(_own_rule(backend, rule).kernel_rule)
