"""Training of a VAE-NCA: pictures in, rules out, and the pictures that the rules grow.

    loss = mean error of a pixel + beta * divergence of the latent vector from the standard normal distribution

Every random choice of iteration i is a pure function of (seed, i), as in `loop`, so that a resumed run computes the
bits that the uninterrupted one would have.

Source: Chen and Wang, "Image Generation With Neural Cellular Automatas" (2020), and its published code.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nca_fast import checkpoint, processes
from nca_fast.files import check_writable
from nca_fast.media.datasets import Pictures, load_pictures
from nca_fast.media.images import image_grid
from nca_fast.systems.vae import drawing as vae_drawing
from nca_fast.systems.vae.architecture import ARCHITECTURES
from nca_fast.systems.vae.model import VAENCA, divergence
from nca_fast.systems.vae.settings import FREE_ON_RESUME, VAEConfig
from nca_fast.training import run_folder
from nca_fast.training.damage import circles
from nca_fast.training.listeners import Checkpoints, JsonLog, PreviewStrip, ProgressBar
from nca_fast.training.loop import (
    Report,
    deferred_interrupt,
    derived_generator,
    derived_seed,
    descend,
    learning_rate_at,
)

PREVIEWS = 11  # with the target they fill one row of the strip
PREVIEW_PICTURES = 4
TEST_BATCH = 64


@dataclass(frozen=True)
class VAEResult:
    """What a training left behind.

    Args:
        vae: The trained model.
        files: What was written, in the order in which a user looks at it.
        iterations: Iterations of the whole run.
        seconds: Wall time of the iterations of this call.
        cell_steps_per_second: Speed of these iterations.
        test_error: Mean squared error of the reconstructions of all test pictures, from the mean latent vector.
        mean_error: The same when every test picture is taken for the mean of the training pictures.
    """

    vae: VAENCA
    files: tuple[Path, ...]
    iterations: int
    seconds: float
    cell_steps_per_second: float
    test_error: float
    mean_error: float


@dataclass
class Run:
    """What a training run changes as it goes."""

    vae: VAENCA
    optimizer: torch.optim.Optimizer
    iteration: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer state under flat names; the tensors themselves, not copies."""
        tensors = {f"vae.{name}": value for name, value in self.vae.state_dict().items()}
        for name, parameter in self.vae.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        return tensors

    def restore(self, saved: run_folder.SavedRun) -> None:
        """Takes over the run whose `tensors()` were saved."""
        self.vae.load_state_dict({k.removeprefix("vae."): v for k, v in saved.tensors.items() if k.startswith("vae.")})
        for name, parameter in self.vae.named_parameters():
            prefix = f"optimizer.{name}."
            state = {k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)}
            if state:
                self.optimizer.state[parameter] = state
        self.iteration = saved.metadata["iteration"]


