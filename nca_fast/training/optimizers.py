"""The optimizers of a training: Adam, and Muon for automata that are learned in few iterations."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from nca_fast.choices import OptimizerName

MOMENTUM = 0.95  # of Muon's average of gradients
NEWTON_SCHULZ_STEPS = 5
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of its polynomial, which takes singular values of 0.05 to 1 to 0.7 to 1.2
OTHERS = 0.2  # times the learning rate, Adam's of all parameters that are no matrices


def make_optimizer(name: OptimizerName, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """Makes the optimizer of a training; on a GPU such that it can leave everything as it is when told so."""
    parameters, fused = list(model.parameters()), next(model.parameters()).device.type == "cuda"
    if name == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate, fused=fused)
    return Muon(parameters, lr=learning_rate, fused=fused)


def moments(name: OptimizerName, parameter: Tensor) -> dict[str, list[int]]:
    """Lists what an optimizer keeps of a parameter after its first step: names and shapes."""
    if name == "muon" and _is_matrix(parameter):
        return {"momentum": list(parameter.shape)}
    return {"step": [], "exp_avg": list(parameter.shape), "exp_avg_sq": list(parameter.shape)}


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim == 2


class Muon(torch.optim.Optimizer):
    """Steps each matrix along the orthogonal matrix that is nearest to its averaged gradient; all else is Adam's.

    In an automaton's products a few directions have most of the gradient, and the others, in which the details of a
    picture are, move little. Here all directions of a matrix move equally far. What it costs, some products of the
    size of the weights, is nothing beside a rollout.

    Args:
        parameters: To be learned. Those of two dimensions are matrices.
        lr: Spectral norm of a matrix's step is this times sqrt(max(1, rows / columns)). Adam has `OTHERS` times it.
        fused: As torch.optim.Adam; with `found_inf`, a tensor, set to 1 a step changes nothing.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, fused: bool = False):
        parameters = list(parameters)
        super().__init__(parameters, {"lr": lr, "fused": fused})
        others = [parameter for parameter in parameters if not _is_matrix(parameter)]
        self._adam = torch.optim.Adam(others, lr=OTHERS * lr, fused=fused) if others else None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Takes one step down the gradients that the parameters have; those without one stay."""
        (group,), found_inf = self.param_groups, getattr(self, "found_inf", None)
        for parameter in group["params"]:
            if _is_matrix(parameter) and parameter.grad is not None:
                self._step(parameter, group["lr"], found_inf)
        if self._adam is not None:
            self._adam.state = self.state  # one place for what is saved
            self._adam.param_groups[0]["lr"] = OTHERS * group["lr"]
            if found_inf is not None:
                self._adam.found_inf = found_inf
            self._adam.step()

    def _step(self, parameter: nn.Parameter, lr: float, found_inf: Tensor | None) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp(gradient, 1 - MOMENTUM)
        rows, columns = parameter.shape
        new = orthogonal(gradient.lerp(momentum, MOMENTUM)).mul(-lr * max(1, rows / columns) ** 0.5).add_(parameter)
        if found_inf is not None:
            momentum = torch.where(found_inf > 0, state["momentum"], momentum)
            new = torch.where(found_inf > 0, parameter, new)
        state["momentum"].copy_(momentum)
        parameter.copy_(new)


def orthogonal(matrix: Tensor) -> Tensor:
    """Approximates the nearest orthogonal matrix: the same singular vectors, with values of some 0.7 to 1.2.

    Args:
        matrix: [rows, columns], float32. Zeros stay zeros.

    Source: Newton-Schulz iteration with the polynomial of Jordan et al. (2024).
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (torch.linalg.vector_norm(x) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
