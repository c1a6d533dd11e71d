"""All published automata of this folder, the sizes that their authors gave some, and their rounding to float32."""

import published_distill
import published_growing
import published_pictures
import published_science
import torch
from published import System
from published_distill import Isotropic, NoiseNCA
from published_growing import EngramNCA, GoalGuided
from published_pictures import DyNCA, GameNCA, Resilience, SelfClassifyingMNIST
from published_science import VNCA, CellFlow, MedNCA, SelfOrganizedControl

SYSTEMS = [
    system
    for module in (published_distill, published_growing, published_pictures, published_science)
    for system in vars(module).values()
    if isinstance(system, type) and system.__module__ == module.__name__
]
# Name of the preset -> the formulas, at the published sizes: channels as theirs count them, hidden units, bounds.
AS_PUBLISHED = {
    "noise-nca": (NoiseNCA, {"C": 12, "hidden": 96, "dx": 1.0, "dy": 1.0}),
    "dynca": (DyNCA, {"C": 12, "hidden": 96}),
    "isotropic": (Isotropic, {"C": 16, "hidden": 192}),
    "engram": (EngramNCA, {"C": 12, "hidden": (96, 96), "genes": 4}),
    "goal-guided": (GoalGuided, {"C": 20, "hidden": 64, "bound": 10.0}),
    "vnca": (VNCA, {"C": 128, "hidden": 128}),
    "med-nca": (MedNCA, {"C": 16, "hidden": 128}),
    "resilience": (Resilience, {"C": 64, "hidden": 128}),
    "cellflow": (CellFlow, {"C": 3, "hidden": 128, "bound": 10.0}),
    "game-nca": (GameNCA, {"C": 19, "hidden": 96}),
    "self-organized-control": (SelfOrganizedControl, {"C": 6, "hidden": (20, 30)}),
    "self-classifying-mnist": (SelfClassifyingMNIST, {"C": 20, "hidden": (80, 80)}),
}


def single(system: System) -> None:
    """Rounds a system to float32, which becomes torch's default."""
    torch.set_default_dtype(torch.float32)
    system.float()
    for part in system.modules():
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                setattr(part, name, value.float())
