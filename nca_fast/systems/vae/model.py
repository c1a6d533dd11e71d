"""VAE-NCA: an autoencoder whose decoder writes the rule of an automaton, which then grows the picture from one cell.

    mean, log_variance = encoder(picture)        z = mean + exp(log_variance / 2) noise
    W1, b1, W2 = one rule for all pictures + GAIN (three multilayer perceptrons of z)
    x' = (x + m W2 relu(W1 perceive(x) + b1)) alive(x, x')        T steps from one living cell in the middle

Every picture has its own rule, so a batch is a rollout whose weights carry the batch dimension.

Source: Chen and Wang, "Image Generation With Neural Cellular Automatas" (2020).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nca_fast import ops, processes
from nca_fast.devices import moved
from nca_fast.files import MODEL_FILE
from nca_fast.rule import Rule
from nca_fast.states import put_cell, read_living
from nca_fast.systems.vae.architecture import Architecture

# With 1 a step of Adam moves a rule too far. The published code has 1, no common rule and a rate of 1e-4.
GAIN = 0.1
FIRST_LOG_VARIANCE = -4.0
AT_ONCE = 64  # pictures at a time


class VAENCA(nn.Module):
    """Pictures to latent vectors to rules of automata to pictures.

    Args:
        architecture: See `architecture.ARCHITECTURES` for the paper's.
        deterministic: The encoder gives z itself, without a variance: what the published code does.

    Example:
        >>> vae = VAENCA(ARCHITECTURES["vae-mnist"])    # of systems.vae.architecture
        >>> mean, log_variance = vae.encode(torch.rand(2, 1, 28, 28))
        >>> pictures = vae.to_rgb(vae.grow(vae.weights(mean)))      # [2, 3, 28, 28]
    """

    def __init__(self, architecture: Architecture, *, deterministic: bool = False):
        super().__init__()
        self.architecture, self.deterministic = architecture, deterministic
        rule = architecture.rule
        if len(rule.hidden) != 1 or not rule.hidden_bias or rule.output_bias or rule.frozen:
            raise ValueError(
                "the rule of a VAE-NCA must have one hidden layer with a bias, no output bias and no frozen channels, "
                f"but got {rule}."
            )
        if rule.alive_channel != (0 if architecture.grey else 3):
            raise ValueError(
                f"alive_channel must be {0 if architecture.grey else 3}, after the channels of colour, "
                f"but got {rule.alive_channel}."
            )
        convolutions, channels = [], architecture.picture_channels
        for out, kernel, stride, padding, halved in architecture.encoder:
            convolutions += [nn.Conv2d(channels, out, kernel, stride, padding), nn.ReLU()]
            convolutions += [nn.MaxPool2d(2)] if halved else []
            channels = out
        outputs = architecture.latent * (1 if deterministic else 2)
        self.encoder = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(channels, outputs))
        _keep_variance(self.encoder)
        (hidden, inputs, _), (written, _, _) = rule.layers
        self.w1 = _perceptron(architecture, hidden * inputs)
        self.b1 = _perceptron(architecture, hidden)
        self.w2 = _perceptron(architecture, written * hidden)
        # Every rule is this one, which starts as an automaton does, plus what the latent vector adds to it.
        self.common_w1 = nn.Parameter(torch.empty(hidden, inputs).uniform_(-1, 1) * inputs**-0.5)
        self.common_w2 = nn.Parameter(torch.zeros(written, hidden))
        for parameter in self.w2[-1].parameters():
            nn.init.zeros_(parameter)
        if not deterministic:  # little noise at first, or the decoder learns to do without the latent vector
            nn.init.zeros_(self.encoder[-1].weight[architecture.latent :])
            nn.init.constant_(self.encoder[-1].bias[architecture.latent :], FIRST_LOG_VARIANCE)

    @property
    def rule(self) -> Rule:
        """One step of its automata."""
        return self.architecture.rule

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.common_w1.device

    @torch.no_grad()
    def standardize(self, pictures: Tensor) -> None:
        """Turns and scales what the last layer of the encoder gives.

        Afterwards the latent means of some pictures have mean 0 and standard deviation 1, and their numbers tell
        different things. A ReLU is never negative, so that what pictures have in common grows from layer to layer and
        what tells them apart is some hundredths of it; below the noise of the latent vector the decoder would not see
        it. And most numbers of a random encoder tell the same: of 32 directions eight hold 78 % (digits) to 93 %
        (faces) of the variance, and a vector drawn from the prior is far from all that the decoder has seen.

        Args:
            pictures: [N, 1 or 3, size, size]. Of fewer pictures than numbers a covariance is little more than a guess:
                directions that vary by less than latent / N times the mean are hardly enlarged. Numbers that are alike
                for all pictures are left as they are.

        Source: data-dependent initialisation, Krähenbühl et al. (2016); whitening, Kessy et al. (2018).
        """
        last, latent = self.encoder[-1], self.architecture.latent
        mean = self.means(pictures).double()
        middle = mean.mean(0)
        covariance = (mean - middle).T @ (mean - middle) / len(mean)
        variance, least = covariance.diagonal().mean(), 1e-10 * mean.square().mean()
        values, vectors = torch.linalg.eigh(covariance)
        turn = (vectors * (values.clamp(min=0) + variance * latent / len(mean)).rsqrt()) @ vectors.T
        spread = (turn @ covariance @ turn).diagonal().sqrt()
        turn /= torch.where(covariance.diagonal() > least, spread, 1.0)[:, None]
        turn = torch.where(variance > least, turn, torch.eye(latent).to(turn))
        if processes.count() > 1:  # they must begin with the same bits
            middle, turn = map(middle.new_tensor, processes.broadcast([middle.tolist(), turn.tolist()]))
        last.weight[:latent] = turn.to(last.weight) @ last.weight[:latent]
        last.bias[:latent] = (turn @ (last.bias[:latent] - middle)).to(last.bias)

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and logarithm of the variance of the latent vectors of pictures.

        Args:
            pictures: [B, 1 or 3, size, size] in [0, 1].

        Returns:
            Both [B, latent]; the second is None for the deterministic variant.

        Raises:
            ValueError: pictures of another shape.
        """
        a = self.architecture
        if pictures.shape[1:] != (a.picture_channels, a.size, a.size):
            want = f"[B, {a.picture_channels}, {a.size}, {a.size}]"
            raise ValueError(f"pictures must have shape {want}, but got {list(pictures.shape)}.")
        code = self.encoder(pictures)
        return (code, None) if self.deterministic else tuple(code.chunk(2, dim=1))

    def means(self, pictures: Tensor) -> Tensor:
        """Means of the latent vectors of many pictures [N, 1 or 3, size, size], some at a time. [N, latent]"""
        return torch.cat([self.encode(some)[0] for some in pictures.split(AT_ONCE)])

    def latent(self, mean: Tensor, log_variance: Tensor | None, noise: Tensor) -> Tensor:
        """A latent vector drawn from what `encode` gave, by standard normal noise. All [B, latent].

        mean + exp(log_variance / 2) noise
        """
        return mean if log_variance is None else mean + (log_variance / 2).exp() * moved(noise, mean.device)

    def weights(self, z: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """The rules that latent vectors [B, latent] stand for, as `nca_fast.rollout` takes them."""
        (hidden, inputs, _), (written, _, _) = self.architecture.rule.layers
        w1 = self.common_w1 + GAIN * self.w1(z).reshape(-1, hidden, inputs)
        w2 = self.common_w2 + GAIN * self.w2(z).reshape(-1, written, hidden)
        return [(w1, GAIN * self.b1(z)), (w2, None)]

    def initial_state(self, batch: int, height: int | None = None, width: int | None = None) -> Tensor:
        """One living cell in the middle: its channels from alpha on are 1, all else is 0. [batch, C, height, width]

        As the published code has it; the paper sets the first four channels.
        """
        a = self.architecture
        height, width = height or a.size, width or a.size
        x = self.common_w1.new_zeros(batch, a.rule.channels, height, width)
        return put_cell(x, a.rule.alive_channel, height // 2, width // 2)

    def grow(
        self,
        weights: list[tuple[Tensor, Tensor | None]],
        *,
        state: Tensor | None = None,
        steps: int | None = None,
        seed: int | None = None,
        first_step: int = 0,
        first_sample: int = 0,
        backend: str | None = None,
        precision: str | None = None,
    ) -> Tensor:
        """Runs the rules that `weights` gave, one for each sample.

        Args:
            weights: Of B rules.
            state: [B, C, H, W]; None for one living cell on a canvas of the pictures' size.
            steps: Updates; None for the architecture's.
            seed, first_step, first_sample, backend, precision: As in `nca_fast.rollout`.

        Returns:
            The states after them. [B, C, H, W]
        """
        state = self.initial_state(len(weights[0][0])) if state is None else state
        steps = self.architecture.steps if steps is None else steps
        options = {"seed": seed, "first_step": first_step, "first_sample": first_sample}
        return ops.rollout(state, weights, self.rule, steps, backend=backend, precision=precision, **options)

    def target(self, pictures: Tensor) -> Tensor:
        """What the first channels of a state should be: alpha, or RGBA with alpha 1. [B, 1 or 4, H, W]"""
        if self.architecture.grey:
            return pictures
        return torch.cat([pictures, torch.ones_like(pictures[:, :1])], dim=1)

    def shown(self, states: Tensor) -> Tensor:
        """The channels of states that `target` is about."""
        return states[:, : 1 if self.architecture.grey else 4]

    def to_rgb(self, states: Tensor) -> Tensor:
        """What states look like: grey alpha, or colour over white. [B, 3, H, W] in [0, 1]"""
        return read_living(states, self.rule).clamp(0, 1)

    def config(self) -> dict:
        """What `from_config` needs to make a model of the same kind. JSON-able."""
        return {"architecture": self.architecture.config(), "deterministic": self.deterministic}

    @classmethod
    def from_config(cls, config: dict) -> "VAENCA":
        """A model with fresh weights from `config()`. Raises ValueError for missing or unknown keys."""
        if set(config) != {"architecture", "deterministic"}:
            raise ValueError(f"config must have the keys architecture and deterministic, but got {sorted(config)}.")
        return cls(Architecture.from_config(config["architecture"]), deterministic=config["deterministic"])

    def save_pretrained(self, folder: str | Path, provenance: dict | None = None) -> Path:
        """Writes `model.safetensors` into a folder, atomically; the arguments and errors are those of `NCA`."""
        from nca_fast import checkpoint

        path = Path(folder) / MODEL_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(path, self.state_dict(), {"vae": self.config(), "provenance": provenance or {}})
        return path

    @classmethod
    def from_pretrained(cls, model: str | Path) -> "VAENCA":
        """The model that `save_pretrained` wrote; `model` as in `NCA.from_pretrained`.

        Raises:
            OSError, ValueError: there is no such file, or it does not hold a VAE-NCA.
        """
        from nca_fast import checkpoint
        from nca_fast.pretrained import model_file

        return checkpoint.load_module(model_file(model), "vae", cls.from_config)


def _keep_variance(network):
    """Starts a network so that neither signals nor gradients shrink from layer to layer, as they do by PyTorch's
    default: to a sixth of their square. Source: He et al., "Delving Deep into Rectifiers" (2015)."""
    layers = [layer for layer in network if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if layer is layers[-1] else "relu")
        nn.init.zeros_(layer.bias)


def _perceptron(architecture, outputs):
    widths: Sequence[int] = (architecture.latent, *architecture.decoder)
    layers = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def divergence(mean: Tensor, log_variance: Tensor | None) -> Tensor:
    """How far latent vectors are from the standard normal distribution, per sample. [B]

    The Kullback-Leibler divergence, 1/2 sum (mean^2 + variance - 1 - log variance); without a variance the sum of the
    squares of the latent vector, as in the published code.
    """
    if log_variance is None:
        return mean.square().sum(1)
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
