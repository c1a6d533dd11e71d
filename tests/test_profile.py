"""What `nca-fast profile` says: the bound, speeds beside each other, and shares that fit them."""

import json

import pytest
import torch

from nca_fast import cli
from nca_fast.profiling import parity, profile
from nca_fast.profiling.bounds import operations_per_fired_cell, training_operations_per_fired_cell
from nca_fast.profiling.profile import Bound, Work
from nca_fast.profiling.speed import contestants, preset_at_work, start_state
from nca_fast.profiling.stock import StockNCA

TINY = ["profile", "--size", "8", "--batch", "2", "--steps", "3", "--repeats", "1", "--backend", "reference"]
BEST = Bound(1e9, 1e9, 2e6, 3e6)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(profile, "bound", lambda work, device: BEST)
    monkeypatch.setattr(profile, "peak_memory", lambda name, **what: 12345)
    monkeypatch.setattr(profile, "check_parity", lambda *arguments: {})


def test_shares_are_those_of_the_bound(capsys):
    assert cli.main([*TINY, "--backward", "--against", "eager", "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["work"] == {"preset": "texture", "batch": 2, "size": 8, "steps": 3, "backward": True}
    assert page["bound"]["cell_steps_per_second"] == 2e6
    assert [row["name"] for row in page["speeds"]] == ["fused", "eager"]
    for row in page["speeds"]:
        assert row["share_of_bound"] == pytest.approx(row["cell_steps_per_second"] / 2e6)
        assert row["peak_memory"] == 12345 and row["cell_steps_per_second"] > 0


@pytest.mark.parametrize(("speed", "said"), [(1.99e6, False), (2.01e6, True)])
def test_a_share_above_all_is_explained(capsys, monkeypatch, speed, said):
    found = profile.Speed("fused", speed, speed, speed, None)
    monkeypatch.setattr(profile, "measure", lambda *arguments, **options: [found])
    assert cli.main(TINY) == 0
    assert ("Above its bound" in capsys.readouterr().out) == said


def test_a_dry_run_runs_nothing(capsys, monkeypatch):
    monkeypatch.setattr(profile, "measure", lambda *arguments, **options: pytest.fail("measured"))
    assert cli.main([*TINY, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "texture, 2 x 8 x 8 cells, 3 steps, forward" in said and "2.00 million cell-steps/s" in said


@pytest.mark.parametrize("options", [["--against", "jax"], ["--against", "eager,eager"], ["--size", "0"]])
def test_what_cannot_be_measured(options, capsys):
    assert cli.main([*TINY, *options]) == 2
    assert options[0][2:] in capsys.readouterr().err


def test_stock_code_is_for_plain_rules(capsys):
    assert cli.main([*TINY, "--preset", "growing", "--against", "eager"]) == 2
    assert "stock code must have a rule without extras" in capsys.readouterr().err


def test_what_a_cell_costs():
    """Two layers of multiply-adds, two operations each; backwards two products more, and the hidden units anew."""
    nca = preset_at_work("texture")
    assert operations_per_fired_cell(nca) == 2 * (96 * 48 + 12 * 96)
    assert training_operations_per_fired_cell(nca) == 3 * 2 * (96 * 48 + 12 * 96) + 2 * 96 * 48
    assert Work(batch=4, size=128).state_bytes == 4 * 12 * 4 * 128**2


def test_all_contestants_compute_the_same_automaton():
    nca = preset_at_work("texture")
    nca.rule = type(nca.rule)(fire_rate=1.0)
    x = start_state(nca, 2, 8)
    with torch.no_grad():
        fused = contestants(nca, backend="reference", only="fused")["fused"](x, 3)
        eager = contestants(nca, stock=StockNCA(nca), only="eager")["eager"](x, 3)
    torch.testing.assert_close(fused, eager, rtol=1e-5, atol=1e-6)


def test_red_parity_stops(monkeypatch):
    nca = preset_at_work("texture")
    assert max(parity.check_parity(nca, backend="convolutions")["fused"]) < 1e-5
    rollout = parity.rollout

    def wrong(*arguments, backend, **options):
        return rollout(*arguments, backend=backend, **options) * (1 + 1e-3 * (backend == "convolutions"))

    monkeypatch.setattr(parity, "rollout", wrong)
    with pytest.raises(ArithmeticError, match="errors must be those of rounding"):
        parity.check_parity(nca, backend="convolutions")
