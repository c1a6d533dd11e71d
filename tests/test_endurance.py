"""Automata that run away, and trainings that must not end with one."""

import json
from dataclasses import replace

import pytest
import torch
from test_training import TINY
from trainings import train_texture

import nca_fast
from nca_fast import checkpoint
from nca_fast.cli import main
from nca_fast.media.images import save_image
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources
from nca_fast.training import disturbance, system
from nca_fast.training.disturbance import disc, disturbed
from nca_fast.training.endurance import LEAST, ROUND, ROUNDS, Endurance, Endured, endure


def generator(seed):
    return torch.Generator().manual_seed(seed)


# Disturbance


def changes(frozen=2, share=1.0, count=200):
    """What happened to a state of twos when others were fives: the values inside the disc of each draw."""
    states, others = torch.full((1, 5, 12, 20), 2.0), torch.full((3, 5, 12, 20), 5.0)
    for seed in range(count):
        strange = disturbed(states, others, share, frozen, generator(seed))
        yield strange[0], (strange != states)[0]
    assert (states == 2).all()


def test_every_kind_of_disturbance_happens_in_a_disc_and_frozen_channels_stay():
    kinds = {"zero": 0, "piece": 0, "factor": 0, "noise": 0}
    for state, changed in changes():
        assert not changed[:2].any()
        (same,) = {tuple(channel.flatten().tolist()) for channel in changed[2:]}
        inside = state[2:][changed[2:]]
        assert 0 < sum(same) < 0.2 * 12 * 20  # radii to half of the shorter side's half: 3 of 12 cells, 28 of 240
        if (inside == 0).all():
            kinds["zero"] += 1
        elif (inside == 5).all():
            kinds["piece"] += 1
        elif inside.unique().numel() == 1:
            kinds["factor"] += 1
            assert 2 / disturbance.LARGEST_FACTOR <= inside[0] <= 2 * disturbance.LARGEST_FACTOR
        else:
            kinds["noise"] += 1
            assert 0 < inside.std() < 2 * disturbance.LOUDEST_NOISE
    assert min(kinds.values()) > 25, kinds  # 50 each; five standard deviations are 31


def test_the_share_is_that_of_disturbed_states_and_the_generator_decides_alone():
    count = sum(bool(changed.any()) for _, changed in changes(share=0.25))
    assert 20 < count < 80  # 50 of 200; five standard deviations are 31
    states = torch.randn(4, 3, 8, 8)
    assert torch.equal(*(disturbed(states, states, 0.5, 0, generator(3)) for _ in range(2)))
    assert not torch.equal(*(disturbed(states, states, 1.0, 0, generator(seed)) for seed in (3, 4)))


def test_a_disc_wraps_around_and_its_area_is_that_of_a_circle():
    middle = disc(64, 64, 0.5, 0.5, 1.0)
    assert abs(int(middle.sum()) - 3.1416 * 16**2) < 16
    corner = disc(64, 64, 0.0, 0.0, 1.0)
    assert torch.equal(corner, middle.roll((32, 32), (0, 1))) and corner[0, 0] and corner[-1, -1]


# Endurance


def growing_by(factor):
    """An automaton whose cells all grow by a factor in each step."""
    rule = nca_fast.Rule(channels=3, hidden=(6,), filters=("identity",), fire_rate=1.0)
    nca = nca_fast.NCA(rule)
    both = torch.cat([torch.eye(3), -torch.eye(3)])  # relu(x) - relu(-x) = x
    with torch.no_grad():
        nca.layers[0].weight.copy_(both)
        nca.layers[1].weight.copy_((factor - 1) * both.T)
        for layer in nca.layers:
            if layer.bias is not None:
                layer.bias.zero_()
    return nca


def ones(side, seed):
    return torch.full((1, 3, side, side), 1.0)


