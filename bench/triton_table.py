"""What the compilers make of the Triton kernels, without a GPU: registers, spills, shared memory, instructions.

    python -m bench.triton_table                    every variant for every target, half an hour; writes
                                                    bench/results/triton_table.json; rows stay whose kernels and
                                                    launches are as they were, by their text (digest) or by what
                                                    compilers are given of it (code, see bench/triton_code.py)
    python -m bench.triton_table sm_90 texture      prints the variants of one target whose names hold a word

Instructions are what one warp issues for its share, per cell: everything outside loops, and all turns of the loop: 32
rows or blocks of cells, or the chunks of a layer; where a variant names the size of a canvas, the rows of a program
there. Those of several launches are added up. They say nothing about time, but a spill or a growth shows here first.
"""

import ast
import contextlib
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from bench.harness import RESULTS, header, write_result
from bench.triton_code import of_launch
from nca_fast import NCA, Rule
from nca_fast.fire_masks import threshold
from nca_fast.folding import plain_rule
from nca_fast.presets import PRESETS

TABLE = RESULTS / "triton_table.json"
ROWS = 32

_GROWING = PRESETS["growing"]["rule"]
# As much as the kernels take.
_SEVEN = ("identity", "sobel_x", "sobel_y", "laplacian", "sobel_x9", "sobel_y9", "sobel_x5")
_WIDEST = Rule(channels=32, hidden=(256,), filters=_SEVEN, maximum_window=9, output_bias=True)
_DEEPEST = Rule(channels=64, hidden=(128, 128), filters=_SEVEN[:3], maximum_window=3, alive_channel=3, output_bias=True)
_STYLE = Rule(channels=18, hidden=(90, 90), frozen=3, fire_rate=1.0, output_bias=True)

# name: (rule, precision, state); each one forward and backward
VARIANTS = {
    "texture fp16": (Rule(), "fp16", "fp32"),
    "texture bf16": (Rule(), "bf16", "fp32"),
    "texture bf16, state bf16": (Rule(), "bf16", "bf16"),
    "texture fp16, state fp16": (Rule(), "fp16", "fp16"),
    "texture fp16, zero padding": (Rule(padding="zero"), "fp16", "fp32"),
    "texture fp16, fire rate map": (Rule(), "fp16", "fp32"),
    "texture tf32": (Rule(), "tf32", "fp32"),
    "texture fp32": (Rule(), "fp32", "fp32"),
    "clip fp16": (Rule(hidden=(128,)), "fp16", "fp32"),
    "16 channels fp16": (Rule(channels=16), "fp16", "fp32"),
    "growing without its mask fp16": (replace(_GROWING, alive_channel=None), "fp16", "fp32"),
    "growing fp16": (_GROWING, "fp16", "fp32"),
    "style fp16": (_STYLE, "fp16", "fp32"),
    "style-two-filters fp16": (PRESETS["style-two-filters"]["rule"], "fp16", "fp32"),
    "vae-mnist fp16": (PRESETS["vae-mnist"]["rule"], "fp16", "fp32"),
    "vae-cifar fp16": (PRESETS["vae-cifar"]["rule"], "fp16", "fp32"),
    "vae-face fp16": (PRESETS["vae-face"]["rule"], "fp16", "fp32"),
    "vae-face bf16, state bf16": (PRESETS["vae-face"]["rule"], "bf16", "bf16"),
    "vae-face tf32": (PRESETS["vae-face"]["rule"], "tf32", "fp32"),
    "vae-face fp32": (PRESETS["vae-face"]["rule"], "fp32", "fp32"),
    "the widest fp16": (_WIDEST, "fp16", "fp32"),
    "the widest fp32": (_WIDEST, "fp32", "fp32"),
    "the deepest fp16": (_DEEPEST, "fp16", "fp32"),
}
# Backward steps of canvases on which programs are cut in other ways than at the edge of a large one.
SHAPES = {
    "texture fp16, 4 x 128 x 128": (4, 128, 128),
    "texture fp16, 16 x 64 x 64": (16, 64, 64),
    "texture fp16, 2048 x 2048": (1, 2048, 2048),
}
VARIANTS |= {name: (Rule(), "fp16", "fp32") for name in SHAPES}
# Published automata, each with something that those above have not; on one target.
PUBLISHED = ("engram", "dynca", "game-nca", "isotropic", "med-nca", "self-classifying-mnist", "goal-guided")


def _fixed(name):
    """The rule of a preset, its learned filters written as shifts, for these kernels have none."""
    return plain_rule(NCA.preset(name).rule)


