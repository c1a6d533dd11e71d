"""Published automata, their own formulas in stock PyTorch against their ports: python -m bench.published [--quick]

The systems are those of tests/published*.py: `theirs` is written from their authors' formulas, `ours` is the port. Both
sides get the same fire masks and normal numbers, which are made beforehand for `theirs` and cost it nothing. Sizes of
channels and hidden units are the published ones where tests/published_systems.py has them, else 8 channels and 96
hidden units, or what a system was written with. Before a system is timed, values and all gradients are compared.
"""

import argparse
import ast
import inspect
import statistics
import sys
import tempfile
import textwrap
from pathlib import Path

import torch
from torch import Tensor

from bench.harness import RESULTS, Rows
from bench.published_bound import bounds, multiply_adds
from nca_fast.profiling.bounds import fma_peak
from nca_fast.profiling.timing import interleaved

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from published import Draws, System
from published_systems import AS_PUBLISHED, SYSTEMS, single

# Shares of norms in float32: sums in another order, over steps. Worst seen 5e-7 and 8e-4; a threshold that a rounding
# crosses changes a cell, and a unit that it switches changes the gradients of many.
PARITY = {"value": 1e-3, "gradient": 5e-3}


PARTS = ("forward", "training")


class Kept:
    """Draws that are made once for each step."""

    def __init__(self, draws: Draws, steps: int):
        self.masks = [draws.mask(n) for n in range(steps)]
        self.noise = {update: [draws.normal(n, update) for n in range(steps)] for update in (False, True)}

    def mask(self, step: int) -> Tensor:
        """As `Draws.mask`."""
        return self.masks[step]

    def normal(self, step: int, of_update: bool = False) -> Tensor:
        """As `Draws.normal`."""
        return self.noise[of_update][step]


def lines_of_port(kind: type[System]) -> int:
    """Lines of code of a port: the rule, and the weights and the call, without def, docstring and blanks."""
    (cls,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    methods = {node.name: node for node in cls.body if isinstance(node, ast.FunctionDef)}
    code = list(methods["ours"].body)
    rule = [
        node for node in methods["__init__"].body if isinstance(node, ast.Assign) and "self.rule" in ast.unparse(node)
    ]
    return sum(node.end_lineno - node.lineno + 1 for node in code + rule[:1])


def sizes(kind: type[System], quick: bool) -> tuple[tuple[int, int], int]:
    """Canvas and steps; fewer where a cell has many channels. Steps are even: some automata take turns."""
    if quick:
        return (16, 20), 6
    wide = any(system is kind and given["C"] >= 64 for system, given in AS_PUBLISHED.values())
    return ((32, 32), 6) if wide else ((48, 48), 12)


def made(kind: type[System]) -> tuple[System, Tensor]:
    """A system at its published sizes and states in which half of the cells hold something, both in float32."""
    torch.manual_seed(3)
    torch.set_default_dtype(torch.float64)
    given = next((given for system, given in AS_PUBLISHED.values() if system is kind), {})
    system = kind(**given)
    x = (torch.rand(3, given.get("C", 8), *kind.size) - 0.5) * (torch.rand(3, 1, *kind.size) < 0.5)
    x[:, :, kind.size[0] // 2, kind.size[1] // 2] = 0.7
    x = system.start(x).detach()
    single(system)
    system.backend = "cpu"
    return system, x.float()


def answers(system: System, function, x: Tensor, seen: Tensor | None = None) -> dict[str, Tensor]:
    """Values, and gradients of the start state and all parameters, by name."""
    x = x.clone().requires_grad_(system.differentiable)
    y = function(x)
    if not system.differentiable:
        return {"y": y.detach()}
    seen = torch.linspace(-1, 1, y.numel()).reshape(y.shape).cos() if seen is None else seen
    wanted = {"x": x} | dict(system.named_parameters())
    found = torch.autograd.grad(y, list(wanted.values()), seen)
    return {"y": y.detach()} | dict(zip(wanted, found, strict=True))


def measured(kind: type[System], repeats: int) -> dict:
    """Lines, errors and times of a system."""
    system, x = made(kind)
    draws = Kept(system.draws(x), system.steps)
    ways = {"theirs": lambda x: system.theirs(x, draws), "ours": system.ours}
    results = {name: answers(system, way, x) for name, way in ways.items()}
    seen = torch.linspace(-1, 1, results["ours"]["y"].numel()).reshape(results["ours"]["y"].shape).cos()
    errors = {
        name: ((results["ours"][name] - value).norm() / value.norm().clamp(min=1e-30)).item()
        for name, value in results["theirs"].items()
    }
    row = {
        "describes": inspect.getdoc(kind).splitlines()[0],
        "lines": lines_of_port(kind),
        "state": list(x.shape),
        "hidden": list(system.rule.hidden),
        "steps": system.steps,
        "value_error": errors.pop("y"),
        "worst_gradient_error": max(errors.values(), default=None),
    }
    row["spread"] = results["theirs"]["y"].std().item()
    if not row["spread"] > 1e-3:
        return row | {"parity": "RED: all cells are alike, so it shows nothing"}
    if not (
        row["value_error"] <= PARITY["value"] and (row["worst_gradient_error"] or 0) <= PARITY["gradient"]
    ):  # NaN too
        return row | {"parity": "RED"}

    def forward(way):
        with torch.no_grad():
            way(x)

    runs = {f"forward {name}": lambda way=way: forward(way) for name, way in ways.items()}
    if system.differentiable:
        runs |= {f"training {name}": lambda way=way: answers(system, way, x, seen) for name, way in ways.items()}
    row["multiply_adds"] = {part: multiply_adds(runs[f"{part} ours"]) for part in PARTS if f"{part} ours" in runs}
    seconds = interleaved(runs, repeats)
    for part in PARTS:
        if f"{part} ours" in seconds:
            theirs, ours = (seconds[f"{part} {name}"] for name in ways)
            row[part] = {"theirs": theirs, "ours": ours, "times": theirs["median"] / ours["median"]}
    return row | {"parity": "green"}


def summary(rows: list[dict]) -> dict:
    """Median and least of the quotients."""
    found = {}
    for part in PARTS:
        times = {row["system"]: row[part]["times"] for row in rows if part in row}
        if times:
            least = min(times, key=times.get)
            found[part] = {"systems": len(times), "median": statistics.median(times.values()), "least": times[least]}
            found[part]["least_of"] = least
    lines = [row["lines"] for row in rows if "lines" in row]
    return found | {"median_lines": statistics.median(lines)} if lines else found


def main() -> None:
    """Measures, and writes bench/results/published.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small canvases, one round, no file in bench/results")
    parser.add_argument("--only", nargs="*", help="names of systems")
    parser.add_argument("--out", type=Path, default=RESULTS / "published.json")
    options = parser.parse_args()
    System.width, repeats = 96, 1 if options.quick else 3
    out = Path(tempfile.gettempdir()) / "published_quick.json" if options.quick else options.out
    rows = Rows(out, repeats=repeats, parity=PARITY)
    for kind in SYSTEMS:
        if options.only and kind.__name__ not in options.only:
            continue
        kind.size, kind.steps = sizes(kind, options.quick)
        rows.add(lambda kind=kind: measured(kind, repeats), lambda row: row["parity"] == "green", system=kind.__name__)
    rows.result["summary"] = summary(rows.result["rows"])
    rows.result["bound"] = bounds(rows.result["rows"], fma_peak())
    print(rows.result["summary"], rows.result["bound"])
    rows.end_run()


if __name__ == "__main__":
    main()
