"""Derives up to which sizes of a state rollouts are worth a CUDA graph, from what launches cost and bytes that move.

    python -m bench.graph_limits        reads bench/results/launch_cost.json, writes bench/results/graph_limits.json

A step that is launched takes what Python and the driver take for its launches (launch_cost.json, "from C", and 2 us a
launch of the driver's own, which is assumed), or what the GPU takes, if that is more: it works while they are made.
A step that is replayed takes what the GPU takes, and where states are saved a copy of one. The GPU is taken to be as
fast as its memory, which favours graphs: no GPU was asked (`bench/gpu.sh tune` does). The limit is the size at which
a step that is launched takes 5 % longer; above it, launches cost less.
"""

import json
import math

from bench.harness import RESULTS, header, write_result

DRIVER = 2.0  # us a launch
SHARE = 1.05
CARDS = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.04e12, "RTX 4090": 1.01e12}  # bytes per second


def limit(row: dict, bandwidth: float, saved: bool) -> float:
    """Computes the MiB of the largest state that is worth a graph, of a row of launch_cost.json."""
    launched = row["from C, us a step"]["median"] + DRIVER * row["launches"]
    size = 4 * math.prod(row["state"])
    replayed = row["gpu, us a step at least"] * CARDS["H200"] / bandwidth + saved * 2 * size / bandwidth * 1e6
    return launched / SHARE / replayed * size / 2**20


def limits(rows: list[dict]) -> list[dict]:
    """Lists those of all rows whose rollouts are ever replayed, in MiB: of states that are saved, and that are not."""
    found = []
    for row in rows:
        if not row["case"].endswith("by step"):
            of = {"case": row["case"], "direction": row["direction"], "launches": row["launches"]}
            for saved in (True, False):
                if saved or row["direction"] == "forward":
                    name = "saved" if saved else "free"
                    of[name] = {card: round(limit(row, b, saved), 1) for card, b in CARDS.items()}
            found.append(of)
    return found


def main() -> None:
    rows = limits(json.loads((RESULTS / "launch_cost.json").read_text())["rows"])
    for row in rows:
        print(row)
    write_result(RESULTS / "graph_limits.json", {"header": header(), "rows": rows})


if __name__ == "__main__":
    main()
