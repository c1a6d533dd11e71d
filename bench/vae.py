"""VAE-NCA: what it learns of digits in minutes, and how fast its training is beside stock PyTorch operations.

    python -m bench.vae --speed     iterations per second at the MNIST setting; bench/results/vae_speed.json
    python -m bench.vae --learn     trains on scikit-learn's digits; bench/results/vae_digits.json, .png and pictures

Parity of the fused rollout, and of the stock one, with the float64 reference is checked before a speed is printed.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from bench.harness import RESULTS, header, write_result
from nca_fast import fire_mask, rollout
from nca_fast.files import atomic_path
from nca_fast.media.datasets import load_pictures
from nca_fast.profiling.timing import interleaved
from nca_fast.rule import Rule
from nca_fast.systems.vae.architecture import ARCHITECTURES
from nca_fast.systems.vae.model import divergence
from nca_fast.systems.vae.settings import VAEConfig
from nca_fast.systems.vae.system import VAE, VAESources
from nca_fast.training.session import run_training

BATCH = 64  # as the published code trains MNIST
TRAINED = 300  # iterations before the speed is measured: digits are there, if blurred
PICTURES = ("reconstructions.png", "samples.png", "interpolation.png", "growth.png")


class StockRollout:
    """Rules with a batch dimension in stock operations.

    Args:
        rule: Zero-padded, with an alive mask, a local maximum of window 3 and one hidden layer.
        grouped: The network as convolutions in which every sample is a group; or else as products of batches of
            matrices, as the published code has it.
    """

    def __init__(self, rule: Rule, grouped: bool):
        self.rule, self.grouped, C = rule, grouped, rule.channels
        size = max(f.size for f in rule.filters)
        stencils = torch.zeros(len(rule.filters), 1, size, size)
        for stencil, filter in zip(stencils, rule.filters, strict=True):
            middle = slice((size - filter.size) // 2, (size + filter.size) // 2)
            stencil[0, middle, middle] = torch.tensor(filter.kernel)
        self.stencils, self.reach = stencils.repeat(C, 1, 1, 1), size // 2  # channel by channel

    def alive(self, x: Tensor) -> Tensor:
        channel = self.rule.alive_channel
        return F.max_pool2d(x[:, channel : channel + 1], 3, 1, 1) > self.rule.alive_threshold

    def step(self, x: Tensor, weights: list, mask: Tensor) -> Tensor:
        """One update; w1's inputs are ordered channel by channel, the maxima last. [B, C, H, W] -> same."""
        (w1, b1), (w2, _) = weights
        B, C, H, W = x.shape
        filtered = F.conv2d(x, self.stencils, padding=self.reach, groups=C)
        y = torch.cat([filtered, F.max_pool2d(x, 3, 1, 1)], dim=1)
        hidden, inputs = w1.shape[1:]
        if self.grouped:
            h = F.conv2d(y.reshape(1, B * inputs, H, W), w1.reshape(-1, inputs, 1, 1), b1.reshape(-1), groups=B)
            u = F.conv2d(torch.relu(h), w2.reshape(-1, hidden, 1, 1), groups=B).reshape(B, C, H, W)
        else:
            h = torch.baddbmm(b1[..., None], w1, y.flatten(2))
            u = torch.bmm(w2, torch.relu(h)).reshape(B, C, H, W)
        before = self.alive(x)
        x = x + u * mask
        return x * (before & self.alive(x))

    def by_channel(self, w1: Tensor) -> Tensor:
        """First-layer weights [B, hidden, inputs] for the order of `step`."""
        C, n = self.rule.channels, len(self.rule.filters)
        filtered = w1[..., : n * C].unflatten(-1, (n, C)).transpose(-1, -2).flatten(-2)
        return torch.cat([filtered, w1[..., n * C :]], dim=-1)

    def __call__(self, x: Tensor, weights: list, steps: int, masks: list[Tensor] | None = None) -> Tensor:
        (w1, b1), last = weights
        weights = [(self.by_channel(w1), b1), last]
        for n in range(steps):
            drawn = torch.rand(x.shape[0], 1, *x.shape[2:]) < self.rule.fire_rate if masks is None else masks[n]
            x = self.step(x, weights, drawn)
        return x


