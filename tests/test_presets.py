"""The named automata of others: rules as published, and rollouts as their authors' formulas have them."""

import pytest
import torch
from published_systems import AS_PUBLISHED

from nca_fast import NCA


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
