"""What every training task does around the loop: begin or restore a run, save it, watch it, and say how it went."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nca_fast import checkpoint, processes
from nca_fast.nca import NCA
from nca_fast.training import run_folder
from nca_fast.training.listeners import Checkpoints, JsonLog, PreviewStrip, ProgressBar
from nca_fast.training.loop import Report, Run, derived_seed, learning_rate_at, train
from nca_fast.training.pool import Pool
from nca_fast.training.settings import TrainingConfig

PREVIEWS = 11  # with the target they fill one row of the strip


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind.

    Args:
        nca: The trained automaton.
        files: What was written, in the order in which a user looks at it.
        iterations: Iterations of the whole run.
        seconds: Wall time of the iterations of this call.
        cell_steps_per_second: Speed of these iterations, losses and checkpoints included.
    """

    nca: NCA
    files: tuple[Path, ...]
    iterations: int
    seconds: float
    cell_steps_per_second: float


def begin_or_restore(
    config: TrainingConfig,
    saved: run_folder.SavedRun | None,
    new_nca: Callable[[], NCA],
    start: Callable[[NCA], Callable[[int, int], Tensor]],
) -> Run:
    """The run that a checkpoint holds, or a new one.

    Args:
        config: The settings.
        saved: The checkpoint, or None.
        new_nca: Makes an automaton with fresh weights.
        start: For an automaton, (count, seed) -> start states [count, C, H, W].

    Raises:
        ValueError: The run has done more iterations than the settings ask for.
    """
    if saved is None:
        with torch.random.fork_rng(devices=[]):  # initial weights come from torch's global generator
            torch.manual_seed(derived_seed(config.seed, "weights"))
            nca = new_nca()
    else:
        nca = NCA.from_config(saved.metadata["nca"])
    optimizer = torch.optim.Adam(nca.parameters(), lr=config.learning_rate)
    if saved is None:
        states = start(nca)(config.pool_size, derived_seed(config.seed, "pool"))
        return Run(nca, optimizer, Pool(states), config.seed)
    run = Run.restored(nca, optimizer, saved.tensors, config.seed, saved.metadata["iteration"])
    if run.iteration > config.iterations:
        raise ValueError(f"iterations must be at least the {run.iteration} done, but got {config.iterations}.")
    return run


def preview_every(config: TrainingConfig) -> int:
    """Iterations between two previews."""
    return config.preview_every or -(-config.iterations // PREVIEWS)


def conduct(
    config: TrainingConfig,
    run: Run,
    objective: Callable[[Tensor, torch.Generator], dict[str, Tensor]],
    out: Path,
    *,
    strip: PreviewStrip,
    kept: Mapping[str, Tensor],
    names: Mapping[str, Any],
    start: Callable[[int, int], Tensor] | None = None,
    alter: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    bptt_steps: int | None = None,
    command: str | None = None,
    progress: bool = True,
) -> tuple[float, float]:
    """Trains a run to its end, and writes model, training state, log and preview strip into its folder on the way.

    Args:
        config: The settings; `lr_milestones` are numbers by now.
        run: Changed in place.
        objective, start, alter, bptt_steps: As in `loop.train`.
        out: The folder.
        strip: Draws previews; its tensors go into the training state.
        kept: More tensors for the training state: what the run cannot be resumed without.
        names: JSON-able facts for both files: which pictures, which texts.
        command: The command line, for the provenance.
        progress: Show a progress bar on stderr.

    Returns:
        Wall time of the iterations in seconds, and their speed in cell-steps per second.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
        FloatingPointError: The training diverged; the folder holds its last saved state.
        KeyboardInterrupt: Ctrl-C. The iteration was finished and saved, and the run can be resumed.
    """

    def save() -> None:
        metadata = {"nca": run.nca.config(), "config": asdict(config), "iteration": run.iteration, **names}
        checkpoint.save(out / run_folder.TRAINING_FILE, run.tensors() | strip.tensors() | dict(kept), metadata)
        facts = {"command": command, "seed": config.seed, "iterations": run.iteration, **names}
        run.nca.save_pretrained(out, provenance=facts | {"config": asdict(config)})

    processes.share(config.batch_size)  # raises where it cannot be shared
    with torch.no_grad():  # the first rollout compiles the kernel, or says why the backend cannot serve
        run.nca(run.pool.states[:1], steps=1, backend=config.backend)
    processes.barrier()  # no process writes into the folder before all have seen what is in it
    first_process = processes.rank() == 0
    if run.iteration == 0 and first_process:
        save()  # a full disk shows now, and a run killed in its first minute can be resumed
    first, cell_steps, begin = run.iteration, 0, time.perf_counter()

    def count(report: Report) -> None:
        nonlocal cell_steps
        cell_steps += report.cell_steps

    def rate(iteration: int) -> float:
        return learning_rate_at(iteration, config.learning_rate, config.lr_milestones, config.lr_gamma)

    with contextlib.ExitStack() as stack:
        listeners = [count]
        if first_process:
            listeners.append(stack.enter_context(JsonLog(out / "log.jsonl", first)))
            listeners.append(stack.enter_context(ProgressBar(config.iterations, first, progress)))
            listeners += [strip, Checkpoints(save, config.checkpoint_every, config.checkpoint_seconds)]
        complete = train(
            run,
            objective,
            iterations=config.iterations,
            batch_size=config.batch_size,
            reseed_every=config.reseed_every,
            steps=config.steps_at,
            learning_rate=rate,
            normalize=config.normalize_gradients,
            state_limit=config.state_limit,
            start=start,
            alter=alter,
            bptt_steps=bptt_steps,
            backend=config.backend,
            listeners=listeners,
        )
    if run.iteration > first and first_process:
        save()
    if not complete:
        raise KeyboardInterrupt
    seconds = time.perf_counter() - begin
    return seconds, cell_steps / seconds