VARIANTS |= {f"{name} fp16": (_fixed(name), "fp16", "fp32") for name in PUBLISHED}
VARIANTS["studying growth fp16"] = (replace(_GROWING, fire_rate=0.8, fire_shared=()), "fp16", "fp32")
VARIANTS["game-nca fp32"] = (PRESETS["game-nca"]["rule"], "fp32", "fp32")
_ONE_TARGET = {f"{name} fp16" for name in PUBLISHED} | {"studying growth fp16", "game-nca fp32"}
STATES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
POINTERS = {dtype: name for name, dtype in STATES.items()} | {torch.int8: "i8", torch.int32: "i32", torch.int64: "i64"}
TARGETS = {
    "sm_90": ("cuda", 90, 32),
    "sm_80": ("cuda", 80, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
    "sm_86": ("cuda", 86, 32),
    "sm_89": ("cuda", 89, 32),
    "sm_120": ("cuda", 120, 32),
}
# Of the GPUs for which canvases are cut: H200, A100, B200, MI300X, RTX 3090, 4090 and 5090.
MULTIPROCESSORS = dict(zip(TARGETS, (132, 108, 148, 304, 82, 128, 170), strict=True))
# Of consumer cards the named automata in the precision that is the default there.
_CONSUMER = ("sm_86", "sm_89", "sm_120")
_PRESETS = ("texture", "clip", "growing", "style", "style-two-filters", "vae-mnist", "vae-cifar", "vae-face")


def variants_of(target: str) -> list[str]:
    """Names of the variants that are compiled for a target."""
    if target in _CONSUMER:
        return [*(f"{name} fp16" for name in _PRESETS), *SHAPES]
    return [name for name in VARIANTS if target == "sm_90" or name not in _ONE_TARGET]


def kinds_of(target: str) -> list[tuple[str, str]]:
    """Names and directions of the rows of a target."""
    return [(n, d) for n in variants_of(target) for d in ("forward", "backward") if d == "backward" or n not in SHAPES]


class Launch(NamedTuple):
    """One launch of a kernel: what it is compiled for, and the share of a program."""

    kernel: object
    arguments: dict
    constants: dict
    warps: int
    stages: int
    fused: bool | None  # whether multiplications and additions are to be fused; None: as Triton likes
    canvas: bool  # whether the variant names its size

    @property
    def rows(self) -> int:
        """Of a program of the single pass."""
        return self.arguments["R"] * self.arguments["bands"] if self.canvas else ROWS

    @property
    def turns(self) -> float:
        """Of the loop, in a program of ROWS rows, or blocks of cells, or with all chunks of a layer."""
        c = self.constants
        if "BW" in c:
            strips = 1 + self.rows // self.arguments["H"] if c.get("SEVERAL") else 1
            return (self.rows + 2 * strips * c.get("GRAD_X", False)) / c.get("UNROLL", 1)
        if "REACH" in c:
            return ROWS + 2 * c["REACH"]
        return ROWS if "BO" in c else c["UNITS"] / c["BN"] if "BN" in c else 0

    @property
    def cells(self) -> float:
        """Of a program; tiles of a layer's weights share theirs."""
        c = self.constants
        if "BW" in c:
            whole = c["BW"] - 2 * (c.get("GRAD_X", False) and not c["RING"])
            return self.rows * (self.arguments["W"] / self.arguments["columns"] if self.canvas else whole)
        if "BO" in c:
            return ROWS * c["BM"] / (math.ceil(c["OUT"] / c["BO"]) * math.ceil(c["IN"] / c["BI"]))
        if "REACH" in c:  # of a group of channels
            return ROWS * c["BM"] * c["GROUP"] / c["C"]
        return c["BM"]


class _Recorder:
    """Stands for a kernel and keeps what it is launched with."""

    def __init__(self, kernel, launches, canvas):
        self.kernel, self.launches, self.canvas = kernel, launches, canvas

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, num_warps=4, num_stages=3, enable_fp_fusion=None, **constants):
        named = dict(zip(self.kernel.arg_names, arguments, strict=False))
        self.launches.append(
            Launch(self.kernel, named, constants, num_warps, num_stages, enable_fp_fusion, self.canvas)
        )


