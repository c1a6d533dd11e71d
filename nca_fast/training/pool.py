"""The sample pool: states that live on between iterations, so that a rule learns to stay where it arrived.

Source: Mordvintsev et al., "Growing Neural Cellular Automata", Distill 2020.
"""

import torch
from torch import Tensor


class Pool:
    """The states from which each iteration takes a batch and into which it writes the results.

    Args:
        states: One sample per row; the pool owns the tensor and writes into it. [N, C, H, W]

    Raises:
        ValueError: The tensor has another rank or no element.
    """

    def __init__(self, states: Tensor):
        if states.ndim != 4 or states.numel() == 0:
            raise ValueError(
                f"pool states must be a non-empty [N, C, H, W] tensor, but got shape {list(states.shape)}."
            )
        self.states = states

    def __len__(self) -> int:
        return len(self.states)

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws a batch without replacement.

        Args:
            batch_size: Number of states, at most the size of the pool.
            generator: Decides alone which; on the CPU, so that every device trains on the same samples.

        Returns:
            Their indices, int64 [batch_size], and copies of them that may be changed freely, [batch_size, C, H, W].

        Raises:
            ValueError: The batch is larger than the pool, or not positive.
        """
        if not 1 <= batch_size <= len(self):
            raise ValueError(f"batch size must be from 1 to the size of the pool, {len(self)}, but got {batch_size}.")
        indices = torch.randperm(len(self), generator=generator)[:batch_size].to(self.states.device)
        return indices, self.states[indices]

    def write(self, indices: Tensor, states: Tensor) -> None:
        """Stores states [batch_size, C, H, W], without their history, at the indices of an earlier `sample`."""
        self.states[indices] = states.detach().to(self.states.dtype)
