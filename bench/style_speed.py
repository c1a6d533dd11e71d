"""How fast is a whole iteration of style training, against the same loop with stock convolutions?

    python -m bench.style_speed            224 x 224, batch 4, 32 and 64 steps; some minutes; writes a result file
    python -m bench.style_speed --quick    96 x 96, batch 2, 8 steps; no result file

An iteration is all that `loop.train` does: drawing from the pool, rollout, losses, gradients, Adam, writing back. The
loops run the same code but for the rollout, on samples of the same pool with the same settings. Parity is checked
first: the kernel against the float64 reference, and the gradients of the loops against each other. Of the published 32
to 96 steps, 64 are the mean.

Stock autograd keeps every layer of every step: a batch of 4 at 64 steps takes 17 GB, and is left out where it would not
fit. So there is a second baseline, which takes the samples one by one and adds up their gradients. On a CPU that is
also faster, because its tensors are small enough for what the memory allocator keeps.
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.harness import RESULTS, header, write_result
from nca_fast import NCA
from nca_fast.media.images import load_image
from nca_fast.profiling.parity import check_parity
from nca_fast.profiling.stock import StockNCA
from nca_fast.systems.style import style_objective
from nca_fast.systems.style_settings import StyleConfig
from nca_fast.training import loop
from nca_fast.training.content import ContentPictures
from nca_fast.training.descent import normalize_gradients
from nca_fast.training.pool import Pool, PoolStep

STYLE, CONTENT = "skimage:immunohistochemistry", ("skimage:astronaut", "skimage:chelsea", "skimage:coffee")
SIZE, BATCH, STEPS = 224, 4, (32, 64)
POOL = 8  # states; a larger one takes memory and no time
PARITY = 2e-4  # of gradients that went through 8 steps in float32 twice, in another order; worst seen 1.1e-5
ROOM = 1.2  # of what a rollout should take, so much must be free


class Stock(nn.Module):
    """A stock automaton with the face that the loop expects."""

    def __init__(self, nca: NCA):
        super().__init__()
        self.step = StockNCA(nca)

    def forward(self, x: Tensor, steps: int, **ignored: object) -> Tensor:
        for _ in range(steps):
            x = self.step(x)
        return x


def automaton() -> NCA:
    """The style preset, with weights that change the picture."""
    torch.manual_seed(0)
    nca = NCA.preset("style")
    with torch.no_grad():
        for layer in nca.layers:
            layer.weight.normal_(0, 0.05)
    return nca


class AddingAdam(torch.optim.Adam):
    """Adam whose gradients add up over several calls of the loop, until the last of an iteration."""

    last, stepped = True, True

    def zero_grad(self, set_to_none: bool = True) -> None:
        if self.stepped:
            super().zero_grad(set_to_none)
        self.stepped = False

    def step(self) -> None:
        if self.last:
            super().step()
            self.stepped = True


class Contestant:
    """One of the loops, ready to do an iteration at a time."""

    def __init__(self, config: StyleConfig, nca: NCA, rollout: nn.Module, one_by_one: bool):
        target = load_image(STYLE, max_size=config.style_size)
        self.config, self.rollout, self.one_by_one = config, rollout, one_by_one
        self.pictures = ContentPictures.read(CONTENT, config.content_size, config.content_zoom)
        self.objective = style_objective(config, target, nca, self.pictures)
        self.start = lambda count, seed: self.pictures.start(nca, count, seed)
        self.loss_seconds = 0.0
        optimizer = AddingAdam(rollout.parameters(), lr=config.learning_rate)
        self.run, self.pool = loop.TrainingRun(rollout, optimizer), Pool(self.start(POOL, 0))

    def timed_objective(self, states: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses, whose time forward and backward is noted; the rollout's backward begins where theirs ends."""
        begin = time.perf_counter()
        leaf = states.detach().requires_grad_()
        terms = self.objective(leaf, generator)
        (grad,) = torch.autograd.grad(sum(terms.values()), leaf)
        self.loss_seconds += time.perf_counter() - begin
        values = {name: term.detach() for name, term in terms.items()}
        # A term of value 0 that carries the gradient to the rollout.
        return values | {"gradient": (states * grad).sum() - (leaf * grad).sum().detach()}

    def iterate(self, steps: int) -> None:
        """One iteration of `steps` steps."""
        calls = self.config.batch_size if self.one_by_one else 1
        for call in range(calls):
            self.run.optimizer.last = last = call == calls - 1
            step = PoolStep(
                self.rollout,
                self.pool,
                self.timed_objective,
                self.start,
                seed=0,
                batch_size=self.config.batch_size // calls,
                steps=lambda planned: (steps, steps),
                reseed_every=self.config.reseed_every,
                state_limit=self.config.state_limit,
            )
            plan = loop.Plan(self.run.iteration + 1, lambda planned: self.config.learning_rate)
            loop.train(self.run, step, plan, adjust_gradients=normalize_gradients if last else None)


