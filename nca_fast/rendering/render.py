"""Rendering in memory: the state that a trained automaton reaches on a canvas of any size.

A cell sees nothing but its neighbourhood, so a canvas needs neither the size nor the shape of the training canvas.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.scene import Scene


@torch.no_grad()
def render(scene: Scene, on_cells: Callable[[float], object] = lambda cells: None) -> Tensor:
    """Rolls an automaton out from its start state, in memory. For states on the way, or in files, see `Canvas`.

    Args:
        scene: What is computed.
        on_cells: Called with the cell-steps that were done since the last call, as by `Canvas`.

    Returns:
        The final state, on the device of the automaton. [1, C, height, width]

    Raises:
        ValueError: The canvas does not fit into memory, or the image is missing or of another size.

    Example:
        >>> state = render(Scene(nca, 512, 512, steps=300))
        >>> image = nca.to_rgb(state)[0]    # [3, 512, 512]
    """
    with Canvas(scene, on_cells=on_cells) as canvas:
        canvas.go()
        return canvas.state()
