"""Steps down a loss that is read late: what is told when, and iterations that are not finite are left out."""

import math
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch

from nca_fast.training import loop
from nca_fast.training.descent import DELAY, SKIPPED, Descent, _sent
from nca_fast.training.optimizers import make_optimizer

BAD = 5  # the first iteration whose loss is not finite, counted from 1


class Line(torch.nn.Module):
    """y = w x, and a pool of one state."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
        self.pool = torch.zeros(2)
        self.bad, self.bad_count = "loss", 1000

    def step(self, iteration, planned, descend):
        here = BAD <= iteration + 1 < BAD + self.bad_count
        loss = (self.w * (iteration + 1)).square().sum() * (math.nan if here and self.bad == "loss" else 1.0)
        if here and self.bad == "gradient":  # the root's slope at 0 is infinite
            loss = loss + (self.w - self.w.detach()).sum().sqrt()
        descend({"square": loss, "small": self.w.sum() * 1e-3})
        new = self.w.detach() + iteration
        self.pool = torch.where(descend.finite, new, self.pool)
        return loop.Work(iteration + 1, 10)


def new_run(fused=True):
    line = Line()
    return loop.TrainingRun(line, torch.optim.Adam(line.parameters(), lr=0.1, fused=fused))


def trained(delay, iterations, moments=(), bad="loss", bad_count=1000):
    """A run, its reports, and how many iterations were done when each came."""
    run, reports = new_run(), []
    run.model.bad, run.model.bad_count = bad, bad_count
    plan = loop.Plan(iterations, lambda planned: 0.1 / (1 + planned))
    listener = lambda report: reports.append((report, run.iteration))  # noqa: E731
    try:
        complete = loop.train(run, run.model.step, plan, listeners=[listener], moments=moments, delay=delay)
    except FloatingPointError as error:
        return run, reports, error
    return run, reports, complete


class At:
    def __init__(self, *iterations):
        self.iterations, self.seen = iterations, []

    def due(self, iteration, planned):
        return iteration in self.iterations

    def __call__(self):
        self.seen.append(True)


def test_late_reports_are_those_of_immediate_ones():
    now, reports, complete = trained(0, 4)
    late, later, _ = trained(DELAY, 4)
    assert complete is True and torch.equal(now.model.w, late.model.w)
    for (a, done_a), (b, done_b) in zip(reports, later, strict=True):
        assert (a.iteration, a.loss, a.terms, a.learning_rate, a.steps, a.cell_steps) == (
            b.iteration,
            b.loss,
            b.terms,
            b.learning_rate,
            b.steps,
            b.cell_steps,
        )
        assert done_a == a.iteration and done_b == 4  # all came at the end, which waits for them


def test_reports_come_so_many_iterations_later_and_before_every_moment():
    moment = At(3)
    _, reports, _ = trained(2, 4, [moment])
    assert [(report.iteration, done) for report, done in reports] == [(1, 3), (2, 3), (3, 3), (4, 4)]
    assert moment.seen == [True]


@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("delay", [0, 1, DELAY])
def test_what_is_not_finite_ends_in_the_state_before_it(delay, bad):
    wanted, _, _ = trained(0, BAD - 1)
    run, reports, error = trained(delay, 40, bad=bad)
    what = "loss must stay finite, but it is nan" if bad == "loss" else "norm of the gradient must stay finite"
    assert isinstance(error, FloatingPointError) and what in str(error)
    assert f" in iteration {BAD}, and so in the {SKIPPED - 1} after it." in str(error)
    assert run.iteration == BAD - 1 and reports[-1][0].iteration == BAD + SKIPPED - 2
    tensors = run.tensors()
    for name, tensor in wanted.tensors().items():
        assert torch.equal(tensors[name], tensor), name  # the count of Adam's steps too
    assert torch.equal(run.model.pool, wanted.model.pool)


@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("delay", [0, DELAY])
def test_iterations_that_are_not_finite_are_left_out(delay, bad):
    """One fewer than would end the training: weights and optimizer are those of the other iterations alone."""
    run, reports, complete = trained(delay, BAD + SKIPPED + 2, bad=bad, bad_count=SKIPPED - 1)
    assert complete is True and run.iteration == BAD + SKIPPED + 2
    left_out = [report.iteration for report, _ in reports if not math.isfinite(report.loss)]
    assert left_out == ([*range(BAD, BAD + SKIPPED - 1)] if bad == "loss" else [])
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())
    assert run.optimizer.state[run.model.w]["step"] == BAD + 3
    other = trained(0, 30, bad=bad, bad_count=SKIPPED - 1)[0]
    assert not torch.equal(other.model.w, run.model.w)  # it goes on learning


def test_the_event_of_a_reading_is_on_the_stream_that_sends_it(monkeypatch):
    """Which need not be the current device's."""
    seen = []
    event = SimpleNamespace(record=seen.append, synchronize=lambda: seen.append("waited"))
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **k: empty(*a, **k))
    numbers = torch.tensor([3.0, 1.0, 2.0, 0.5], dtype=torch.float64)
    sent = SimpleNamespace(is_cuda=True, shape=numbers.shape, dtype=numbers.dtype, device="cuda:1")
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, other, non_blocking: self.set_(numbers.clone()))
    reading = _sent(7, 0.1, ("a", "b"), sent)
    run = new_run()
    descent = Descent(run.model, run.optimizer, None, "")
    assert descent.read(reading) == (3.0, {"a": 1.0, "b": 2.0})
    assert seen == ["stream of cuda:1", "waited"]


