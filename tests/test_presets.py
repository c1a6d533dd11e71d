"""The named automata of others: rules as published, and rollouts as their authors' formulas have them."""

import pytest
import torch
from published_distill import Isotropic, NoiseNCA
from published_growing import EngramNCA, GoalGuided
from published_pictures import DyNCA, GameNCA, Resilience, SelfClassifyingMNIST
from published_science import VNCA, CellFlow, MedNCA, SelfOrganizedControl

from nca_fast import NCA

# Name -> the formulas, at the published sizes: channels as theirs count them, hidden units, bounds.
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


@pytest.fixture(autouse=True)
def float64():
    """Parameters of float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", AS_PUBLISHED)
def test_is_what_its_authors_published(name):
    """In float64 to 1e-10; worst seen 1.4e-15, the order of sums."""
    kind, sizes = AS_PUBLISHED[name]
    system, rule = kind(**sizes), NCA.preset(name).rule
    assert (rule.fire_rate, rule.kernel_rule) == (system.rule.fire_rate, system.rule.kernel_rule)
    system.rule, system.steps = rule, 4
    x = (torch.rand(3, sizes["C"], 9, 11) - 0.5) * (torch.rand(3, 1, 9, 11) < 0.3)
    x[:, :, 4, 5] = 0.7
    exact = system.theirs(x, system.draws(x)).detach()
    found = system.ours(x).detach()
    assert exact[..., -3:, :, :].std() > 1e-2 and (found - exact).norm() < 1e-10 * exact.norm()
    if exact.ndim == x.ndim:
        assert (exact - x).norm() > 1e-2 * x.norm()


def test_the_weights_of_a_preset_fit_it():
    """An automaton of each makes a step from the state that it begins with."""
    torch.set_default_dtype(torch.float32)
    for name in AS_PUBLISHED:
        nca = NCA.preset(name)
        x = nca.initial_state(1, 6, 7) + 0.1
        assert nca(x, 1, seed=0).shape == x.shape == (1, nca.rule.channels, 6, 7)