@pytest.mark.parametrize(("factor", "runaway"), [(1.0, None), (1.01, 192), (1.1, 64), (-40.0, 64), (0.9, None)])
def test_what_grows_runs_away_and_when(factor, runaway):
    """1.01 ** 128 is 3.6 and 1.01 ** 192 is 6.8; -40 overflows to infinity and NaN."""
    endured = endure(growing_by(factor), ones, Endurance(2, 6, 200), limit=5.0, seed=0)
    assert endured.runaway == runaway
    if runaway is None:
        assert endured.largest <= 1.0 + 1e-4 and "endured 2 rollouts of 200 steps on 6 x 6 cells" in str(endured)
    else:
        assert str(endured) == f"runs away within {runaway} steps on 6 x 6 cells"


@pytest.mark.parametrize(
    ("start", "factor", "steps", "runaway"),
    [(7, 0.995, 200, None), (7, 0.998, 200, 64), (7, 0.995, 64, 64), (80, 0.995, 200, 64)],
)
def test_what_comes_back_has_not_run_away(start, factor, steps, runaway):
    """7 * 0.995 ** 64 is 5.1 and 3.7 after 128; with 0.998 6.2 and 5.4; ten times the limit is too far."""
    sevens = torch.full((1, 3, 6, 6), float(start))
    found = endure(growing_by(factor), lambda side, seed: sevens, Endurance(1, 6, steps), limit=5.0, seed=0)
    assert found.runaway == runaway and found.largest > 5


def test_steps_and_seeds_go_on_from_chunk_to_chunk():
    """A part of a rollout that began anew would draw the masks of the beginning."""
    nca = nca_fast.NCA(nca_fast.Rule(channels=4, hidden=(8,)), init_gain=0.3)
    start = torch.randn(1, 4, 8, 8, generator=generator(0))
    wanted = max(float(nca(start, steps, seed=7).detach().abs().max()) for steps in (64, 100))
    found = endure(nca, lambda side, seed: start, Endurance(1, 8, 100), limit=1e30, seed=7)
    assert found.largest == pytest.approx(wanted, rel=1e-6)
    second = endure(nca, lambda side, seed: start, Endurance(2, 8, 100), limit=1e30, seed=6)
    assert second.largest >= found.largest * (1 - 1e-6)


@pytest.mark.parametrize(("budget", "side"), [(1, 64), (10**5, 16), (10**6, 32), (3 * 10**7, 64), (10**9, 128)])
def test_a_trial_is_as_large_as_its_budget_allows(budget, side):
    trial = Endurance().within(budget, side)
    if budget < side * side * 62:
        assert trial is None
    else:
        assert budget / 8 < trial.cell_steps <= budget and trial.side >= side
    assert Endurance().within(Endurance().cell_steps, side) == Endurance()


@pytest.mark.parametrize("side", [48, 64])
def test_steps_and_cells_are_kept_longer_than_rollouts(side):
    """Of a texture that had learned for 15 seconds, values went beyond 5 after 832 steps on 256 x 256 cells, and not
    within 250 on 128 x 128."""
    assert Endurance().within(LEAST.cell_steps, side) == LEAST == Endurance(1, 256, 1000)
    assert Endurance().within(LEAST.cell_steps - 1, side) == Endurance(1, 128, 1000)


def test_a_short_training_finds_time_for_the_least_trial(tmp_path, picture, monkeypatch):
    """293 iterations of 48 x 48 cells, 48 steps in the mean, took 15 seconds."""
    work = Texture(TextureConfig(image_size=64).resolved(), TextureSources(picture), None, tmp_path)
    work.nca, tried = work.model(), []
    monkeypatch.setattr(system, "endure", lambda nca, start, trial, *rest, **how: tried.append(trial))
    for iterations in (293, 50, 1200, 10**6):
        work.endured(iterations)
        assert tried[-1].cell_steps <= max(work.spare(iterations), LEAST.cell_steps)
    assert tried[0] == LEAST and tried[1].cell_steps <= work.spare(50) and tried[3] == Endurance()
    monkeypatch.setattr(Texture, "trial", lambda self: Endurance(8, 64, 10_000))  # as of what has a canvas of its own
    work.endured(293)
    assert tried[-1].cell_steps <= work.spare(293)


# Trainings

LONG = replace(TINY, iterations=20, lr_milestones=(4, 8), checkpoint_every=None)


@pytest.fixture
def picture(tmp_path):
    return torch.rand(3, 16, 16, generator=generator(0))


