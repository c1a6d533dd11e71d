"""Muon: orthogonal steps, as PyTorch's takes them, and none where it is told so."""

import pytest
import torch

from nca_fast import NCA
from nca_fast.training.optimizers import OTHERS, Muon, make_optimizer, moments, orthogonal


@pytest.mark.parametrize("shape", [(128, 48), (16, 128), (5, 5), (1, 7)])
def test_steps_are_orthogonal(shape):
    """Same singular vectors, and values between 0.68 and 1.14 (the polynomial's; worst seen 0.68 and 1.13)."""
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    turned = u.T @ orthogonal(matrix).double() @ v.T
    values = turned.diagonal()
    assert values.min() > 0.6 and values.max() < 1.2
    torch.testing.assert_close(turned, values.diag(), rtol=0, atol=1e-5)  # worst seen 2e-6: rounding of 15 products
    assert torch.equal(orthogonal(torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon from 2.9 on")
@pytest.mark.parametrize("shape", [(128, 48), (16, 128)])
def test_matrices_move_as_by_pytorchs(shape):
    torch.manual_seed(0)
    mine, theirs = (torch.nn.Parameter(torch.zeros(shape)) for _ in range(2))
    ours, other = Muon([mine], lr=0.02), torch.optim.Muon([theirs], lr=0.02, weight_decay=0)
    for _ in range(5):
        mine.grad = torch.randn(shape)
        theirs.grad = mine.grad.clone()
        ours.step()
        other.step()
    assert (mine - theirs).norm() < 0.02 * theirs.norm()  # theirs multiplies in bfloat16; worst seen 0.009


def test_what_is_no_matrix_is_adams():
    nca = NCA.preset("growing")
    other = NCA.preset("growing")
    other.load_state_dict(nca.state_dict())
    muon, adam = make_optimizer("muon", nca, 0.01), make_optimizer("adam", other, OTHERS * 0.01)
    for _ in range(3):
        for mine, theirs in zip(nca.parameters(), other.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.clone()
        muon.step()
        adam.step()
    for (name, mine), theirs in zip(nca.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs) == (mine.ndim == 1), name
        assert {key: list(value.shape) for key, value in muon.state[mine].items()} == moments("muon", mine)
        assert {key: list(value.shape) for key, value in adam.state[theirs].items()} == moments("adam", theirs)


def test_a_step_that_is_left_out_changes_nothing():
    """As torch.cuda.amp's scaler tells a fused optimizer."""
    nca = NCA.preset("growing")
    optimizer = Muon(nca.parameters(), lr=0.01, fused=True)

    def step(found_inf):
        for parameter in nca.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.found_inf = torch.tensor(found_inf)
        optimizer.step()
        kept = [value.clone() for parameter in nca.parameters() for value in optimizer.state[parameter].values()]
        return [parameter.detach().clone() for parameter in nca.parameters()] + kept

    first = step(0.0)
    assert all(map(torch.equal, first, step(1.0)))
    assert not any(map(torch.equal, first, step(0.0)))
