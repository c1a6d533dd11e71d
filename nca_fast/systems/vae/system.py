"""Training of a VAE-NCA: pictures in, rules out, and the pictures that the rules grow.

    loss = mean error of a pixel + beta * divergence of the latent vector from the standard normal distribution

Every random choice of iteration i is a pure function of (seed, i), as in `loop`, so that a resumed run computes the
bits that the uninterrupted one would have.

Source: Chen and Wang, "Image Generation With Neural Cellular Automatas" (2020), and its published code.
"""

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nca_fast import processes
from nca_fast.devices import moved
from nca_fast.media.datasets import Pictures, load_pictures
from nca_fast.media.film import missing_encoder
from nca_fast.media.images import image_grid
from nca_fast.systems.vae import drawing, settings
from nca_fast.systems.vae.architecture import ARCHITECTURES
from nca_fast.systems.vae.model import VAENCA, divergence
from nca_fast.systems.vae.settings import VAEConfig, VAESources
from nca_fast.training.capture import Captured
from nca_fast.training.damage import circles
from nca_fast.training.descent import Descent
from nca_fast.training.loop import Work, derived_generator, derived_seed
from nca_fast.training.run_folder import SavedRun
from nca_fast.training.settings import FREE_ON_RESUME
from nca_fast.training.system import check_memory

PREVIEW_PICTURES = 4
TEST_BATCH = 64
ENCODED = 1024  # pictures by which a new encoder is scaled, and random vectors are spread


