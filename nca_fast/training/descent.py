"""The step of the optimizer down a loss, whose value is read without making a GPU wait."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nca_fast import processes

SKIPPED = 8  # so many iterations in a row whose loss or gradient is not finite end a training; fewer are left out
DELAY = 4  # iterations that the host may be ahead of a GPU: so many later the loss of an iteration is read


@dataclass(frozen=True)
class Reading:
    """The losses of one iteration, as they come back from the device.

    Args:
        iteration: Iterations finished with this one.
        learning_rate: The one that it used.
        names: Of the terms.
        values: The sum, the terms, and the norm of the gradient, float64 [terms + 2]; on the way to the host until
            `event`.
        event: After it the values are there; None where they are already.
    """

    iteration: int
    learning_rate: float
    names: tuple[str, ...]
    values: Tensor
    event: torch.cuda.Event | None = None


class Descent:
    """Steps of an optimizer down sums of losses.

    An iteration whose loss or gradient is not finite changes nothing, as with PyTorch's GradScaler: in a rollout now
    and then a state runs away, and the next one is another. `SKIPPED` of them in a row end the training, which then is
    as it was before the first of them. On a CPU losses are read at once. On a GPU they are read `DELAY` iterations
    later, while the device goes on, and a fused optimizer is told there which step to leave out.

    Args:
        model: What learns.
        optimizer: Over its parameters, as `optimizers.make_optimizer` makes it.
        adjust_gradients: Changes the gradients of a list of parameters in place, after they have been summed over the
            processes.
        remedy: What the error about a loss that is not finite tells the user to train with.
        delay: Iterations between a loss and its reading; None: 0 on a CPU, else DELAY. Above 0 it needs an optimizer
            that is fused.

    Attributes:
        finite: On the device, whether the last iteration's step was taken, bool [].
        settled: Iterations until the last one that was read and whose loss and gradient were finite.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        adjust_gradients: Callable[[list[Tensor]], object] | None,
        remedy: str,
        delay: int | None = None,
    ):
        device = _device(model)
        self.optimizer, self.adjust_gradients, self.remedy = optimizer, adjust_gradients, remedy
        self.delay = (0 if device.type == "cpu" else DELAY) if delay is None else delay
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        self._in_a_row = torch.zeros((), dtype=torch.int32, device=device)  # not finite, on the device
        self._left_out: list[tuple[int, str]] = []  # the same as far as it was read: iteration, what was wrong
        self.settled = 0
        if self.delay and device.type != "meta" and not all(group.get("fused") for group in optimizer.param_groups):
            raise ValueError(
                "optimizer must be fused where losses are read late (see `make_optimizer`): no other leaves steps out."
            )
        self.iteration, self.learning_rate = 0, 0.0
        self._readings: deque[Reading] = deque()

    def begin(self, iteration: int, learning_rate: float) -> None:
        """Says which iteration comes next, counted from 0, and at which learning rate."""
        self.iteration, self.learning_rate = iteration, learning_rate

    def __call__(self, terms: Mapping[str, Tensor]) -> None:
        """Takes one step, or leaves it out where the loss or a gradient is NaN or infinite.

        Args:
            terms: Named scalar losses of this process's share of the batch; their sum is minimised.
        """
        loss = sum(terms.values())
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        values = processes.all_reduce(torch.stack([term.detach() for term in (loss, *terms.values())]).double())
        late = bool(self.delay)
        if late or bool(values[0].isfinite()):
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            processes.sum_gradients(parameters)
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]).double()
        else:
            norm = values[0]
        # One vector: the losses, then the norm, which is the same in all processes.
        values = torch.cat([values, norm[None]])
        here = values[0].isfinite() & norm.isfinite()
        over = self._in_a_row >= SKIPPED
        self.finite = here & ~over
        self._in_a_row = torch.where(self.finite, 0, self._in_a_row + 1)
        if late:
            self._readings.append(_sent(self.iteration + 1, self.learning_rate, tuple(terms), values))
        else:
            self._readings.append(Reading(self.iteration + 1, self.learning_rate, tuple(terms), values))
            if not self.finite:
                return
        if self.adjust_gradients is not None:
            self.adjust_gradients(parameters)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        if late and not self.finite.is_meta:  # where GradScaler tells a fused optimizer whether to change nothing
            self.optimizer.found_inf = (~self.finite).float()
        self.optimizer.step()

    def readings(self, everything: bool = False) -> list[Reading]:
        """Gives the losses that are due, oldest first, or all of them, to be given to `read`."""
        count = len(self._readings) - (0 if everything else self.delay)
        return [self._readings.popleft() for _ in range(count)]

    def read(self, reading: Reading) -> tuple[float, dict[str, float]]:
        """Waits for the loss of an iteration and its terms by name; they need not be finite.

        Raises:
            FloatingPointError: For `SKIPPED` iterations in a row the loss or its gradient was NaN or infinite; nothing
                has changed since `settled`.
        """
        if reading.event is not None:
            reading.event.synchronize()
        value, *values, norm = reading.values.tolist()
        wrong = [
            f"{what} must stay finite, but it is {number}"
            for what, number in (("loss", value), ("norm of the gradient", norm))
            if not math.isfinite(number)
        ]
        if not wrong:
            self.settled, self._left_out = reading.iteration, []
        else:
            self._left_out.append((reading.iteration, wrong[0]))
            if len(self._left_out) == SKIPPED:
                first, what = self._left_out[0]
                raise FloatingPointError(
                    f"{what} in iteration {first}, and so in the {SKIPPED - 1} after it. "
                    f"Train again with {self.remedy}."
                )
        return value, dict(zip(reading.names, values, strict=True))


def normalize_gradients(parameters: Iterable[Tensor]) -> None:
    """Scales the gradient of each parameter tensor to unit length: g / (|g| + 1e-8)."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch._foreach_norm(gradients)
    torch._foreach_add_(norms, 1e-8)
    torch._foreach_div_(gradients, norms)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _sent(iteration: int, learning_rate: float, names: tuple[str, ...], values: Tensor) -> Reading:
    """Sends values on their way to the host."""
    if not values.is_cuda:
        return Reading(iteration, learning_rate, names, values)
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(values.device))  # the current device may be another one
    return Reading(iteration, learning_rate, names, host, event)