def check_parity(rule: Rule, size: int, batch: int = 3, steps: int = 6) -> dict[str, list[float]]:
    """Errors of the fused and the stock rollout against the float64 reference; stops when red."""
    stock = {f"stock, {how}": StockRollout(rule, how == "grouped") for how in ("grouped", "bmm")}
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, out, inputs) for out, inputs, _ in rule.layers]
    weights = [torch.randn(shape, generator=generator) * 0.3 / shape[-1] ** 0.5 for shape in shapes]
    bias = torch.randn(batch, rule.hidden[0], generator=generator) * 0.1
    start = torch.rand(batch, rule.channels, size, size, generator=generator)

    def run(kind: str, dtype: torch.dtype) -> list[Tensor]:
        x = start.to(dtype, copy=True).requires_grad_()
        w1, b1, w2 = (t.to(dtype, copy=True).requires_grad_() for t in (weights[0], bias, weights[1]))
        pairs = [(w1, b1), (w2, None)]
        if kind in stock:
            masks = [fire_mask(3, n, batch, size, size, rule.fire_rate) for n in range(steps)]
            y = stock[kind](x, pairs, steps, masks)
        else:
            y = rollout(x, pairs, rule, steps, seed=3, backend=kind)
        y.square().sum().backward()
        return [y.detach(), x.grad, w1.grad, b1.grad, w2.grad]

    exact = run("reference", torch.float64)
    errors = {
        name: [
            ((a.double() - e).norm() / e.norm()).item() for a, e in zip(run(kind, torch.float32), exact, strict=True)
        ]
        for name, kind in (("fused", "cpu"), ("plain float32", "reference"), *((name, name) for name in stock))
    }
    for name in ("fused", *stock):
        for error, plain in zip(errors[name], errors["plain float32"], strict=True):
            if error > max(2 * plain, 1e-6):
                sys.exit(f"parity is red, no speed is measured: errors {errors}")
    return errors


def speed(repeats: int) -> dict:
    """Seconds of one iteration of the training loop at the setting of the paper's MNIST model, fused and stock.

    With a model that was trained for a while, whose digits grow from one cell in every iteration; and from states in
    which every cell lives, so that the fused rollout can leave none out.
    """
    architecture = ARCHITECTURES["vae-mnist"]
    parity, rule = check_parity(architecture.rule, architecture.size), architecture.rule
    with tempfile.TemporaryDirectory() as folder:
        vae = run_training(VAE, VAESources("digits"), folder, VAEConfig(iterations=TRAINED)).model
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.0)
    pictures = load_pictures("digits", architecture.size, architecture.grey).test[:BATCH]
    one_cell = vae.initial_state(BATCH)
    everywhere = torch.rand(one_cell.shape) + 0.2
    with torch.no_grad():
        weights = vae.weights(vae.encode(pictures)[0])
        living = [alive_share(vae.grow(weights, steps=n, seed=0), rule) for n in range(1, architecture.steps)]

    def iteration(roll, state):
        def run():
            mean, log_variance = vae.encode(pictures)
            weights = vae.weights(vae.latent(mean, log_variance, torch.randn(BATCH, architecture.latent)))
            states = roll(state, weights)
            loss = F.mse_loss(vae.shown(states), pictures) + 1e-5 * divergence(mean, log_variance).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return run

    def stock(grouped):
        roll = StockRollout(rule, grouped)
        return lambda x, weights: roll(x, weights, architecture.steps)

    def fused(x, weights):
        return vae.grow(weights, state=x, seed=0)

    runs = {
        "fused, from one cell": iteration(fused, one_cell),
        "fused, all cells alive": iteration(fused, everywhere),
        "stock, grouped": iteration(stock(True), one_cell),
        "stock, bmm": iteration(stock(False), one_cell),
    }
    times = interleaved(runs, repeats)
    faster = {
        f"{name} / {slow}": times[slow]["median"] / times[name]["median"]
        for name in runs
        for slow in runs
        if name.startswith("fused") and slow.startswith("stock")
    }
    setting = {"batch": BATCH, "steps": architecture.steps, "trained_iterations": TRAINED}
    setting["mean_share_of_living_cells"] = sum(living) / len(living)
    return {"header": header(), "parity": parity, **setting, "seconds": times, "times_as_fast": faster}


