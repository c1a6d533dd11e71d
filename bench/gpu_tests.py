"""The tests of the Triton kernels on a GPU, in as many processes as there are cores; or five under memcheck.

python -m bench.gpu_tests [--out FILE]
python -m bench.gpu_tests --memcheck     reads and writes outside of tensors, by compute-sanitizer
python -m bench.gpu_tests --smoke        two tests, without a GPU in Triton's interpreter
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from bench.harness import RESULTS, Rows

ROOT = Path(__file__).parents[1]
FILES = tuple(f"tests/test_triton{name}.py" for name in ("_graphs", "", "_memory", "_frames"))
# Ragged tiles of both ways, several bands, a rule per sample, and graphs.
MEMCHECK = (
    "tests/test_triton.py::test_shapes[(1, 9, 20)-zero]",
    "tests/test_triton.py::test_one_rule_per_sample[bias among the weights]",
    "tests/test_triton.py::test_precisions[fp16-dtype0]",
    "tests/test_triton_memory.py::test_larger_filters[(1, 9, 20)-circular]",
    "tests/test_triton_memory.py::test_maximum_with_ties_and_alive_mask[(1, 7, 13)-zero]",
)
SMOKE = MEMCHECK[:1] + MEMCHECK[3:4]
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def collected() -> list[str]:
    """Names of all tests of FILES; those of graphs first."""
    command = [*PYTEST[:3], "--collect-only", "-q", *FILES]
    output = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    return [line for line in output.splitlines() if "::" in line and "compiled_kernels" not in line]


def passed(tests: list[str], seconds: float, tool: tuple[str, ...] = ()) -> dict:
    """Runs tests in one process, under a tool where one is named."""
    if seconds < 1:
        return {"skipped": "no time was left"}
    environment = dict(os.environ)
    if tool:  # each tensor is an allocation of its own, whose end the tool knows
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    try:
        result = subprocess.run(
            [*tool, *PYTEST, *tests], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {"skipped": "no time was left"}
    row = {"status": result.returncode, "summary": result.stdout.strip().splitlines()[-1:]}
    if result.returncode:
        row["output"] = (result.stdout + result.stderr)[-1500:]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_tests.json", help="result file")
    parser.add_argument("--seconds", type=float, default=600, help="end by then")
    parser.add_argument("--memcheck", action="store_true", help="five tests under compute-sanitizer")
    parser.add_argument("--smoke", action="store_true", help="two tests")
    options = parser.parse_args()
    end, rows = time.monotonic() + options.seconds, Rows(options.out)
    if find_spec("pytest") is None:
        rows.keep({"skipped": "pytest is not on this machine"})
        rows.end_run()
    tool = ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9") if options.memcheck else ()
    tests = list(SMOKE) if options.smoke else list(MEMCHECK) if tool else collected()
    cores = os.cpu_count() or 1
    # Dealt out like cards, so that no process gets all of the slow ones.
    hands = [hand for n in range(cores) if (hand := tests[n::cores])]
    with ThreadPoolExecutor(len(hands)) as threads:
        runs = [threads.submit(passed, hand, end - time.monotonic(), tool) for hand in hands]
        for hand, run in zip(hands, runs, strict=True):
            facts = {"tests": hand if len(hand) < 6 else len(hand), "tool": tool[:3]}
            rows.add(partial(run.result), lambda row: row.get("status", 0) == 0, **facts)
    rows.end_run()


if __name__ == "__main__":
    main()