def train_vae(
    config: VAEConfig,
    dataset: str | None,
    out: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    command: str | None = None,
) -> VAEResult:
    """Learns a set of pictures, and writes the model and what it draws into a folder.

    A run that was interrupted, or killed at any moment, and is resumed with the same number of threads ends with the
    same weights and pictures, to the bit, as one that was left alone.

    Args:
        config: The settings. On resuming they must equal those of the run, but for `FREE_ON_RESUME`.
        dataset: See `datasets.load_pictures`. None on resuming: the run knows it.
        out: The folder; made when missing. It must not hold a model yet.
        resume: Go on with the run in the folder; when there is none, begin it.
        progress: Show a progress bar on stderr.
        command: The command line, for the provenance.

    Returns:
        A VAEResult.

    Raises:
        ValueError: a bad data set, or settings that differ from those of the run to resume.
        OSError: the folder is not writable, or holds a model and `resume` is False; or the disk is full.
        FloatingPointError: the training diverged; the folder holds its last saved state.
        KeyboardInterrupt: Ctrl-C. The iteration was finished and saved, and the run can be resumed.
    """
    out = Path(out)
    saved = run_folder.open_run(out, resume)
    config = run_folder.settled_config(config, saved, FREE_ON_RESUME, out)
    if saved is None:
        if dataset is None:
            raise ValueError(f"a data set must be given to begin a run, and folder {out} holds none to resume.")
    else:
        dataset = dataset or saved.metadata["dataset"]
    architecture = ARCHITECTURES[config.preset]
    pictures = load_pictures(dataset, architecture.size, architecture.grey)
    fingerprint = hashlib.sha256(pictures.train.numpy().tobytes()).hexdigest()
    if saved is not None and saved.metadata["fingerprint"] != fingerprint:
        raise ValueError(f"the data set must be that of the run in {out}, but the pictures in {dataset} are others.")
    processes.share(config.batch_size)  # raises where it cannot be shared
    check_writable(out)

    with run_folder.cpu_threads(config.threads):
        run = _begin(config)
        if saved is not None:
            run.restore(saved)
        if run.iteration > config.iterations:
            raise ValueError(f"iterations must be at least the {run.iteration} done, but got {config.iterations}.")
        strip = _preview(config, run.vae, pictures, out, saved)

        def save() -> None:
            facts = {"dataset": dataset, "fingerprint": fingerprint, "config": asdict(config)}
            metadata = facts | {"vae": run.vae.config(), "iteration": run.iteration}
            checkpoint.save(out / run_folder.TRAINING_FILE, run.tensors() | strip.tensors(), metadata)
            run.vae.save_pretrained(out, provenance=facts | {"command": command, "iterations": run.iteration})

        processes.barrier()  # no process writes into the folder before all have seen what is in it
        first_process = processes.rank() == 0
        if saved is None and first_process:
            save()  # a full disk shows now, and a run killed in its first minute can be resumed
        first, begin = run.iteration, time.perf_counter()
        with contextlib.ExitStack() as stack:
            listeners = []
            if first_process:
                listeners.append(stack.enter_context(JsonLog(out / "log.jsonl", first)))
                listeners.append(stack.enter_context(ProgressBar(config.iterations, first, progress)))
                listeners += [strip, Checkpoints(save, config.checkpoint_every, config.checkpoint_seconds)]
            complete = optimize(config, run, pictures.train, listeners)
        seconds = time.perf_counter() - begin
        if run.iteration > first and first_process:
            save()
        if not complete:
            raise KeyboardInterrupt
        test_error, mean_error = errors(config, run.vae, pictures)
        files = _show(config, run.vae, pictures, out) if first_process else ()
    cells = config.batch_size * architecture.size**2 * architecture.steps * (run.iteration - first)
    return VAEResult(run.vae, files, run.iteration, seconds, cells / seconds, test_error, mean_error)


def _begin(config: VAEConfig) -> Run:
    with torch.random.fork_rng(devices=[]):  # initial weights come from torch's global generator
        torch.manual_seed(derived_seed(config.seed, "weights"))
        vae = VAENCA(ARCHITECTURES[config.preset], deterministic=config.deterministic)
    return Run(vae, torch.optim.Adam(vae.parameters(), lr=config.learning_rate))


def optimize(config: VAEConfig, run: Run, pictures: Tensor, listeners: Sequence[Callable[[Report], None]] = ()) -> bool:
    """Trains until `run.iteration` reaches the settings' number, or the user presses Ctrl-C.

    Args:
        config: The settings; `lr_milestones` are numbers by now.
        run: Changed in place.
        pictures: Of the training set. [N, 1 or 3, size, size] in [0, 1]
        listeners: Called in turn with the Report of each iteration.

    Returns:
        False after Ctrl-C: the iteration was finished, and the run can be saved.

    Raises:
        FloatingPointError: the loss became NaN or infinite; the run is as it was before that iteration.
    """
    architecture = run.vae.architecture
    clip = partial(torch.nn.utils.clip_grad_norm_, max_norm=config.gradient_limit)
    with deferred_interrupt() as interrupted:
        while run.iteration < config.iterations and not processes.any_true(interrupted.is_set()):
            begin, i = time.perf_counter(), run.iteration
            draw = derived_generator(config.seed, "batch", i)
            batch = pictures[torch.randint(len(pictures), (config.batch_size,), generator=draw)]
            terms = losses(config, run.vae, batch, draw, derived_seed(config.seed, "fire", i))
            rate = learning_rate_at(i, config.learning_rate, config.lr_milestones, config.lr_gamma)
            value, values = descend(terms, run.optimizer, rate, clip, i, "a lower learning rate")
            run.iteration = i + 1
            report = Report(
                iteration=run.iteration,
                loss=value,
                terms=values,
                learning_rate=rate,
                steps=architecture.steps,
                cell_steps=config.batch_size * architecture.size**2 * architecture.steps,
                seconds=time.perf_counter() - begin,
            )
            for listener in listeners:
                listener(report)
    return run.iteration >= config.iterations