def launches(name: str, direction: str, target: str) -> list[Launch]:
    """What the host launches for one step of a variant.

    Args:
        name: One of VARIANTS.
        direction: "forward" or "backward".
        target: One of TARGETS.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("kernels must be compiled without the interpreter, but TRITON_INTERPRET=1: unset it.")
    from nca_fast.kernels.triton import alive, noise, rollout, steps
    from nca_fast.kernels.triton.fire import Step
    from nca_fast.kernels.triton.single_pass import plan
    from nca_fast.kernels.triton.single_pass import steps as single_pass
    from nca_fast.kernels.triton.through_memory import perception
    from nca_fast.kernels.triton.through_memory import steps as through_memory

    found = []
    rule, precision, state = VARIANTS[name]
    params = torch.zeros(sum(out * (inputs + has_bias) for out, inputs, has_bias in rule.layers))
    fire = threshold(torch.zeros(2, 2) if name.endswith("map") else rule.fire_rate)
    x = rollout.to_layout(torch.zeros(1, rule.channels, 2, 130, dtype=STATES[state]))
    if name in SHAPES:
        x = x[:1, :1, :1].expand(*SHAPES[name], -1)  # takes no memory
    with contextlib.ExitStack() as stack:
        kind, number, _ = TARGETS[target]
        capability = (number // 10, number % 10) if kind == "cuda" else None
        hip, count = None if capability else "6", MULTIPROCESSORS[target]
        changes = {"places": lambda device, precision, p: count * plan.resident(p, hip)}
        stack.enter_context(mock.patch.multiple(plan, capability=lambda device: capability, **changes))
        for module, kernels in (
            (single_pass, ("step_fwd", "step_bwd")),
            (perception, ("perception_fwd", "perception_bwd", "add_ring")),
            (through_memory, ("network_fwd", "network_bwd", "network_weights")),
            (alive, ("apply_alive_mask", "write_living", "read_living")),
            (noise, ("add_state_noise",)),
        ):
            recorders = {k: _Recorder(getattr(module, k), found, name in SHAPES) for k in kernels}
            stack.enter_context(mock.patch.multiple(module, **recorders))
        noisy = rule.state_noise or rule.update_noise
        weights = rollout.pack_weights(params, rule.kernel_rule, precision, torch.ones(1) if noisy else None)
        keys = torch.empty(*x.shape[:2], 4 if noisy else 2, dtype=torch.int32)
        out, step = torch.empty_like(x), Step(keys, fire, 0)
        if direction == "forward":
            steps.forward_step(x, out, weights, step)
        else:
            buffer, scale = steps.gradient_buffer(weights, x), torch.ones(())
            steps.backward_step(x, x, out, buffer, weights, scale, step, x)
    return found


def compiled(launch: Launch, target: str):
    """Triton's kernel of a launch, compiled ahead of time for one of TARGETS."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, signature, constants, attributes, options = _to_compile(launch, target)
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget(*TARGETS[target]), options=options)


def _to_compile(launch, target):
    """Lists what Triton's compiler is given of a launch: kernel, signature, constants, attributes, options."""
    from nca_fast.kernels.triton.products import product

    constants, names = dict(launch.constants), launch.kernel.arg_names
    constants |= {n: None for n, v in launch.arguments.items() if v is None}
    if "PRODUCT" in constants:
        precision = next(p for p in ("fp32", "fp16", "bf16") if p == str(constants["DOT"]))
        precision = "tf32" if constants["PRODUCT"] == "tf32" else precision
        constants["PRODUCT"] = product(precision, hip=target.startswith("gfx"))
    pointers = {n: "*" + POINTERS[v.dtype] for n, v in launch.arguments.items() if isinstance(v, torch.Tensor)}
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
    # As at a launch: numbers too are known to be multiples of 16, unless they differ from launch to launch.
    multiples = {n for n, v in launch.arguments.items() if isinstance(v, int) and v % 16 == 0}
    multiples -= {p.name for p in launch.kernel.params if p.do_not_specialize}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n in pointers or n in multiples}
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    if launch.fused is not None:
        options["enable_fp_fusion"] = launch.fused
    return launch.kernel, signature, constants, aligned, options


