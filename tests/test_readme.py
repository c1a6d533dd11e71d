"""The README's Python runs as it stands there, and its figures are those of the result file that it names."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_blocks(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_files_that_it_names_are_there():
    named = re.findall(r"\((?!http)([\w./-]+\.(?:png|json|md|py))\)", README)
    assert named
    for name in named:
        assert (ROOT / name).is_file(), name


def test_speed_table_is_the_result_file():
    """Every row "| what | eager | compile | nca_fast |" in million cell-steps/s, to two digits after the point."""
    file = re.search(r"Measured by.*?(bench/results/rollout_cpu_[\w-]+\.json)", README, re.DOTALL)[1]
    result = json.loads((ROOT / file).read_text())
    rows = {f"forward, {side} x {side}": rates for side, rates in result["forward"].items()}
    rows["forward + backward, 4 x 128 x 128, 32 steps"] = result["training"]
    for title, rates in rows.items():
        speeds = [rates[name]["cell_steps_per_second"] / 1e6 for name in ("eager", "torch.compile", "fused")]
        line = f"| {title} | " + " | ".join(f"{speed:.2f}" for speed in speeds)
        assert line in README, f"the README lacks: {line}"