def test_late_reading_needs_an_optimizer_that_can_leave_steps_out():
    run = new_run(fused=False)
    with pytest.raises(ValueError, match="optimizer must be fused where losses are read late"):
        Descent(run.model, run.optimizer, None, "", delay=2)


def test_ctrl_c_in_the_last_iteration_counts(monkeypatch):
    run = new_run()

    def step(iteration, planned, descend):
        if iteration == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return run.model.step(iteration, planned, descend)

    assert loop.train(run, step, loop.Plan(4, lambda planned: 0.1)) is False and run.iteration == 4


def test_a_moment_never_sees_a_run_that_has_diverged():
    moment = At(BAD - 1, BAD + SKIPPED - 1, BAD + SKIPPED)
    _, _, error = trained(DELAY, 40, [moment])
    assert isinstance(error, FloatingPointError) and moment.seen == [True]


def test_the_host_waits_nowhere_else():
    """On the meta device there is nothing to read."""
    line = Line().to("meta")
    descent = Descent(line, make_optimizer("adam", line, 0.1), None, "")
    for iteration in range(DELAY):
        descent.begin(iteration, 0.1)
        descent({"loss": line.w.square().sum()})
        assert descent.readings() == []
    assert descent.finite.is_meta


def test_runs_move_between_kinds_of_optimizers():
    """A GPU's optimizer counts its steps on the device, in one kernel, a CPU's does not: a run goes on either way."""
    first, _, _ = trained(0, 3)
    for fused in (True, False):
        other = new_run(fused)
        with torch.no_grad():
            other.model.w.zero_()
        other.load({name: tensor.clone() for name, tensor in first.tensors().items()}, 3, 0.0)
        plan = loop.Plan(4, lambda planned: 0.1 / (1 + planned))
        assert loop.train(other, other.model.step, plan) and other.iteration == 4
        whole, _, _ = trained(0, 4)
        torch.testing.assert_close(other.model.w, whole.model.w, rtol=1e-6, atol=0)  # worst seen 1e-7


def test_minutes_run_through_the_whole_plan(monkeypatch):
    """By a clock that moves on a second an iteration: a share of the run takes that share of the time."""
    run, places, rates, clock = new_run(), [], [], iter(range(100_000))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) / 3)  # asked three times an iteration

    def step(iteration, planned, descend):
        places.append(planned)
        rates.append(descend.learning_rate)
        return run.model.step(iteration, planned, descend)

    monkeypatch.setattr("test_descent.BAD", 10**9)
    assert loop.train(run, step, loop.Plan(1000, lambda planned: 1e-3 if planned < 500 else 1e-4, limit=20))
    assert 15 <= run.iteration <= 25 and places == sorted(places) and places[0] == 0 and places[-1] > 900
    assert {1e-3, 1e-4} == set(rates) and abs(rates.index(1e-4) - run.iteration / 2) <= 1
    assert loop.train(run, step, loop.Plan(1000, lambda planned: 1e-3, limit=20)) and len(places) == run.iteration
    slow, fast = loop.Plan(4, lambda planned: 1e-3, limit=1e9), loop.Plan(4, lambda planned: 1e-3)
    assert [slow.planned(iteration, 0.0) for iteration in (0, 3, 99)] == [0, 0, 0]
    assert [slow.planned(0, share * 1e9) for share in (0.26, 0.99, 1.0, 7.0)] == [1, 3, 4, 4]
    assert [fast.planned(iteration, 1e9) for iteration in range(5)] == [0, 1, 2, 3, 4]