def row_code(name: str, direction: str, target: str) -> str:
    """Changes with what Triton's compilers are given: where it does not, a row stays as it is."""
    from triton.backends.compiler import GPUTarget

    parts = []
    for launch in launches(name, direction, target):
        given = _to_compile(launch, target)
        parts += [repr((target, given[-1], launch.turns, launch.cells)), of_launch(*given, GPUTarget(*TARGETS[target]))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@lru_cache
def _sources(kernel):
    """Program texts, without comments, of a kernel and of all functions that it calls."""
    from triton.runtime.jit import JITFunction

    found, waiting = {}, [kernel]
    while waiting:
        function = waiting.pop()
        if function not in found:
            tree = _without_docstrings(ast.parse(function.src))
            found[function] = ast.unparse(tree)
            named = [function.fn.__globals__.get(n.id) for n in ast.walk(tree) if isinstance(n, ast.Name)]
            waiting += [f for f in named if isinstance(f, JITFunction)]
    return sorted(found.values())


def row_digest(name: str, direction: str, target: str) -> str:
    """Changes with whatever a row depends on: the kernels, but for their comments, and what the host launches."""
    parts = []
    for launch in launches(name, direction, target):
        types = {n: str(v.dtype) if isinstance(v, torch.Tensor) else v for n, v in launch.arguments.items()}
        numbers = launch.warps, launch.stages, launch.turns, launch.cells
        parts += [*_sources(launch.kernel), repr((target, types, sorted(launch.constants.items()), numbers))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def digest() -> str:
    """Changes with whatever the table depends on."""
    rows = [row_digest(name, direction, target) for target in TARGETS for name, direction in kinds_of(target)]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def _without_docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _loops(lines, label, branch):
    """(first, last) instruction of every innermost loop, and all instructions: operations in order.

    Args:
        lines: Of the disassembly.
        label: Expression that finds the name of a label.
        branch: Expression that finds the operation of an instruction and, in a branch, its label.
    """
    instructions, labels, loops = [], {}, []
    for line in lines:
        if found := re.match(label, line):
            labels[found[1]] = len(instructions)
        elif found := re.match(branch, line):
            if found[2] in labels:
                loops.append((labels[found[2]], len(instructions)))
            instructions.append(found[1])
    loops = [(a, b) for a, b in loops if b > a]
    inner = [(a, b) for a, b in loops if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in loops)]
    return inner, instructions


def _nvidia(kernel):
    import triton

    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(kernel.asm["cubin"])
        code, usage = (
            subprocess.run([str(tools / tool), option, str(binary)], capture_output=True, text=True, check=True).stdout
            for tool, option in (("nvdisasm", "-c"), ("cuobjdump", "-res-usage"))
        )
    operation = r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(?:.*?`\(([^)]+)\))?"
    loops, instructions = _loops(code.splitlines(), r"(\.L_\w+):", operation)
    return loops, instructions, int(re.search(r"REG:(\d+)", usage)[1]), r"LDL|STL", r"HGMMA|HMMA|UTC\w*MMA"


def _amd(kernel):
    code = kernel.asm["amdgcn"]
    operation = r"\t((?:s|v|ds|global|buffer|scratch|flat)_\w+)(?:\s+(\.LBB\w+))?"
    loops, instructions = _loops(code.splitlines(), r"(\.LBB\w+):", operation)
    return loops, instructions, int(re.search(r"\.vgpr_count:\s+(\d+)", code)[1]), r"scratch_", r"v_mfma"


def row(name: str, direction: str, target: str) -> dict:
    """A row of the table, see the top of this file; of several launches the largest of each, instructions added up."""
    rows = [_figures(launch, target) for launch in launches(name, direction, target)]
    together = {"launches": len(rows)}
    for quantity in rows[0]:
        of = [figures[quantity] for figures in rows]
        together[quantity] = max(of) if quantity in ("registers", "shared_bytes") else round(sum(of), 2)
    return {"variant": name, "direction": direction, "target": target} | together


def _figures(launch, target):
    kernel = compiled(launch, target)
    loops, instructions, registers, spill, matrix = (_amd if target.startswith("gfx") else _nvidia)(kernel)
    instructions = ["NOP" if i.startswith(("NOP", "s_nop")) else i for i in instructions]
    begin, end = max(loops, key=lambda loop: loop[1] - loop[0], default=(0, -1))
    body = [i for i in instructions[begin : end + 1] if i != "NOP"]
    outside = [
        i for n, i in enumerate(instructions) if i != "NOP" and not any(begin <= n <= end for begin, end in loops)
    ]
    return {
        "registers": registers,
        "spills": sum(bool(re.match(spill, i)) for i in instructions),
        "shared_bytes": kernel.metadata.shared,
        "instructions": sum(i != "NOP" for i in instructions),
        "loop_instructions": len(body),
        "matrix_instructions": sum(bool(re.match(matrix, i)) for i in instructions),
        "warp_instructions_per_cell": (len(outside) + launch.turns * len(body)) * launch.warps / launch.cells,
    }


def main(arguments: list[str]) -> None:
    target, word = (*arguments, "", "")[:2]
    earlier, facts = {}, header() | {"digest": digest()}
    if not arguments and TABLE.exists():
        table = json.loads(TABLE.read_text())
        if table["header"]["triton"] == facts["triton"]:
            earlier = {(r["variant"], r["direction"], r["target"]): r for r in table["rows"]}
    wanted = [(name, d, t) for t in ([target] if target else TARGETS) for name, d in kinds_of(t) if word in name]
    rows = []
    for key in wanted:
        of_now, kept = row_digest(*key), earlier.pop(key, {})
        same = kept.get("digest") == of_now
        code = kept["code"] if same else row_code(*key)
        same = same or kept.get("code") == code
        rows.append((kept if same else row(*key)) | {"digest": of_now, "code": code})
        if not same:
            print(*(f"{v:>7}" if n > 2 else f"{v:<30}" for n, v in enumerate(rows[-1].values())), flush=True)
            if not arguments:  # with those that are not looked at yet, so that a run that is cut off goes on
                write_result(TABLE, {"header": facts, "rows": rows + list(earlier.values())})
    if not arguments:
        write_result(TABLE, {"header": facts, "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