def stock_bytes(nca: NCA, cell_steps: int) -> int:
    """What autograd keeps of stock operations: padded input, perception, hidden units, and the new state."""
    rule = nca.rule
    return 4 * cell_steps * (2 * rule.channels + rule.inputs + sum(rule.hidden))


def free_bytes() -> int:
    """Memory that can be had without swapping; Linux only."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def check_loops(config: StyleConfig, nca: NCA, stock: Stock) -> float:
    """The largest relative difference of gradients between the loops, after 8 steps; stops when it is too large."""
    pictures = ContentPictures.read(CONTENT, config.content_size, config.content_zoom)
    target = load_image(STYLE, max_size=config.style_size)
    objective, states = style_objective(config, target, nca, pictures), pictures.start(nca, 1, 0)

    def gradients(rollout: nn.Module, parameters: list[nn.Parameter]) -> list[Tensor]:
        terms = objective(rollout(states, steps=8, seed=0), torch.Generator().manual_seed(0))
        return list(torch.autograd.grad(sum(terms.values()), parameters))

    fused = gradients(nca, [p for layer in nca.layers for p in (layer.weight, layer.bias)])
    step = stock.step
    plain = gradients(stock, [p for pair in zip(step.weights, step.biases, strict=True) for p in pair])
    channels, filters = nca.rule.channels, len(nca.rule.filters)
    plain[0] = plain[0].reshape(-1, channels, filters).transpose(1, 2)  # to filter-major order
    errors = [((a.flatten() - b.flatten()).norm() / b.norm()).item() for a, b in zip(fused, plain, strict=True)]
    if not max(errors) < PARITY:
        sys.exit(f"the loops disagree, no speed is measured: relative differences of gradients {errors}")
    return max(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and short, no result file")
    parser.add_argument("--repeats", type=int, default=1, help="rounds of interleaved iterations (default 1)")
    options = parser.parse_args()
    size, batch, lengths = (96, 2, (8,)) if options.quick else (SIZE, BATCH, STEPS)
    # What the published systems compute: their automaton, and losses as they have them.
    config = StyleConfig(content_size=size, content_zoom=1.0, batch_size=batch, style_size=128, features="random")
    config = replace(config, loss="ot", guide_weight=0.0, content_weight=0.3, color_loss="histogram")
    facts = header()
    print(f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, commit {facts['commit']}")
    nca = automaton()
    stock = Stock(nca)
    parity = {"kernel": check_parity(nca), "loops": check_loops(replace(config, content_size=64), nca, stock)}
    print(f"parity is green: kernel {max(parity['kernel']['fused']):.1e}, gradients of the loops {parity['loops']:.1e}")

    contestants = {
        "stock": Contestant(config, nca, stock, False),
        "stock, one by one": Contestant(config, nca, Stock(nca), True),
        "fused": Contestant(config, nca, nca, False),
    }
    for contestant in contestants.values():
        contestant.iterate(2)  # warms up
    result = {"header": facts, "parity": parity, "size": size, "batch": batch, "repeats": options.repeats, "steps": {}}
    for steps in lengths:
        fits = ROOM * stock_bytes(nca, batch * size * size * steps) < free_bytes()
        entered = {name: contestant for name, contestant in contestants.items() if fits or name != "stock"}
        seconds = {name: [] for name in entered}
        losses = {name: [] for name in entered}
        for _ in range(options.repeats):
            for name, contestant in entered.items():
                contestant.loss_seconds, begin = 0.0, time.perf_counter()
                contestant.iterate(steps)
                seconds[name].append(time.perf_counter() - begin)
                losses[name].append(contestant.loss_seconds)
        row = {
            name: {
                "seconds": statistics.median(seconds[name]),
                "spread": [min(seconds[name]), max(seconds[name])],
                "iterations_per_second": 1 / statistics.median(seconds[name]),
                "share_of_losses": sum(losses[name]) / sum(seconds[name]),
            }
            for name in entered
        }
        result["steps"][steps] = row
        print(f"\n{batch} x {size} x {size}, {steps} steps")
        for name in contestants:
            if name not in row:
                needed = stock_bytes(nca, batch * size * size * steps) / 2**30
                print(f"  {name:<18} would take {needed:.0f} GiB, of which {free_bytes() / 2**30:.0f} are free")
                continue
            row[name]["ratio_of_fused"] = row[name]["seconds"] / row["fused"]["seconds"]
            speed, share, ratio = (
                row[name][key] for key in ("iterations_per_second", "share_of_losses", "ratio_of_fused")
            )
            line = f"  {name:<18} {row[name]['seconds']:7.2f} s = {speed:.3f} iterations/s, losses {share:.0%}"
            print(f"{line}; fused is {ratio:.1f} times as fast" if name != "fused" else line)
    if not options.quick:
        path = RESULTS / "style_speed.json"
        write_result(path, result)
        print(f"\nwrote {path}")


if __name__ == "__main__":
    main()
