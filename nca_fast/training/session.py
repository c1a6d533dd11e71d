"""The one training that all systems share: begin or resume a run, save it, watch it, draw the end, say how it went."""

import contextlib
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nca_fast import checkpoint, processes
from nca_fast.files import check_writable
from nca_fast.media.film import FILMS, missing_encoder
from nca_fast.training import run_folder
from nca_fast.training.endurance import ROUND, ROUNDS, Endured
from nca_fast.training.listeners import Checkpoints, JsonLog, PreviewStrip, ProgressBar
from nca_fast.training.loop import Plan, Report, TrainingRun, derived_seed, train
from nca_fast.training.optimizers import make_optimizer
from nca_fast.training.settings import RunConfig
from nca_fast.training.stopwatch import Stopwatch
from nca_fast.training.system import System

PACED = 10  # iterations whose pace says how long a run will take; the first is slow, and does not count
PREVIEWS = 11  # with what is learned they fill one row of the strip


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind.

    Args:
        model: What was trained.
        files: What was written, in the order in which a user looks at it.
        iterations: Iterations of the whole run.
        seconds: Wall time of the iterations of this call.
        cell_steps_per_second: Speed of these iterations, losses and checkpoints included.
        endured: How the model lasted in long rollouts; None where the system has none.
        figures: What the system measured.
        notes: What the figures mean and what to do next, a line each.
    """

    model: nn.Module
    files: tuple[Path, ...]
    iterations: int
    seconds: float
    cell_steps_per_second: float
    endured: Endured | None
    figures: dict[str, float]
    notes: tuple[str, ...]


def run_training(
    system: type[System],
    sources: Any,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    command: str | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> TrainingResult:
    """Trains a system, and writes model, pictures, films, preview strip, log and training state into a folder.

    A run that was interrupted, or killed at any moment, and is resumed on a CPU with the same number of threads ends
    with the same weights and pictures, to the bit, as one that was left alone. `iterations` may be raised on the way;
    the learning rate then goes on as it was planned at the beginning. A run that is resumed on another device goes on
    from the same state.

    Where the model does not endure long rollouts the training goes on, up to four times for a twentieth of its
    iterations, at the lowest learning rate.

    Args:
        system: What to train: a class of `nca_fast.systems`.
        sources: What it learns: a `system.Sources`. On resuming it may be empty: the run knows it.
        out: The folder; made when missing. It must not hold a model yet.
        config: The settings, a `system.Config`; None for the defaults, or those of the run that is resumed. On resuming
            they must equal those, but for `system.free_on_resume`.
        resume: Go on with the run in the folder; when there is none, begin it.
        progress: Show progress bars on stderr.
        command: The command line, for the provenance.
        say: Takes the lines in which the system says how it completed its settings, and what the run will give.

    Raises:
        ValueError: Bad sources, or settings that differ from those of the run to resume, or no such device.
        OSError: The folder is not writable, or holds a model and `resume` is False; or the disk is full.
        FloatingPointError: The training diverged; the folder holds the state before the iteration that did it.
        KeyboardInterrupt: Ctrl-C. The iteration was finished and saved, and the run can be resumed.
    """
    out = Path(out)
    saved = run_folder.open_run(out, resume, system.files)
    config = run_folder.resolved_config(system, config, saved, out)
    processes.share(config.batch_size)  # raises where it cannot be shared
    work = system(config, sources, saved, out)
    config = work.config
    check_writable(out)
    _announce_missing_films(work)
    with run_folder.cpu_threads(config.threads), contextlib.ExitStack() as stack:
        with run_folder.refused_by(saved):
            model = _fresh_model(work)
        device = config.pick(model.rule)
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        run = _begin(work, model.to(device), saved)
        if processes.rank() == 0:  # all is well, but for what only the work itself can tell
            for line in work.beginning():
                say(line)
        seconds, cell_steps, endured = _train(work, run, saved, out, command, progress, say)
        figures = work.figures()
        if processes.rank() == 0:
            work.draw(out, progress)
    names = (*system.files, run_folder.PREVIEW_FILE, run_folder.MODEL_FILE, run_folder.LOG_FILE)
    names += (run_folder.TRAINING_FILE, run_folder.PICTURES_FILE)
    files = tuple(out / name for name in names if (out / name).exists())  # a short run may have no preview
    notes = (*([] if endured is None else [str(endured)]), *work.notes(out, figures))
    speed = cell_steps / seconds if seconds else 0.0
    return TrainingResult(run.model, files, run.iteration, seconds, speed, endured, figures, notes)


def _announce_missing_films(work: System) -> None:
    """Warns, before all the work, of films that cannot be made at its end; it ends well without them."""
    for name in work.files:
        reason = missing_encoder(name) if Path(name).suffix in FILMS and work.config.video_steps != 0 else None
        if reason is not None and processes.rank() == 0:
            warnings.warn(f"{name} will not be made. {reason} (--no-video asks for none.)", stacklevel=3)


def _fresh_model(work: System) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # initial weights come from torch's global generator
        torch.default_generator.manual_seed(derived_seed(work.config.seed, "weights"))
        return work.model()


def _begin(work: System, model: nn.Module, saved: run_folder.SavedRun | None) -> TrainingRun:
    """Makes the run of a model, with the weights of the run to resume if there is one."""
    config = work.config
    run = TrainingRun(model, make_optimizer(config.optimizer, model, config.learning_rate))
    if saved is not None:
        saved.check_run(model, config.optimizer)
        run.load(saved.tensors, saved.iteration, saved.seconds)
        if run.iteration > max(config.iterations, saved.until):
            raise ValueError(
                f"iterations must be at least the {run.iteration} done, but got {config.iterations}, in "
                f"{saved.metadata.where}."
            )
    work.begin(model, saved)
    return run


def _previews(saved: run_folder.SavedRun | None) -> torch.Tensor | None:
    """The previews of the run to resume, uint8 [N, 3, H, W], or None."""
    if saved is None or "previews" not in saved.tensors:
        return None
    return saved.tensors.tensor("previews", (None, 3, None, None), torch.uint8)


def _train(
    work: System,
    run: TrainingRun,
    saved: run_folder.SavedRun | None,
    out: Path,
    command: str | None,
    progress: bool,
    say: Callable[[str], object],
) -> tuple[float, int, Endured | None]:
    """Trains a run to its end and saves it on the way; returns seconds and cell-steps of its iterations, and what it
    endured."""
    config = work.config
    rounds, until = (saved.rounds, saved.until) if saved and run.iteration > config.iterations else (0, 0)
    plan = Plan(config.iterations, config.rate_at, config.time_limit)
    first_planned = plan.planned(run.iteration, run.seconds)
    strip = PreviewStrip(
        out / run_folder.PREVIEW_FILE,
        work.references(),
        draw=work.preview,
        every=config.preview_every or -(-config.iterations // PREVIEWS),
        first=first_planned,
        pictures=_previews(saved),
    )

    def save() -> None:
        facts = {**work.facts, "config": asdict(config)}
        metadata = {"system": work.name, "model": run.model.config(), **facts}
        metadata |= {"iteration": run.iteration, "seconds": run.seconds, "rounds": rounds, "until": until}
        checkpoint.save(out / run_folder.TRAINING_FILE, run.tensors() | work.tensors() | strip.tensors(), metadata)
        facts |= {"system": work.name, "command": command, "seed": config.seed, "iterations": run.iteration}
        run.model.save_pretrained(out, provenance=facts)

    processes.barrier()  # no process writes into the folder before all have seen what is in it
    first_process = processes.rank() == 0
    if first_process:
        strip.write()
    if first_process and saved is None:
        constants = work.constants()
        if constants:
            checkpoint.save(out / run_folder.PICTURES_FILE, constants, {})
        save()  # a full disk shows now, and a run killed in its first minute can be resumed
    first, cell_steps, seconds, paced = run.iteration, 0, 0.0, 0.0

    def count(report: Report) -> None:
        nonlocal cell_steps
        cell_steps += report.cell_steps

    def forecast(report: Report) -> None:
        nonlocal paced
        if first + 1 < report.iteration <= first + PACED:
            paced += report.seconds
        if report.iteration == first + PACED:
            for line in work.forecast(paced / (PACED - 1)):
                say(line)

    with contextlib.ExitStack() as stack:
        listeners, moments = [count], []
        if first_process:
            listeners.append(stack.enter_context(JsonLog(out / run_folder.LOG_FILE, first)))
            listeners.append(forecast)
            timed = config.time_limit is not None
            bar = ProgressBar(config.iterations, first_planned, progress, run.model.device, timed)
            listeners.append(stack.enter_context(bar))
            moments = [strip, Checkpoints(save, config.checkpoint_every, config.checkpoint_seconds)]
        while True:
            if rounds:
                plan = Plan(until, lambda iteration: config.rate_at(max(iteration, config.iterations)))
            saved_at, watch = run.iteration, Stopwatch()
            try:
                complete = train(
                    run,
                    work.step,
                    plan,
                    adjust_gradients=work.adjust_gradients,
                    remedy=work.remedy,
                    listeners=listeners,
                    moments=moments,
                )
            except FloatingPointError:
                if run.iteration > first and first_process:
                    save()
                raise
            # A run that was killed between its last two files has no more iterations to do, but an older model.
            if (run.iteration > saved_at or saved is not None) and first_process:
                save()
            if not complete:
                raise KeyboardInterrupt
            seconds += watch.lap()
            endured = work.endured(run.iteration)
            if endured is None or endured.runaway is None or rounds == ROUNDS:
                return seconds, cell_steps, endured
            rounds, until = rounds + 1, run.iteration + math.ceil(ROUND * run.iteration)
