"""The step of the optimizer down a loss, whose value is read without making a GPU wait."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nca_fast import processes

DELAY = 4  # iterations that the host may be ahead of a GPU: so many later the loss of an iteration is read


def adam(model: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Makes the optimizer of a training; on a GPU in one kernel, which can leave everything as it is when told so."""
    return torch.optim.Adam(model.parameters(), lr=learning_rate, fused=_device(model).type == "cuda")


@dataclass(frozen=True)
class Reading:
    """The losses of one iteration, as they come back from the device.

    Args:
        iteration: Iterations finished with this one.
        learning_rate: The one that it used.
        names: Of the terms.
        values: The sum and the terms, float64 [1 + terms]; on the way to the host until `event`.
        event: After it the values are there; None where they are already.
    """

    iteration: int
    learning_rate: float
    names: tuple[str, ...]
    values: Tensor
    event: torch.cuda.Event | None = None

    def losses(self) -> tuple[float, dict[str, float]]:
        """Waits for the sum and the terms by name."""
        if self.event is not None:
            self.event.synchronize()
        value, *values = self.values.tolist()
        return value, dict(zip(self.names, values, strict=True))


class Descent:
    """Steps of an optimizer down sums of losses.

    On a CPU a loss is read before anything changes. On a GPU it is read `DELAY` iterations later, while the device goes
    on; from the first loss on that is not finite, no step changes anything there (`finite` is False, and a fused
    optimizer is told). So in both cases a training that diverges ends in the state before the iteration that did it.

    Args:
        model: What learns.
        optimizer: Over its parameters, as `adam` makes it.
        tame: Changes the gradients of a list of parameters in place, after they have been summed over the processes.
        remedy: What the error about a loss that is not finite tells the user to train with.
        delay: Iterations between a loss and its reading; None: 0 on a CPU, else DELAY. Above 0 it needs an optimizer
            that is fused.

    Attributes:
        finite: On the device, whether all losses so far were finite, bool []; None where they are read at once.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        tame: Callable[[list[Tensor]], object] | None,
        remedy: str,
        delay: int | None = None,
    ):
        device = _device(model)
        self.optimizer, self.tame, self.remedy = optimizer, tame, remedy
        self.delay = (0 if device.type == "cpu" else DELAY) if delay is None else delay
        self.finite = torch.ones((), dtype=torch.bool, device=device) if self.delay else None
        self.iteration, self.learning_rate = 0, 0.0
        self._readings: deque[Reading] = deque()

    def begin(self, iteration: int, learning_rate: float) -> None:
        """Says which iteration comes next, counted from 0, and at which learning rate."""
        self.iteration, self.learning_rate = iteration, learning_rate

    def __call__(self, terms: Mapping[str, Tensor]) -> None:
        """Takes one step.

        Args:
            terms: Named scalar losses of this process's share of the batch; their sum is minimised.

        Raises:
            FloatingPointError: The loss is NaN or infinite; nothing has changed. (On a GPU see `check`.)
        """
        loss = sum(terms.values())
        if self.delay:
            values = torch.stack([term.detach().double() for term in (loss, *terms.values())])
            values = processes.all_reduce(values)
            self.finite = self.finite & values[0].isfinite()
            self._readings.append(_sent(self.iteration + 1, self.learning_rate, tuple(terms), values))
        else:
            values = processes.summed([float(term.detach()) for term in (loss, *terms.values())])
            values = torch.tensor(values, dtype=torch.float64)
            self.check(self.iteration + 1, float(values[0]))
            self._readings.append(Reading(self.iteration + 1, self.learning_rate, tuple(terms), values))
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        processes.sum_gradients(parameters)
        if self.tame is not None:
            self.tame(parameters)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
            if self.delay and group["fused"]:  # where torch's GradScaler says whether a step must change nothing
                self.optimizer.found_inf = (~self.finite).float()
        self.optimizer.step()

    def readings(self, everything: bool = False) -> list[Reading]:
        """Gives the losses that are due, oldest first, or all of them. `check` them before they are used."""
        count = len(self._readings) - (0 if everything else self.delay)
        return [self._readings.popleft() for _ in range(count)]

    def check(self, iteration: int, value: float) -> None:
        """Raises FloatingPointError for a loss that is NaN or infinite: no iteration from there on changed anything."""
        if not math.isfinite(value):
            raise FloatingPointError(
                f"loss must stay finite, but it is {value} in iteration {iteration}. Train again with {self.remedy}."
            )


def normalize_gradients(parameters: list[Tensor]) -> None:
    """Scales the gradient of each parameter tensor to unit length: g / (|g| + 1e-8)."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad /= parameter.grad.norm() + 1e-8


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _sent(iteration: int, learning_rate: float, names: tuple[str, ...], values: Tensor) -> Reading:
    """Sends values on their way to the host."""
    if not values.is_cuda:
        return Reading(iteration, learning_rate, names, values)
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return Reading(iteration, learning_rate, names, host, event)
