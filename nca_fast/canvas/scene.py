"""A canvas as it is asked for: automaton, size, steps and seed, and its settings."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nca_fast.canvas.events import Events
from nca_fast.canvas.paint import Paint
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.nca import NCA


@dataclass(frozen=True)
class Stage:
    """A canvas between two growths: its size, and the number of steps after which it ends."""

    height: int
    width: int
    until: int


@dataclass(frozen=True, eq=False)
class Scene:
    """A canvas and the steps that it shall take.

    Args:
        nca: The automaton; what is computed is computed on its device.
        height, width: Of the canvas, in cells.
        steps: Updates of every cell.
        seed: Fixes the start state and all fire masks.
        backend, precision: As in `nca_fast.rollout`.
        image: For automata that start from a picture: [3, height, width] in [0, 1].
        paint: Which texture grows where, of an automaton that knows several. None: what the config says.
        speed: In place of `config.speed_map`, [3, h, w] in [0, 1]. None: what that says.
        events: A run of the page that is done again, whose first automaton is `nca`. None: nothing is done on the way.
        name: How `config.legend` calls the automaton, where further ones are grafted.
        config: Memory, start, maps, growth.

    Raises:
        ValueError: name, rule and value of what cannot be.
    """

    nca: NCA
    height: int
    width: int
    steps: int
    seed: int = 0
    backend: str | None = None
    precision: str | None = None
    image: Tensor | None = None
    paint: Paint | None = None
    speed: Tensor | None = None
    events: Events | None = None
    name: str = "model"
    config: CanvasConfig = field(default_factory=CanvasConfig)

    def __post_init__(self):
        ranges = {"height": (1, 2**32), "width": (1, 2**32), "steps": (1, 2**32), "seed": (0, 2**64 - 1)}
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if not least <= value <= most:
                bound = f"at least {least}" if value < least else f"at most {most}"
                raise ValueError(f"{name} must be {bound}, but got {value}.")
        self.config.check()

    @property
    def dtype(self) -> torch.dtype:
        """Finds the type of numbers in which the state is kept."""
        return getattr(torch, self.config.state_dtype)

    def stages(self) -> list[Stage]:
        """Lists the canvases between growths, smallest first; the last has the size that was asked for.

        Raises:
            ValueError: The first would have no cells.
        """
        every, by = self.config.grow_every, self.config.grow_by
        if every is None:
            return [Stage(self.height, self.width, self.steps)]
        growths = (self.steps - 1) // every
        less = 2 * by * growths
        if min(self.height, self.width) <= less:
            raise ValueError(
                f"height and width must be above {less}, because the canvas grows {growths} times by {by} cells at "
                f"each side, but they are {self.height} and {self.width}. Choose a larger canvas, or let it grow less."
            )
        return [
            Stage(
                self.height - 2 * by * left, self.width - 2 * by * left, min((growths - left + 1) * every, self.steps)
            )
            for left in range(growths, -1, -1)
        ]
