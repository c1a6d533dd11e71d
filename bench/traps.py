"""What is easily done otherwise in a rule of published automata: 16 traps, mistakes in each, and who sees them.

python -m bench.traps            some minutes; writes bench/results/mutants_traps.json
python -m bench.traps --missed   only those that the result file has not as caught

Mistakes of the Triton kernels are in bench/mutants_triton.py, "fields".
"""

import json
import sys

from bench.harness import RESULTS, header, write_result
from bench.mutants import caught_by, parser

RESULT = RESULTS / "mutants_traps.json"

# What must be so, by number of the trap.
TRAPS = {
    1: "a linear or leaky unit has a gradient where its number is exactly 0",
    2: "a clamp passes gradient at its bounds",
    3: "who is alive is seen before the noise",
    4: "a clamp holds the alive threshold, so that it does not decide who lives",
    5: "frozen channels are exempt from the alive mask, noise and clamp",
    6: "of equal local maxima the first has the gradient",
    7: "with draws by channel a cell is skipped where no channel fires, not where the first does not",
    8: "a divisor is that of the result, not of what goes in",
    9: "entries by step count from the start of life",
    10: "a function in between runs again backward: it must be pure, and its inputs get gradients",
    11: "one mask of a batch is not one mask for each",
    12: "a map that mixes two automata mixes whole steps, the alive mask of each too",
    13: "the state is rounded after the step, never before the perception",
    14: "reflection needs more cells than it mirrors",
    15: "every field is part of a model's file",
    16: "states that are asked for serve as those that are kept for the gradient",
}

# (trap, file beside kernels/, what stands there, what is put there, module and name of the tests that are to see it)
MISTAKES = [
    (
        1,
        "cpu/activations.h",
        "vf s = one;\n    switch (function) {\n      case Function::identity: break;",
        "vf s = one;\n    switch (function) {\n      case Function::identity: s = at != 0 ? one : vf{}; break;",
        "fields_of_rules.a_linear_unit",
    ),
    (
        1,
        "cpu/activations.h",
        "case Function::leaky_relu: s = at > 0 ? one : splat(parameter)",
        "case Function::leaky_relu: s = at > 0 ? one : at < 0 ? splat(parameter) : vf{}",
        "fields_of_rules.a_linear_unit",
    ),
    (
        2,
        "cpu/backward.h",
        "g = v >= s.low ? v <= s.high ? g : zero : zero",
        "g = v > s.low ? v < s.high ? g : zero : zero",
        "fields_of_rules.a_clamp",
    ),
    (
        2,
        "cpu/backward.h",
        "g = v >= s.low ? v <= s.high ? g : vf{} : vf{}",
        "g = v > s.low ? v < s.high ? g : vf{} : vf{}",
        "fields_of_rules.a_clamp",
    ),
    (
        3,
        "cpu/alive.h",
        "lanes_above(load_some(plane + row * s.W + column, s.W - column), s",
        "lanes_above(load_some(plane + row * s.W + column, s.W - column) + (s.state_noise > 0 ? noise_of(s, "
        "philox_row_key(s, sample, row), sample, column, s.alive_channel, false) : vf{}), s",
        "fields_of_rules.who_is_alive",
    ),
    (3, "cpu/alive.h", "if (s.state_noise == 0) {", "if (true) {", "fields_of_rules.the_kernel"),
    (4, "../nca_fast/rule.py", "not least <= self.alive_threshold < most", "not least <= most", "rule.test"),
    (
        5,
        "cpu/packer.h",
        "for (int64_t c = s.frozen; c < s.C; ++c) {\n        float* to = row",
        "for (int64_t c = 0; c < s.C; ++c) {\n        float* to = row",
        "fields_of_rules.frozen",
    ),
    (5, "cpu/forward.h", "c >= s.frozen && s.clamps", "s.clamps", "fields_of_rules.frozen"),
    (
        5,
        "cpu/alive.h",
        "for (int64_t c = s.frozen; c < s.C; ++c) {",
        "for (int64_t c = 0; c < s.C; ++c) {",
        "rollout.larger_rules",
    ),
    (
        6,
        "cpu/backward.h",
        "const vi more = value > most;",
        "const vi more = value >= most;",
        "rollout.equal_cells_share_a_maximum_as_in_the_reference",
    ),
    (7, "cpu/step.h", "any |= bits;", "any |= c ? 0 : bits;", "fields_of_rules.masks"),
    (
        8,
        "../nca_fast/activations.py",
        "return t if self.divisor == 1 else t * (1 / self.divisor)",
        "return t",
        "fields_of_rules.a_divisor",
    ),
    (8, "cpu/activations.h", "return s * scale;", "return s;", "fields_of_rules.the_kernel"),
    (9, "cpu/step.h", "step % periods * rules", "0 * rules", "fields_of_rules.weights_by_step"),
    (9, "cpu/step.h", "step % fire_periods", "0", "fields_of_rules.rates_by_step"),
    (9, "../nca_fast/reference.py", "first = first_step + start", "first = start", "fields_of_rules.two_rollouts"),
    (
        9,
        "../nca_fast/between.py",
        "run.step(x, n), place.first_step + n",
        "run.step(x, n), n",
        "fields_of_rules.a_function_in_between_is_given",
    ),
    (
        10,
        "../nca_fast/between.py",
        "if every and n == first:",
        "if False:",
        "fields_of_rules.a_function_in_between_that_is_not_pure",
    ),
    (10, "../nca_fast/between.py", "total += more", "total = more", "fields_of_rules.states_on_the_way"),
    (11, "cpu/step.h", "c1 = shared & BATCH ? 0 :", "c1 = shared & 0 ? 0 :", "fields_of_rules.masks"),
    (
        12,
        "../tests/published_distill.py",
        "(living & nca_fast.alive(x, self.one_rule)[:, None])",
        "(nca_fast.alive(x, self.one_rule)[:, None])",
        "published.AdversarialGrowing",
    ),
    (
        13,
        "../nca_fast/reference.py",
        "x[:, rule.frozen :] + state_noise], dim=1)",
        "x[:, rule.frozen :] + state_noise], dim=1).half().to(x.dtype)",
        "fields_of_rules.numbers_that_a_rule_computes_in_float16",
    ),
    (
        13,
        "cpu/rollout.py",
        "before.copy_(states[n // every].copy_(after))",
        "before.copy_(after), states[n // every].copy_(after)",
        "rollout_cpu.test",
    ),
    (14, "../nca_fast/arguments.py", 'if rule.padding == "reflect" and', "if False and", "fields_of_rules.reflection"),
    (
        15,
        "../nca_fast/rule.py",
        "json.dumps(asdict(self))",
        'json.dumps({name: v for name, v in asdict(self).items() if name != "alive_padding"})',
        "rule.test",
    ),
    (
        16,
        "../nca_fast/running.py",
        "begin = x if i == 0 else returned[i - 1]",
        "begin = x",
        "fields_of_rules.states_on_the_way",
    ),
]