def tried(monkeypatch, results):
    """Lets trials end as these say, and records how many iterations were done."""
    seen, results = [], iter(results)

    def endured(self, iterations):
        seen.append(iterations)
        return Endured(Endurance(), 9.0, next(results))

    monkeypatch.setattr(system.PoolSystem, "endured", endured)
    return seen


def test_a_training_goes_on_until_its_automaton_lasts(tmp_path, picture, monkeypatch):
    seen = tried(monkeypatch, [64, 128, None])
    result = train_texture(replace(LONG, iterations=40), picture, tmp_path, progress=False)
    assert seen == [40, 42, 45] and result.iterations == 45 and result.endured.runaway is None
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in log] == [*range(1, 46)]
    lowest = LONG.learning_rate * LONG.lr_gamma**2
    rates = [line["learning_rate"] / lowest for line in log]
    assert rates[39] == pytest.approx(1 / 8)  # one of eight iterations of its cooldown was left, a fifth of all
    length = 45 * ROUND / (1 + ROUND)  # of the second round
    assert rates[40:] == pytest.approx([1, 1, 1, 1, 2 / length])
    assert checkpoint.load_metadata(tmp_path / "training.safetensors")["rounds"] == 2
    seen = tried(monkeypatch, [None])
    again = train_texture(replace(LONG, iterations=40), picture, tmp_path, resume=True, progress=False)
    assert again.iterations == 45 and seen == [45]


def test_what_goes_on_beyond_its_minutes_keeps_their_last_settings(tmp_path, picture, monkeypatch):
    """A training by the clock may end after few of the iterations that it would have otherwise."""
    tried(monkeypatch, [64, None])
    asked, call = [], system.PoolStep.__call__

    def heard(self, iteration, planned, descend):
        asked.append((iteration, planned))
        return call(self, iteration, planned, descend)

    monkeypatch.setattr(system.PoolStep, "__call__", heard)
    train_texture(replace(LONG, iterations=10**6, minutes=0.001), picture, tmp_path, progress=False)
    planned = [plan for _, plan in asked]
    assert planned == sorted(planned) and planned[-1] == 10**6 > asked[-1][0]
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(line["learning_rate"] > 0 for line in log)


def test_a_training_that_is_killed_in_such_a_round_goes_on_to_the_same_bits(tmp_path, picture, monkeypatch):
    tried(monkeypatch, [64, None])
    train_texture(replace(LONG, iterations=40), picture, tmp_path / "whole", progress=False)
    tried(monkeypatch, [64])
    with monkeypatch.context() as patch:
        step = system.PoolStep.__call__

        def killed(self, iteration, *rest):
            if iteration == 41:
                raise MemoryError("killed")
            return step(self, iteration, *rest)

        patch.setattr(system.PoolStep, "__call__", killed)
        with pytest.raises(MemoryError):
            config = replace(LONG, iterations=40, checkpoint_every=41)
            train_texture(config, picture, tmp_path / "killed", progress=False)
    seen = tried(monkeypatch, [None])
    train_texture(None, picture, tmp_path / "killed", resume=True, progress=False)
    assert seen == [42]
    whole, killed = (checkpoint.load(tmp_path / run / "model.safetensors")[0] for run in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_what_never_lasts_is_said_and_is_an_error(tmp_path, picture, monkeypatch, capsys):
    save_image(picture, tmp_path / "picture.png")
    seen = tried(monkeypatch, [64] * (ROUNDS + 1))
    command = f"texture {tmp_path}/picture.png --out {tmp_path}/run --image-size 16 --iterations 20 --pool-size 2"
    assert main([*command.split(), "--steps-min", "2", "--steps-max", "3", "--video-steps", "0"]) == 2
    assert len(seen) == ROUNDS + 1
    said = capsys.readouterr()
    assert "runs away within 64 steps on 512 x 512 cells: on to iteration 21, round 1 of at most 4\n" in said.out
    assert "the automaton must last, but it runs away within 64 steps on 512 x 512 cells" in said.err
    assert "Train again longer (it had 27 of the usual 2000 iterations), or with another --seed." in said.err
    assert "next:" not in said.out and "texture.png" in said.out and (tmp_path / "run" / "model.safetensors").exists()
