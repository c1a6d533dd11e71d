"""Do the tests of the C++ kernel notice a mistake? Plants mistakes in it, one at a time, and runs them.

python -m bench.mutants            about an hour; writes bench/results/mutants_cpu.json
python -m bench.mutants --missed   only those that the result file has not as caught: goes on with a run that was ended
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.harness import RESULTS, header, write_result

# (file, what stands there, what is put there)
MUTANTS = [
    ("cpu/step.h", "c0 = uint32_t(p1 >> 32) ^ c1 ^ k0", "c0 = uint32_t(p1 >> 32) ^ c1"),
    ("cpu/step.h", "return at + s.column0;", "return at;"),
    ("cpu/step.h", "s.column0 + uint32_t(column)", "uint32_t(column)"),
    ("cpu/step.h", "(s.row0 + row) % s.canvas_height", "row % s.canvas_height"),
    ("cpu/step.h", "(s.row0 + row) % s.canvas_height", "s.row0 + row"),
    ("cpu/narrow.h", "profiles[1] = c - a;", "profiles[1] = a - c;"),
    ("cpu/narrow.h", "profiles[0] = (a + c) + 2 * b;", "profiles[0] = (a + c) + b;"),
    ("cpu/narrow.h", "profiles[3] = a;", "profiles[3] = c;"),
    ("cpu/narrow.h", "load(grad + 1 - bit / PROFILES)", "load(grad - 1 + bit / PROFILES)"),
    (
        "cpu/filters.h",
        "weights[PROFILES] = {(a + c) / 2, (c - a) / 2, b - a - c, 0.f, 0.f}",
        "weights[PROFILES] = {(a + c) / 2, (c - a) / 2, b, 0.f, 0.f}",
    ),
    ("cpu/packer.h", "none = s.beyond(column, s.W)", "none = false"),
    ("cpu/packer.h", "for (int64_t i = end - left; i < width + s.reach; ++i) copy_column(from, to, i, key);", ""),
    ("cpu/packer.h", "for (int64_t i = end; i < width + s.reach; ++i) beside(i);", ""),
    (
        "cpu/packer.h",
        "if (s.state_noise > 0) add_noise(to, philox_row_key(",
        "if (false) add_noise(to, philox_row_key(",
    ),
    ("cpu/packer.h", "store(y + k * S + p, load(y + k * S + done + p))", "store(y + k * S + p, load(y + k * S + p))"),
    ("cpu/forward.h", "packer.y + packer.done + p", "packer.y + p"),
    ("cpu/network.h", "relu(a[r][v])", "a[r][v]"),
    ("cpu/network.h", "relu_gate(load(hidden + (first + r) * CHUNK + v * VL), a[r][v])", "a[r][v]"),
    ("cpu/network.h", "bias ? splat(bias[first + r]) : splat(0.f)", "splat(0.f)"),
    ("cpu/simd.h", "return v < 0 ? vf{} : v;", "return v > 0 ? v : vf{};"),
    ("cpu/simd.h", "v += load_some(p + i, n - i);", "v += load(p + i);"),
    ("cpu/narrow.h", "rows[0] = smooth - slope + above", "rows[0] = smooth + above"),
    ("cpu/narrow.h", "rows[2] = smooth + slope + below", "rows[2] = smooth + slope"),
    (
        "cpu/network.h",
        "dense_pass<Then::nothing, true>(w, pass(0), bias,",
        "dense_pass<Then::nothing, true>(w, pass(0), nullptr,",
    ),
    ("cpu/backward.h", "take(s.circular ? end - 1 : nullptr)", "take(nullptr)"),
    ("cpu/backward.h", "block + 1 : s.circular ? begin : nullptr", "block + 1 : nullptr"),
    ("cpu/backward.h", "s.circular ? s.W % VL == 0 && s.H >= 3", "s.circular ? s.H >= 3"),
    ("cpu/narrow.h", "shifted<1>(near[1], near[2]), near[1],", "near[1], near[1],"),
    ("cpu/backward.h", "begin_rows(r0, r0 + reach), begin_rows(r1 - reach, r1);", "begin_rows(r0, r0 + reach);"),
    ("cpu/backward.h", "(c % 2 * (s.F + s.L + 1) + f)", "f"),
    ("cpu/backward.h", "std::fill_n(static_cast<float*>(*weight[i]), weight_size(layer), 0.f);", ""),
    ("cpu/forward.h", "if (packer.waiting()) run(packer.waiting());\n    flush();", "flush();"),
    ("cpu/forward.h", "ends[slot(written)] <= computed", "true"),
    ("cpu/forward.h", "blocks[slot(written) * blocks_of_row].from;\n", "computed;\n"),
    ("cpu/chain.h", "around(s, own, (steps - 1 - i) * reach)", "around(s, own, 0)"),
    ("cpu/chain.h", "turn_to(first_step + uint32_t(i))", "turn_to(first_step)"),
    ("cpu/forward.h", "for (int64_t r = row + s.reach; r > at; --r) packer.clear_row(r);", ""),
    ("cpu/chain.h", "(i ? (steps - i) * 2 * reach : r1 - r0)", "(i ? 0 : r1 - r0)"),
    ("cpu/chain.h", "(steps - i) * 2 * reach", "(i + 1 < steps ? 2 * reach : 0)"),
    ("cpu/chain.h", "(steps - i) * 2 * reach", "2 * reach"),
    ("cpu/chain.h", "turn = 1 - turn;", "turn = 0;"),
    ("cpu/chain.h", "area{r0 + i * reach, r1 + i * reach, 0, s.W}", "area{r0, r1, 0, s.W}"),
    ("cpu/forward.h", "kept + (written - area.r0) * size", "kept"),
    ("cpu/advance.h", "int64_t(groups[group].to.size()) * s.reach) % s.H", "0) % s.H"),
    ("cpu/advance.h", "sample * in_sample + (i + 1) % in_sample", "(i + 1) % shares"),
    ("cpu/forward.h", "if (s.beyond(r, s.H)) packer.clear_row(r);", ";"),
    ("cpu/forward.h", "+ (own.c0 - area.c0)", ""),
    ("cpu/step.h", "at = at >= uint32_t(s.W) ? at - uint32_t(s.W) : at;", ""),
    ("cpu/step.h", "limit[(column + i) % s.W]", "limit[column]"),
    ("cpu/backward.h", "const bool lost = s.beyond(at, s.H)", "const bool lost = false"),
    ("cpu/backward.h", "for (int64_t i = 0; i < s.W; ++i) to[i] += from[i];", ""),
    ("cpu/backward.h", "if (total.network == network) return", "return"),
    # The step at hand, which masks, noise, weights and rates by step depend on, is not advanced.
    ("cpu/rollout.cpp", "work[i]->turn_to(step);", ""),
    ("cpu/rollout.cpp", "void turn_to(int64_t step) { s.step = uint32_t(step); }", "void turn_to(int64_t) {}"),
    ("cpu/rollout.cpp", "s.step = uint32_t(first_step + n - 1);", "s.step = uint32_t(first_step);"),
    ("cpu/rollout.cpp", "s.step = uint32_t(first_step + count - 1);", "s.step = uint32_t(first_step);"),
    ("cpu/forward.h", "void turn_to(uint32_t step) { s.step = step; }", "void turn_to(uint32_t) {}"),
    ("cpu/chain.h", "++i) stages[i]->turn_to(first_step + uint32_t(i));", "++i) stages[i]->turn_to(first_step);"),
    ("cpu/advance.h", "          own.step = group.first;", "          own.step = groups[0].first;"),
    ("cpu/advance.h", "if (next) own.step = next->first;", ""),
    ("cpu/advance.h", "(parts - 1 - i) % 2", "i % 2"),
    ("cpu/forward.h", "u + (c - s.frozen) * capacity - first", "u + c * capacity - first"),
    ("cpu/advance.h", "if (from == state) parts += parts % 2;", ""),
    # Frames.
    ("cpu/packer.h", "(column + lane) % s.W", "column"),
    ("cpu/packer.h", "store(x, a * right - b * down)", "store(x, a * right + b * down)"),
    ("cpu/packer.h", "for (int p = first; p < count; p += VL)", "for (int p = 0; p < count; p += VL)"),
    ("cpu/step.h", "(frame_samples > 1 ? sample : 0)", "0"),
    ("cpu/backward.h", "store(grad + along_y, a * down - b * right)", "store(grad + along_y, a * down + b * right)"),
    ("cpu/backward.h", "of_scale += 2.f * g", "of_scale += g"),
    ("cpu/backward.h", "((sample * 2 + i) * s.H + row)", "(i * s.H + row)"),
    ("cpu/backward.h", "store(grad + place(f, c), square * g)", "store(grad + place(f, c), g)"),
    # Channels that no unit looks at.
    ("cpu/backward.h", "(in_order ? k : columns[k])", "k"),
    ("cpu/backward.h", "if (c > 0 && s.sees(c - 1)) spread_channel", "if (c > 0) spread_channel"),
    ("cpu/network.h", "Rows{maps * all + c - before, C - all}", "Rows{all + c - before, C - all}"),
    ("cpu/network.h", "n < networks && left", "n < 1 && left"),
    (
        "cpu/rollout.cpp",
        "if (seen[k % seen.size()] != 0)",
        "if (k < int64_t(seen.size()) || seen[k % seen.size()] != 0)",
    ),
    # Larger filters, local maxima, the alive mask, one rule per sample.
    ("cpu/backward.h", "std::memset(dense_y, 0, 2 * (s.F + s.L + 1) * row_size * sizeof(float));", ""),
    ("cpu/filters.h", "same = same && std::abs(column[i] - weight * known[i]) <= limit;", "same = same || i;"),
    (
        "cpu/filters.h",
        "profile.odd[j] = (column[reach + j] - column[reach - j]) / 2",
        "profile.odd[j] = column[reach + j]",
    ),
    ("cpu/packer.h", "around + s.reach - s.filters.reach", "around"),
    ("cpu/packer.h", "most + load(outside + VL + i)", "most"),
    ("cpu/packer.h", "int(std::max<int64_t>(-half, -here))", "-half"),
    ("cpu/backward.h", "owed[REACH - j][n] = even[j][n] - odd[j][n]", "owed[REACH - j][n] = even[j][n] + odd[j][n]"),
    ("cpu/backward.h", "use.weight * load(from + n * VL)", "use.weight * load(from)"),
    ("cpu/packer.h", "count -= done, done = 0;", "count -= done;"),
    ("cpu/backward.h", "const vi more = value > most;", "const vi more = value >= most;"),
    ("cpu/backward.h", "rows[i].row[c * rows[i].plane + s.source(column, s.W)] += owes[i][0][lane]", ""),
    ("cpu/backward.h", "if (s.rules > 1) partial.fold(sample);", ""),
    ("cpu/alive.h", "undecided[i] = was[i] & ~certain[i];", ";"),
    ("cpu/alive.h", "living[i] &= was[i];", ";"),
    ("cpu/alive.h", "for (int64_t c = s.frozen; c < s.C; ++c) {", "for (int64_t c = 0; c < s.C; ++c) {"),
    ("cpu/backward.h", "row = r0; alive && row < r1", "row = r1; alive && row < r1"),
    ("cpu/bits.h", "out[0] |= in[end / 64] >> end % 64 & 1;", ""),
    ("cpu/bits.h", "const uint64_t before = i ? in[i - 1] >> 63 : 0", "const uint64_t before = 0"),
]


def caught_by(file: str, old: str, new: str, tests: list[str]) -> str | None:
    """The first test that fails with the mistake in kernels/FILE, or "a crash"; None where all pass."""
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        for part in ("nca_fast", "kernels", "tests", "bench"):
            shutil.copytree(root / part, Path(folder) / part, ignore=shutil.ignore_patterns("results", "zoo"))
        shutil.copy(root / "pyproject.toml", folder)
        source = Path(folder) / "kernels" / file
        text = source.read_text()
        if text.count(old) < 1:
            raise ValueError(f"{file} must hold {old!r}, but does not: bring the list of mutants up to date.")
        source.write_text(text.replace(old, new, 1))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = (
            os.environ | {"PYTHONPATH": folder} | ({} if file.startswith("../") else {"XDG_CACHE_HOME": folder})
        )
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if "did not compile" in result.stdout or result.returncode not in (0, 1, -6, -11):  # a crash is caught too
            raise RuntimeError(f"mutant {new!r} did not run: {result.stdout[-800:]}")
        if result.returncode == 0:
            return None
        failed = [line[7:].split(" - ")[0] for line in result.stdout.splitlines() if line.startswith("FAILED ")]
        return failed[0] if failed else "a crash"


def hunt(mutants: list[tuple[str, str, str]], tests: list[str], result_file: str, only_missed: bool) -> None:
    """Plants each mistake, writes after each which were caught and at which commit; exits with an error if one was not.

    With `only_missed` an earlier run that was ended goes on where it stopped.
    """
    file, earlier = RESULTS / result_file, {}
    if only_missed:
        rows = json.loads(file.read_text())["mutants"] if file.exists() else []
        earlier = {(row["file"], row["old"], row["new"]): row for row in rows if row["caught"]}
    if caught_by(mutants[0][0], "\n", "\n", tests):
        sys.exit("the tests fail without any mistake planted")
    facts, found = header(), {mutant: earlier[mutant] for mutant in mutants if mutant in earlier}
    for mutant in mutants:
        if mutant in found:
            continue
        by = caught_by(*mutant, tests)
        found[mutant] = dict(zip(("file", "old", "new"), mutant, strict=True)) | {
            "caught": by is not None,
            "by": by,
            "commit": facts["commit"],
        }
        print(f"{'caught' if by else 'passed'}  {mutant[0]}: {mutant[1]!r} -> {mutant[2]!r}", flush=True)
        rows = [found[mutant] for mutant in mutants if mutant in found]
        write_result(file, {"header": facts, "unchanged_passes": True, "mutants": rows})
    missed = [row for row in found.values() if not row["caught"]]
    sys.exit(f"{len(missed)} mutants were not caught" if missed else 0)


def parser(description: str) -> argparse.ArgumentParser:
    """The options of a hunt."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missed", action="store_true", help="only those that the result file has not as caught")
    return parser


if __name__ == "__main__":
    options = parser(__doc__).parse_args()
    hunt(
        MUTANTS,
        ["tests/test_chain.py", "tests/test_rollout.py", "tests/test_frames.py", "tests/test_rollout_cpu.py"],
        "mutants_cpu.json",
        options.missed,
    )