def losses(config: VAEConfig, vae: VAENCA, batch: Tensor, draw: torch.Generator, seed: int) -> dict[str, Tensor]:
    """The two terms of the loss of a batch of pictures [B, 1 or 3, size, size].

    Of several processes each takes its share of the batch, and their terms sum to those of the whole.
    """
    share = processes.share(len(batch))
    seen = batch  # what is drawn for it is drawn for all of it, the same in every process
    if config.damage:
        seen = torch.stack([damaged(picture, config.damage, config.damage_radius, draw) for picture in batch])
    noise = torch.randn(len(batch), vae.architecture.latent, generator=draw)
    mean, log_variance = vae.encode(seen[share])
    weights = vae.weights(vae.latent(mean, log_variance, noise[share]))
    grown = vae.shown(vae.grow(weights, seed=seed, first_sample=share.start, backend=config.backend))
    target = vae.target(batch[share])
    if config.loss == "bce":
        # The published code clamps and so stops the gradient of a pixel that is too dark or too bright for good.
        probability = grown + (grown.clamp(1e-3, 1 - 1e-3) - grown).detach()
        error = F.binary_cross_entropy(probability, target)
    else:
        error = F.mse_loss(grown, target)
    terms = {config.loss: error, "divergence": config.beta * divergence(mean, log_variance).mean()}
    return {name: term / processes.count() for name, term in terms.items()}


def damaged(picture: Tensor, count: int, radius: float, generator: torch.Generator) -> Tensor:
    """A picture [C, H, W] with circles erased, of radii from a third of `radius` to it."""
    return picture * circles(*picture.shape[1:], count, radius / 3, radius, generator)


@torch.no_grad()
def errors(config: VAEConfig, vae: VAENCA, pictures: Pictures) -> tuple[float, float]:
    """Mean squared error of the reconstructions of the test pictures, and that of the mean training picture."""
    total = 0.0
    for begin in range(0, len(pictures.test), TEST_BATCH):
        batch = pictures.test[begin : begin + TEST_BATCH]
        seed = derived_seed(config.seed, "test", begin)
        grown = vae.shown(vae.grow(vae.weights(vae.encode(batch)[0]), seed=seed, backend=config.backend))
        total += float((grown - vae.target(batch)).square().sum(dtype=torch.float64))
    per_picture = vae.target(pictures.test[:1]).numel()
    mean = vae.target(pictures.train.mean(0, keepdim=True))
    return total / (len(pictures.test) * per_picture), float((vae.target(pictures.test) - mean).square().mean())


def _preview(
    config: VAEConfig, vae: VAENCA, pictures: Pictures, out: Path, saved: run_folder.SavedRun | None
) -> PreviewStrip:
    """Some test pictures, one below the other, and how they are reconstructed on the way."""
    some = pictures.test[:PREVIEW_PICTURES]

    def column(images: Tensor) -> Tensor:
        return image_grid(list(images), columns=1)

    def draw() -> Tensor:
        with torch.no_grad():
            states = vae.grow(vae.weights(vae.encode(some)[0]), seed=config.seed, backend=config.backend)
            return column(vae.to_rgb(states))

    return PreviewStrip(
        out / "preview.png",
        column(some.expand(-1, 3, -1, -1)),
        draw,
        every=config.preview_every or -(-config.iterations // PREVIEWS),
        pictures=saved and saved.tensors.get("previews"),
    )


def _show(config: VAEConfig, vae: VAENCA, pictures: Pictures, out: Path) -> tuple[Path, ...]:
    """Draws what was learned; returns all files of the run."""
    options = {"seed": config.seed, "backend": config.backend}
    several = torch.cat([pictures.test, pictures.train])[:8]  # a small folder has a single picture for testing
    names = ["reconstructions.png", "samples.png", "interpolation.png", "growth.png", "growth.mp4"]
    draws = (
        lambda path: vae_drawing.reconstructions(vae, pictures.test[:24], path, **options),
        lambda path: vae_drawing.samples(vae, 48, path, **options),
        lambda path: vae_drawing.interpolation(vae, several, path, **options),
        lambda path: vae_drawing.growth_strip(vae, pictures.test[:6], path, **options),
        lambda path: vae_drawing.growth_film(vae, pictures.test[:12], path, **options),
    )
    for name, draw in zip(names, draws, strict=True):
        draw(out / name)
    names += ["preview.png", run_folder.MODEL_FILE, "log.jsonl", run_folder.TRAINING_FILE]
    return tuple(out / name for name in names if (out / name).exists())  # a short run may have no preview