class VAE:
    """Training of a VAE-NCA; see `settings.VAE` for what its command says."""

    name, Sources, Config = settings.VAE.name, VAESources, VAEConfig
    free_on_resume = (*FREE_ON_RESUME, "video_steps")
    files = ("reconstructions.png", "samples.png", "interpolation.png", "growth.png", "growth.mp4")
    remedy = "a lower learning rate"
    slower = 1.0
    opens = "reading the data set"

    def __init__(self, config: VAEConfig, sources: VAESources, saved: SavedRun | None, out: Path):
        dataset = sources.dataset or (saved and saved.metadata["dataset"])
        architecture = ARCHITECTURES[config.preset]
        self.config, self.pictures = config, load_pictures(dataset, architecture.size, architecture.grey)
        fingerprint = hashlib.sha256(self.pictures.train.numpy().tobytes()).hexdigest()
        if saved is not None and saved.metadata["fingerprint"] != fingerprint:
            raise ValueError(
                f"the data set must be that of the run in {out}, but the pictures in {dataset} are others."
            )
        self.facts = {"dataset": dataset, "fingerprint": fingerprint}

    def beginning(self) -> list[str]:
        """As `System.beginning`: nothing."""
        return []

    def forecast(self, iterations: int) -> list[str]:
        """As `System.forecast`: nothing."""
        return []

    def summed(self) -> int:
        """As `System.summed`: the loss is a mean."""
        return 1

    @classmethod
    def opening(cls, sources: VAESources) -> list[str]:
        """Nothing."""
        return []

    def model(self) -> VAENCA:
        """Makes the model with fresh weights."""
        return VAENCA(ARCHITECTURES[self.config.preset], deterministic=self.config.deterministic)

    def prepares(self) -> str:
        """As `System.prepares`."""
        return "finding how the pictures differ"

    def begin(self, model: VAENCA, saved: SavedRun | None) -> None:
        """Moves the pictures to the device, and lets a new model tell them apart."""
        self.vae, self.pictures, self.rules = model, self.pictures.to(model.device), captured_rules(model)
        if saved is None:
            model.standardize(self.pictures.train[:ENCODED])
        a = model.architecture
        states = (a.steps + 2) * -(-self.config.batch_size // processes.count())
        needed = 4 * a.rule.channels * a.size**2 * states
        what = f"{a.steps} steps of {self.config.batch_size} pictures of {a.size} x {a.size} cells"
        check_memory(needed, what, model.device, self.config.memory)
        # The first rollout and its gradient compile the kernels, or say why the backend cannot serve.
        latent = torch.zeros(1, model.architecture.latent, device=model.device)
        model.grow(model.weights(latent), steps=1, seed=0, **self.config.how).sum().backward()
        model.zero_grad(set_to_none=True)

    def constants(self) -> dict[str, Tensor]:
        """Nothing: data sets are large, and where they are is known."""
        return {}

    def adjust_gradients(self, parameters: list[Tensor]) -> None:
        """Scales long gradients down to the limit."""
        torch.nn.utils.clip_grad_norm_(parameters, self.config.gradient_limit)

    def step(self, iteration: int, planned: int, descend: Descent) -> Work:
        """Does an iteration on pictures that are drawn anew."""
        config, a = self.config, self.vae.architecture
        draw = derived_generator(config.seed, "batch", iteration)
        drawn = torch.randint(len(self.pictures.train), (config.batch_size,), generator=draw)
        batch = self.pictures.train[moved(drawn, self.pictures.train.device)]
        risen = min(1.0, (iteration + 1) / (config.warm_up + 1))  # iterations done, not a share of a plan of minutes
        descend.begin(iteration, descend.learning_rate * risen)
        descend(losses(config, self.vae, batch, draw, derived_seed(config.seed, "fire", iteration), self.rules))
        return Work(a.steps, config.batch_size * a.size**2 * a.steps)

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: a run is its weights, its optimizer and a counter."""
        return {}

    def references(self) -> list[Tensor]:
        """Some test pictures, one below the other."""
        some = self.pictures.test[:PREVIEW_PICTURES]
        return [image_grid(list(some.expand(-1, 3, -1, -1)), columns=1)]

    def preview(self) -> Tensor:
        """How they are reconstructed."""
        some = self.pictures.test[:PREVIEW_PICTURES]
        made = drawing.reconstructed(self.vae, some, seed=self.config.seed, **self.config.how)
        return image_grid(list(made), columns=1)

    def draw(self, out: Path, progress: bool, iterations: int, films: bool = True) -> None:
        """Writes reconstructions, samples, interpolations, and how pictures grow."""
        vae, pictures, same = self.vae, self.pictures, {"seed": self.config.seed} | self.config.how
        several = torch.cat([pictures.test, pictures.train])[:8]  # a small folder has a single picture for testing
        drawing.reconstructions(vae, pictures.test[:24], out / "reconstructions.png", **same)
        drawing.samples(vae, pictures.train[:ENCODED], 48, out / "samples.png", **same)
        drawing.interpolation(vae, several, out / "interpolation.png", **same)
        drawing.growth_strip(vae, pictures.test[:6], out / "growth.png", **same)
        steps = 2 * vae.architecture.steps if self.config.video_steps is None else self.config.video_steps
        if steps and films and not missing_encoder(out / "growth.mp4"):
            drawing.growth_film(vae, pictures.test[:12], steps, out / "growth.mp4", **same)

    def endured(self, iterations: int) -> None:
        """As `System.endured`: nothing; a picture is read after the steps that it was trained for."""

    def figures(self) -> dict[str, float]:
        """Measures the error of test pictures; see `errors`."""
        test_error, mean_error = errors(self.config, self.vae, self.pictures)
        return {"test_error": test_error, "mean_error": mean_error}

    def notes(self, figures: Mapping[str, float]) -> list[str]:
        """What the errors mean."""
        test, mean = figures["test_error"], figures["mean_error"]
        error = f"mean squared error of test pictures {test:.4f}"
        if mean > 0:  # it is 0 where all pictures are the same
            error += f", {test / mean:.2f} of that of the mean picture"
        if 2 * test >= mean > 0:
            how = "not" if test >= mean else "hardly"
            error += f": pictures are {how} told apart yet; train longer, such as {self.config.longer(4)}"
        return [error]

    def then(self, out: Path) -> list[str]:
        """What can be done with two test pictures, and with one."""
        dataset, last = self.facts["dataset"], min(1, len(self.pictures.test) - 1)
        first, other = shlex.quote(f"{dataset}:0"), shlex.quote(f"{dataset}:{last}")
        model = f"--model {shlex.quote(str(out))}"
        return [
            f"nca-fast vae fuse {first} {other} {model} --out fused.png",
            f"nca-fast vae repair {first} --damage 3 {model} --out repaired.png",
        ]


def captured_rules(vae: VAENCA) -> Captured:
    """The part of an iteration before the rollout: (pictures [b, 1 or 3, size, size], drawn=[noise [b, latent]]) ->
    their divergence, a mean, and the weights of their rules."""

    def rules(pictures: Tensor, noise: Tensor) -> tuple[Tensor, list[Tensor]]:
        mean, log_variance = vae.encode(pictures)
        (w1, b1), (w2, _) = vae.weights(vae.latent(mean, log_variance, noise))
        return divergence(mean, log_variance).mean(), [w1, b1, w2]

    return Captured(rules, list(vae.parameters()))


def losses(
    config: VAEConfig, vae: VAENCA, batch: Tensor, draw: torch.Generator, seed: int, rules: Captured | None = None
) -> dict[str, Tensor]:
    """Computes the two terms of the loss of a batch of pictures [B, 1 or 3, size, size].

    Of several processes each takes its share of the batch, and their terms sum to those of the whole. `rules` are those
    of `captured_rules`, which a training makes once.
    """
    rules = captured_rules(vae) if rules is None else rules
    share = processes.share(len(batch))
    seen = batch  # what is drawn for it is drawn for all of it, the same in every process
    if config.damage:
        seen = torch.stack([damaged(picture, config.damage, config.damage_radius, draw) for picture in batch])
    noise = torch.randn(len(batch), vae.architecture.latent, generator=draw)
    distance, (w1, b1, w2) = rules(seen[share], drawn=[noise[share]])
    grown = vae.shown(vae.grow([(w1, b1), (w2, None)], seed=seed, first_sample=share.start, **config.how))
    target = vae.target(batch[share])
    if config.loss == "bce":
        # The published code clamps and so stops the gradient of a pixel that is too dark or too bright for good.
        probability = grown + (grown.clamp(1e-3, 1 - 1e-3) - grown).detach()
        error = F.binary_cross_entropy(probability, target)
    else:
        error = F.mse_loss(grown, target)
    terms = {config.loss: error, "divergence": config.beta * distance}
    return {name: term / processes.count() for name, term in terms.items()}


def damaged(picture: Tensor, count: int, radius: float, generator: torch.Generator) -> Tensor:
    """Erases circles from a picture [C, H, W], of radii from a third of `radius` to it."""
    return picture * moved(circles(*picture.shape[1:], count, radius / 3, radius, generator), picture.device)


@torch.no_grad()
def errors(config: VAEConfig, vae: VAENCA, pictures: Pictures) -> tuple[float, float]:
    """Measures the mean squared error of the reconstructions of all test pictures, from the means of their latent
    vectors, and the same when every test picture is taken for the mean of the training pictures."""
    total = 0.0
    for begin in range(0, len(pictures.test), TEST_BATCH):
        batch = pictures.test[begin : begin + TEST_BATCH]
        seed = derived_seed(config.seed, "test", begin)
        grown = vae.shown(vae.grow(vae.weights(vae.encode(batch)[0]), seed=seed, **config.how))
        total += float((grown - vae.target(batch)).square().sum(dtype=torch.float64))
    per_picture = vae.target(pictures.test[:1]).numel()
    mean = vae.target(pictures.train.mean(0, keepdim=True))
    return total / (len(pictures.test) * per_picture), float((vae.target(pictures.test) - mean).square().mean())
