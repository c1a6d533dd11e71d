"""The one training that all systems share: begin or resume a run, save it, watch it, draw the end, say how it went."""

import contextlib
import math
import shlex
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nca_fast import checkpoint, processes
from nca_fast.files import check_writable
from nca_fast.media.film import FILMS, missing_encoder
from nca_fast.training import forecast as forecasts
from nca_fast.training import run_folder, watching
from nca_fast.training.endurance import ROUND, ROUNDS, Endured
from nca_fast.training.listeners import Checkpoints, JsonLog, PreviewStrip, ProgressBar
from nca_fast.training.loop import Plan, Report, TrainingRun, derived_seed, train
from nca_fast.training.optimizers import make_optimizer
from nca_fast.training.settings import RunConfig
from nca_fast.training.stopwatch import Stopwatch
from nca_fast.training.system import System
from nca_fast.training.task import check_given

PREVIEWS = 11  # with what is learned they fill one row of the strip


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind.

    Args:
        model: What was trained.
        files: What was written, in the order in which a user looks at it.
        iterations: Iterations of the whole run.
        resumed_at: How many of them an earlier call did.
        seconds: Wall time of the iterations of this call.
        cell_steps_per_second: Speed of these iterations, losses and checkpoints included.
        endured: How the model lasted in long rollouts; None where the system has none.
        figures: What the system measured.
        notes: What the figures mean, a line each.
        then: Command lines that may come next.
    """

    model: nn.Module
    files: tuple[Path, ...]
    iterations: int
    resumed_at: int
    seconds: float
    cell_steps_per_second: float
    endured: Endured | None
    figures: dict[str, float]
    notes: tuple[str, ...]
    then: tuple[str, ...]

    @property
    def runs_away(self) -> bool:
        """Whether the model was seen not to last."""
        return self.endured is not None and self.endured.runaway is not None


def run_training(
    system: type[System],
    sources: Any,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    resume: bool = False,
    init: str | Path | None = None,
    progress: bool = True,
    command: str | None = None,
    say: Callable[[str], object] = lambda line: None,
    wait: Callable[[str], AbstractContextManager[object]] = contextlib.nullcontext,
) -> TrainingResult:
    """Trains a system, and writes model, pictures, films, preview strip, log and training state into a folder.

    A run that was interrupted, or killed at any moment, and is resumed on a CPU with the same number of threads ends
    with the same weights and pictures, to the bit, as one that was left alone. `iterations` may be raised on the way;
    the learning rate then goes on as it was planned at the beginning, and has its cooldown before the new end. A run
    that is resumed on another device goes on from the same state.

    Where the model does not endure long rollouts the training goes on, up to four times for a twentieth of its
    iterations, at the lowest learning rate, which in the second half has a cooldown if the settings ask for one.

    Args:
        system: What to train: a class of `nca_fast.systems`.
        sources: What it learns: a `system.Sources`. On resuming it may be empty: the run knows it.
        out: The folder; made when missing. It must not hold a model yet.
        config: The settings, a `system.Config`; None for the defaults, or those of the run that is resumed. On resuming
            they must equal those, but for `system.free_on_resume`.
        resume: Go on with the run in the folder; when there is none, begin it.
        init: A trained model to begin with in place of fresh weights, as `from_pretrained` takes it; it must have the
            rule that this training has. A run that is resumed has begun already.
        progress: Show progress bars on stderr.
        command: The command line, for the provenance.
        say: Takes the lines in which the system says how it completed its settings, and what the run will give.
        wait: Takes what is done in a block that may take long and shows no bar, and gives a context for it.

    Raises:
        ValueError: Bad sources, or settings that differ from those of the run to resume, or no such device.
        OSError: The folder is not writable, or holds a model and `resume` is False, or another process trains there; or
            the disk is full.
        FloatingPointError: The training diverged; the folder holds the state before the iteration that did it.
        KeyboardInterrupt: Ctrl-C. The iteration was finished and saved, the picture drawn (a second Ctrl-C leaves it
            out), and the run can be resumed.
    """
    out = Path(out)
    with contextlib.ExitStack() as stack:
        is_new = not out.is_dir()
        if not is_new:
            stack.enter_context(run_folder.held(out))
        return _run(stack, is_new, system, sources, out, config, resume, init, progress, command, say, wait)


def _run(stack, is_new, system, sources, out, config, resume, init, progress, command, say, wait):
    """Does what `run_training` says; what holds until its end goes onto the stack."""
    saved = run_folder.open_run(out, resume, system.files)
    config = run_folder.resolved_config(system, config, saved, out)
    processes.share(config.batch_size)  # raises where it cannot be shared
    if saved is None:
        check_given(sources, config, out)
    with wait(system.opens):
        work = system(config, sources, saved, out)
    config = work.config
    if saved is not None and "init" in saved.metadata:
        work.facts["init"] = saved.metadata["init"]
    check_writable(out)
    if is_new and processes.rank() == 0:
        stack.enter_context(run_folder.held(out))
        run_folder.open_run(out, False, system.files)  # another may have been there first
    _announce_missing_films(work)
    with run_folder.cpu_threads(config.threads):
        with run_folder.refused_by(saved):
            model = _first_model(work, init if saved is None else None)
        device = config.pick(model.rule)
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        run = _begin(work, model.to(device), saved, wait)
        if processes.rank() == 0:  # all is well, but for what only the work itself can tell
            for line in work.beginning():
                say(line)
        resumed_at = run.iteration
        seconds, cell_steps, endured = _train(work, run, saved, out, command, progress, say, wait)
        with wait("measuring and drawing what was learned"):
            figures = work.figures()
            if processes.rank() == 0:
                work.draw(out, progress, run.iteration)
    names = (*work.files, run_folder.PREVIEW_FILE, run_folder.MODEL_FILE, run_folder.LOG_FILE)
    names += (run_folder.TRAINING_FILE, run_folder.PICTURES_FILE)
    files = tuple(out / name for name in names if (out / name).exists())  # a short run may have no preview
    notes = (*([] if endured is None else [str(endured)]), *_films_left_out(work, out), *work.notes(figures))
    speed = cell_steps / seconds if seconds else 0.0
    return TrainingResult(
        run.model, files, run.iteration, resumed_at, seconds, speed, endured, figures, notes, tuple(work.then(out))
    )


def _announce_missing_films(work: System) -> None:
    """Warns, before all the work, of films that cannot be made at its end; it ends well without them."""
    for name in work.files:
        reason = missing_encoder(name) if Path(name).suffix in FILMS and work.config.video_steps != 0 else None
        if reason is not None and processes.rank() == 0:
            warnings.warn(f"{name} will not be made. {reason} (--no-video asks for none.)", stacklevel=3)


def _first_model(work: System, init: str | Path | None) -> nn.Module:
    """Makes the model that a run begins with: one with fresh weights, or those of a trained one.

    Raises:
        OSError, ValueError: There is no such trained model, or it has another rule.
    """
    with torch.random.fork_rng(devices=[]):  # initial weights come from torch's global generator
        torch.default_generator.manual_seed(derived_seed(work.config.seed, "weights"))
        model = work.model()
    if init is None:
        return model
    trained = type(model).from_pretrained(init)
    shapes = [{name: list(t.shape) for name, t in m.state_dict().items()} for m in (model, trained)]
    if trained.rule != model.rule or shapes[0] != shapes[1]:
        raise ValueError(
            f"init must have the rule of this training, {model.rule}, but {init} has {trained.rule}. Choose the preset "
            "that it was trained with."
        )
    model.load_state_dict(trained.state_dict())
    work.facts["init"] = str(init)
    return model


def _begin(
    work: System,
    model: nn.Module,
    saved: run_folder.SavedRun | None,
    wait: Callable[[str], AbstractContextManager[object]],
) -> TrainingRun:
    """Makes the run of a model, with the weights of the run to resume if there is one."""
    config = work.config
    with wait("loading PyTorch's optimizers"):  # with torch._dynamo, some 2 s
        optimizer = make_optimizer(config.optimizer, model, config.learning_rate)
    run = TrainingRun(model, optimizer)
    if saved is not None:
        saved.check_run(model, config.optimizer)
        run.load(saved.tensors, saved.iteration, saved.seconds)
        if config.minutes is None and run.iteration > max(config.iterations, saved.until):
            raise ValueError(
                f"iterations must be at least the {run.iteration} done, but got {config.iterations}, in "
                f"{saved.metadata.where}."
            )
    with wait(work.prepares()):
        work.begin(model, saved)
    return run


def _drawn_so_far(work: System, run: TrainingRun, out: Path, progress: bool) -> list[str]:
    """Draws the pictures of a run that was interrupted, which another Ctrl-C leaves out; says which one to look at."""
    if run.iteration == 0 or processes.rank() != 0:
        return []
    work.draw(out, progress, run.iteration, films=False)
    return [f"{out / work.files[0]} shows what it has learned so far"]


def _films_left_out(work: System, out: Path) -> list[str]:
    """Says which films were not made because nobody asked for them and they would have taken long."""
    names = [name for name in work.files if Path(name).suffix in FILMS and not (out / name).exists()]
    if work.config.video_steps is not None or any(missing_encoder(name) for name in names):
        return []
    return [
        f"{name} is left out, because it takes long beside such a training; nca-fast {work.name} --out "
        f"{shlex.quote(str(out))} --resume --video-steps 500 makes it"
        for name in names
    ]


def _rate_of_round(config: RunConfig, until: int, iteration: int) -> float:
    """The learning rate of an iteration in a round that ends at `until`; the same in a run that is resumed."""
    return config.rate_beyond((until - iteration) * (1 + ROUND) / (until * ROUND))


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
    wait: Callable[[str], AbstractContextManager[object]],
) -> tuple[float, int, Endured | None]:
    """Trains a run to its end and saves it on the way; returns seconds and cell-steps of its iterations, and what it
    endured."""
    config = work.config
    plan = Plan(config.iterations, config.rate_at, None if config.minutes is None else 60 * config.minutes)
    first_planned = plan.planned(run.iteration, run.seconds)
    over = run.iteration > config.iterations if plan.limit is None else first_planned >= config.iterations
    rounds, until = (saved.rounds, saved.until) if saved and over else (0, 0)
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
    first, cell_steps, seconds, readings = run.iteration, 0, 0.0, []

    def count(report: Report) -> None:
        nonlocal cell_steps
        cell_steps += report.cell_steps

    def forecast(report: Report) -> None:
        if first + 1 < report.iteration <= first + forecasts.FIRST:
            readings.append((report.steps, report.seconds))
        if report.iteration == first + forecasts.FIRST and report.planned < plan.iterations:
            said = forecasts.expected(readings, config.steps_at, plan.iterations, plan.limit, work.slower)
            length, time = f"some {said[0]} iterations" if plan.limit else f"{said[0]} iterations", said[1]
            say("; ".join([f"to expect: {length} in {forecasts.time_in_words(time)}", *work.forecast(said[0])]))

    with contextlib.ExitStack() as stack:
        listeners, moments = [count], []
        if first_process:
            listeners.append(stack.enter_context(JsonLog(out / run_folder.LOG_FILE, first)))
            listeners.append(forecast)
            if config.tensorboard:
                board = watching.TensorBoard(out / watching.BOARD_FOLDER, first)
                listeners.append(stack.enter_context(board))
            if config.watch:
                page = watching.write_page(out, run_folder.PREVIEW_FILE)
                opened = watching.open_page(page)
                say(f"watch: {page}" + ("" if opened else " (no browser was found: open it yourself)"))
            timed = plan.limit is not None
            bar = ProgressBar(config.iterations, first_planned, progress, run.model.device, timed, work.summed())
            listeners.append(stack.enter_context(bar))
            moments = [strip, Checkpoints(save, config.checkpoint_every, config.checkpoint_seconds)]
        while True:
            if rounds:
                plan = Plan(until, partial(_rate_of_round, config, until), beyond=config.iterations)
                if first_process:
                    bar.go_on(run.iteration, until)
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
                raise KeyboardInterrupt(*_drawn_so_far(work, run, out, progress))
            seconds += watch.lap()
            with wait("trying whether it lasts"):
                endured = work.endured(run.iteration)
            if endured is None or endured.runaway is None or rounds == ROUNDS:
                return seconds, cell_steps, endured
            rounds, until = rounds + 1, run.iteration + math.ceil(ROUND * run.iteration)
            if first_process:
                say(f"{endured}: on to iteration {until}, round {rounds} of at most {ROUNDS}")
