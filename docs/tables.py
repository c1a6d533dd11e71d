"""Tables of README.md and docs/ that are made of results and of what backends answer, so that no figure can drift.

A page holds a table between `<!-- table: NAME FILE -->` and `<!-- end -->`. `python docs/tables.py` writes them all
anew; tests/test_readme.py says which ones are no longer what they are made of.
"""

import json
import re
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # of a checkout, wherever it is called from

BLOCK = re.compile(r"(<!-- table: (?P<name>\w+)(?: (?P<file>\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)


PARTS = ("forward", "training")  # of published.json
KERNEL_CASES = ("texture, forward", "texture, training", "vae-mnist, forward", "vae-mnist, training")


def pages() -> list[Path]:
    """Lists the pages that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """Writes the tables of a page anew.

    Raises:
        KeyError: There is no table of such a name.
    """

    def made(block: re.Match[str]) -> str:
        lines = TABLES[block["name"]](*([_result(block["file"])] if block["file"] else []))
        return block[1] + "\n" + "\n".join(lines) + "\n\n" + block[4]

    return BLOCK.sub(made, text)


def speed(result: dict) -> list[str]:
    """Cell-steps per second of three implementations, and what bounds them."""
    rows = {f"forward, {side} x {side}": rates for side, rates in result["forward"].items()}
    training = result["training"]
    side, batch, steps = training.get("side", 128), training.get("batch", 4), training.get("steps", 32)
    rows[f"forward + backward, {batch} x {side} x {side}, {steps} steps"] = training
    memory = {name: f"{size / 2**20:,.0f} MiB" for name, size in result["peak_memory_bytes"].items()}
    table = [["", "stock PyTorch", "torch.compile of it", "nca_fast", "bound", "of the bound"]]
    for title, rates in rows.items():
        speeds = [_million(rates[name]) for name in ("eager", "torch.compile", "fused")]
        share = rates["share_of_fma_peak"]
        bound = rates["fused"]["cell_steps_per_second"] / share / 1e6
        table.append([title, *speeds, f"{bound:.1f}", f"{share:.0%}"])
    said = f"Peak memory of a training rollout, {batch} x {side} x {side}, 96 steps: {memory['fused']}; "
    return [*_table(table), "", _machine(result), f"{said}stock PyTorch {memory['eager']}."]


def published(result: dict) -> list[str]:
    """How many times as fast as their authors' formulas published automata run; and those below 1.5."""
    found = {part: {row["system"]: row[part]["times"] for row in result["rows"] if part in row} for part in PARTS}
    times = {part: sorted(of.values()) for part, of in found.items()}
    slow = [name for name in found["forward"] if min(of.get(name, 2) for of in found.values()) < 1.5]
    table = [["", "forward", "forward + backward"]]
    table.append(["systems", *(str(len(of)) for of in times.values())])
    table.append(["median", *(f"{statistics.median(of):.1f}x" for of in times.values())])
    table.append(["at 5x or more", *(str(sum(each >= 5 for each in of)) for of in times.values())])
    table.append(["below 1.5x", *(str(sum(each < 1.5 for each in of)) for of in times.values())])
    table += [[name, *(f"{of[name]:.2f}x" for of in found.values())] for name in slow]
    return [*_table(table), "", _machine(result)]


def rules(result: dict) -> list[str]:
    """Cell-steps per second of nca_fast for the rules of other systems."""
    table = [["rule", "forward", "of the bound", "forward + backward", "of the bound"]]
    for name, ways in result["rules"].items():
        found = (
            (_million(ways[way]["fused"]), f"{ways[way]['share_of_fma_peak']:.0%}") for way in ("forward", "training")
        )
        table.append([f"`{name}`", *(text for pair in found for text in pair)])
    return [*_table(table), "", _machine(result)]


def kernel_parts(result: dict) -> list[str]:
    """Cycles of each part of the C++ kernel, measured and at least."""
    cases = {name: result["rules"][name] for name in KERNEL_CASES}
    names = list(dict.fromkeys(part for case in cases.values() for part in case["parts"]))
    table = [["cycles a cell-step, one thread: measured / at least", *cases, "bound by"]]
    for name in names:
        found = [(case["parts"].get(name), case["gigahertz"]) for case in cases.values()]
        cells = [f"{of['nanoseconds'] * clock:.1f} / {of['least_cycles']:.1f}" if of else "" for of, clock in found]
        bounds = dict.fromkeys(of["bound"] for of, _ in found if of and of["least_cycles"])
        table.append([name, *cells, ", ".join(bounds) or "nothing"])
    rest = [
        f"{(case['nanoseconds'] - sum(of['nanoseconds'] for of in case['parts'].values())) * case['gigahertz']:.1f}"
        for case in cases.values()
    ]
    table.append(["all else, and memory that is waited for", *rest, ""])
    sums = [sum(of["least_cycles"] for of in case["parts"].values()) for case in cases.values()]
    whole = [(case["nanoseconds"], case["gigahertz"]) for case in cases.values()]
    table.append(["**in all**", *(f"{ns * c:.0f} / {s:.0f}" for (ns, c), s in zip(whole, sums, strict=True)), ""])
    table.append(["nanoseconds", *(f"{ns:.1f} / {s / c:.1f}" for (ns, c), s in zip(whole, sums, strict=True)), ""])
    peaks = [case["products_at_the_peak"] for case in cases.values()]
    shares = zip(whole, sums, peaks, strict=True)
    table.append(["of the peak", *(f"{p / ns:.0%} / {p / (s / c):.0%}" for (ns, c), s, p in shares), ""])
    dates = sorted({f"commit {case['commit']}, {case['date'][:10]}" for case in cases.values()})
    return [*_table(table), "", f"{result['header']['cpu']}, {result['header']['vectors']}; {'; '.join(dates)}."]


def style_speed(result: dict) -> list[str]:
    """Seconds of a whole iteration of style training."""
    ways = {"stock": "stock convolutions", "stock, one by one": "the same, sample by sample", "fused": "nca_fast"}
    table = [["seconds an iteration", *ways.values()]]
    for steps, found in result["steps"].items():
        table.append([f"{steps} steps", *(f"{found[way]['seconds']:.1f}" for way in ways)])
    return [*_table(table), "", _machine(result)]


def population(result: dict) -> list[str]:
    """Cell-steps per second of many rules at once."""
    ways = {"stock, grouped": "stock PyTorch, a group for each rule", "fused, one by one": "nca_fast, rule by rule"}
    ways["fused"] = "nca_fast, one call"
    table = [["", *ways.values()]]
    for way, title in (("forward", "forward"), ("training", "forward + backward")):
        table.append([title, *(_million(result[way][name]) for name in ways)])
    return [*_table(table), "", _machine(result)]


def vae_speed(result: dict) -> list[str]:
    """Seconds of an iteration of VAE-NCA training."""
    table = [["", "seconds an iteration"]]
    table += [[name, f"{found['median']:.2f}"] for name, found in result["seconds"].items()]
    return [*_table(table), "", _machine(result)]


def authors(result: dict) -> list[str]:
    """The authors' recipes and ours, in the same time."""
    found = {(row["system"], row["whose"], row["budgets"]): row for row in result["rows"]}
    short, long = result["seconds"], result["seconds"] * result["long"]
    heads = [f"authors', {short:g} s", f"ours, {short:g} s", f"ours, {long:g} s", "memory", "as published, one core"]
    table = [["system", "measure", *heads]]
    for system, measures in result["measures"].items():
        rows = [
            found.get(way) for way in ((system, "authors", 1), (system, "ours", 1), (system, "ours", result["long"]))
        ]
        memory = ", ".join(f"{row['peak_bytes'] / 1e9:.2f}" for row in rows[:2] if row) + " GB"
        whole = found.get((system, "published", 1))
        for name, said in measures.items():
            cells = [f"{row[name]:.3g} ({row['iterations']} iterations)" if row else "-" for row in rows]
            table.append([f"`{system}`", said, *cells, memory, f"{whole['hours']:.0f} h" if whole else "-"])
    return [*_table(table), "", _machine(result)]


def canvas(result: dict) -> list[str]:
    """What a canvas larger than its memory takes."""
    of = result["strips"]
    borders = list(of["borders_right"].values())
    said = {
        "canvas": f"{of['side']:,} x {of['side']:,} cells, {of['steps']} steps, `--memory {of['memory']}`",
        "speed": f"{_million(of)} million cell-steps/s",
        "of the speed of a canvas that lies in memory": f"{result['share_of_the_speed_in_memory']:.0%}",
        "steps take": f"{of['seconds'] / 60:.1f} min",
        "the picture takes": f"{of['seconds_of_the_picture']:.0f} s",
        "memory at most": f"{of['peak_resident_bytes'] / 2**30:.2f} GiB",
        "borders of strips right to the bit": f"{sum(borders)} of {len(borders)}",
    }
    return [*_table([["", ""], *map(list, said.items())]), "", _machine(result)]


def shelf() -> list[str]:
    """The automata that come with the package, with pictures."""
    from nca_fast import zoo

    table = [["what it draws", "name", "what it is", "learned from", "score"]]
    for card in map(zoo.card, zoo.names()):
        picture = f'<img src="../nca_fast/zoo/{card.picture.name}" width="140" alt="{card.title}">'
        score = re.sub(r"^score | \(0 another.*?\)", "", card.score)
        table.append([picture, f"`zoo:{card.name}`", card.title, f"{card.source} ({card.licence})", score])
    return _table(table)


def words() -> list[str]:
    """The words that the small CLIP model knows."""
    known = (ROOT / "nca_fast/features/small_clip/words.txt").read_text(encoding="utf-8").split()
    return textwrap.wrap(", ".join(sorted(known)), 120)


def _million(rates: dict) -> str:
    return f"{rates['cell_steps_per_second'] / 1e6:.2f}"


def _machine(result: dict) -> str:
    of = result["header"]
    threads = f"{of['threads']} thread{'s' if of['threads'] > 1 else ''}"
    return f"{of['cpu']}, {of['vectors']}, {threads}; PyTorch {of['torch']}; commit {of['commit']}, {of['date'][:10]}."


def _table(rows: Iterable[list[str]]) -> list[str]:
    head, *others = rows
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *others)]


def _result(file: str) -> dict[str, Any]:
    return json.loads((ROOT / file).read_text(encoding="utf-8"))


def _answers(name: str) -> Callable[[], list[str]]:
    """A table of docs/answers.py, which imports torch."""

    def made() -> list[str]:
        import importlib.util

        spec = importlib.util.spec_from_file_location("answers", ROOT / "docs" / "answers.py")
        answers = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(answers)
        rows, notes = getattr(answers, name)()
        return [*_table(rows), "", *notes]

    return made


TABLES: dict[str, Callable[..., list[str]]] = {
    **{
        table.__name__: table
        for table in (
            speed,
            published,
            rules,
            kernel_parts,
            style_speed,
            population,
            vae_speed,
            authors,
            canvas,
            shelf,
            words,
        )
    },
    **{name: _answers(name) for name in ("fields", "presets", "gpus")},
}


def main() -> None:
    """Writes all tables anew."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        page.write_text(filled(text), encoding="utf-8")


if __name__ == "__main__":
    main()