def tests(which: str) -> list[str]:
    """Arguments of pytest for "module.name"; tests of the Triton kernels have mutants of their own."""
    module, name = which.split(".")
    return [f"tests/test_{module}.py", "-k", f"{name} and not triton"]


def main() -> None:
    """Plants each mistake and writes which test saw it; exits with an error if none did."""
    options = parser(__doc__).parse_args()
    rows = json.loads(RESULT.read_text())["mutants"] if options.missed and RESULT.exists() else []
    kept = {(row["file"], row["old"], row["new"]): row for row in rows if row["caught"]}
    facts, found, sound = header(), [], set()
    for trap, *mutant, which in MISTAKES:
        row = kept.get(tuple(mutant))
        if row is None:
            if which not in sound and caught_by("../pyproject.toml", "\n", "\n", tests(which)):
                sys.exit(f"{which} fails without any mistake planted")
            sound.add(which)
            by = caught_by(*mutant, tests(which))
            row = dict(zip(("file", "old", "new"), mutant, strict=True)) | {"caught": by is not None, "by": by}
            row |= {"commit": facts["commit"]}
            print(f"{'caught' if by else 'passed'}  {trap}  {mutant[0]}: {mutant[1]!r} -> {mutant[2]!r}", flush=True)
        found.append({"trap": trap, "what": TRAPS[trap]} | row)
        write_result(RESULT, {"header": facts, "mutants": found})
    missed = [row for row in found if not row["caught"]]
    sys.exit(f"{len(missed)} mutants were not caught" if missed else 0)


if __name__ == "__main__":
    main()