def alive_share(states: Tensor, rule: Rule) -> float:
    """What share of the cells of states [B, C, H, W] may live on, by the alive mask."""
    alpha = states[:, rule.alive_channel, None]
    return (F.max_pool2d(alpha, 3, 1, 1) > rule.alive_threshold).float().mean().item()


def learn(threads: int | None, iterations: int | None) -> dict:
    """Trains on digits with the default settings, and keeps the curve and the pictures."""
    changes = {"threads": threads} | ({"iterations": iterations} if iterations else {})
    config = VAEConfig(**changes)
    with tempfile.TemporaryDirectory() as folder:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        result = run_training(VAE, VAESources("digits"), folder, config)
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
        lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
        for name in PICTURES:
            with atomic_path(RESULTS / f"vae_digits_{name}") as temporary:
                shutil.copyfile(Path(folder) / name, temporary)
    curve = [[line["iteration"], line["mse"]] for line in lines]
    means = [
        [block[-1][0], sum(error for _, error in block) / len(block)]
        for block in (curve[i : i + 25] for i in range(0, len(curve), 25))
    ]
    draw_curve(means, result.figures["mean_error"], RESULTS / "vae_digits.png")
    return {
        "header": header(),
        "config": asdict(config),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "test_error": result.figures["test_error"],
        "mean_picture_error": result.figures["mean_error"],
        "share_of_mean_picture_error": result.figures["test_error"] / result.figures["mean_error"],
        "training_error_by_iteration": means,
    }


def draw_curve(points: list[list[float]], mean_error: float, path: Path) -> None:
    """The training error, by iteration, beside the error of the mean picture and a third of it."""
    width, height, edge = 640, 320, 40
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    last, most = points[-1][0], 2 * mean_error

    def place(iteration, error):
        across = edge + (width - 2 * edge) * iteration / last
        return across, height - edge - (height - 2 * edge) * min(error, most) / most

    for error, name in ((0, "0"), (mean_error / 3, "a third"), (mean_error, "mean picture")):
        draw.line([place(0, error), place(last, error)], fill=(190, 190, 190))
        draw.text((place(0, error)[0] + 4, place(0, error)[1] - 12), name, fill=(120, 120, 120))
    draw.line([place(*point) for point in points], fill=(200, 40, 40), width=2)
    draw.text(
        (edge, height - edge + 8), f"mean squared error of a pixel in training, iterations 1 to {last}", fill="black"
    )
    with atomic_path(path) as temporary:
        page.save(temporary, format="PNG")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help="time an iteration, fused and stock")
    parser.add_argument("--learn", action="store_true", help="train on digits")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of interleaved timings (default 3)")
    parser.add_argument("--threads", type=int, help="of the training (default: PyTorch's choice)")
    parser.add_argument("--iterations", type=int, help="of the training (default: the command's)")
    options = parser.parse_args()
    if not (options.speed or options.learn):
        parser.error("say --speed or --learn, or both.")
    if options.speed:
        result = speed(options.repeats)
        write_result(RESULTS / "vae_speed.json", result)
        for name, seconds in result["seconds"].items():
            spread = f"{seconds['min']:.2f} to {seconds['max']:.2f} s"
            print(f"{name:<24} {1 / seconds['median']:.3f} iterations/s ({spread})")
        for name, times in result["times_as_fast"].items():
            print(f"{name}: {times:.1f} times as fast")
    if options.learn:
        result = learn(options.threads, options.iterations)
        write_result(RESULTS / "vae_digits.json", result)
        share = result["share_of_mean_picture_error"]
        print(f"test error {result['test_error']:.4f}, {share:.3f} of the mean picture's, in {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
