"""What the compilers make of the Triton kernels, without a GPU: registers, spills, shared memory, instructions.

    python -m bench.triton_table                    every variant for every target, about six minutes; writes
                                                    bench/results/triton_table.json
    python -m bench.triton_table sm_90 texture      prints the variants of one target whose names hold a word

Instructions are what one warp issues for its share, per cell, in a program of 32 rows: everything outside loops, and 32
rows of the loop. They say nothing about time, but a spill or a growth shows here first.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from bench.harness import RESULTS, header, write_result
from nca_fast import Rule, ops
from nca_fast.presets import PRESETS

TABLE = RESULTS / "triton_table.json"
ROWS = 32

_GROWING = Rule(
    channels=16, hidden=(128,), filters=("identity", "sobel_x/8", "sobel_y/8"), padding="zero", output_bias=True
)
_STYLE = Rule(channels=18, hidden=(90, 90), frozen=3, fire_rate=1.0, output_bias=True)
_TWO_FILTERS = PRESETS["style-two-filters"]["rule"]

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
    "growing fp16": (_GROWING, "fp16", "fp32"),
    "style fp16": (_STYLE, "fp16", "fp32"),
    "style-two-filters fp16": (_TWO_FILTERS, "fp16", "fp32"),
}
TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}


def compiled(name: str, direction: str, target: str) -> list:
    """A variant, compiled ahead of time: (Triton's kernel, columns, rows and columns computed twice, rows per turn,
    warps) of every launch.

    Args:
        name: One of VARIANTS.
        direction: "forward" or "backward".
        target: One of TARGETS.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("kernels must be compiled without the interpreter, but TRITON_INTERPRET=1: unset it.")
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # the default, which triton 3.9 warns will change
    import triton
    from nca_fast.kernels.packing_triton import product
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from nca_fast.kernels import rollout_triton as kernels

    rule, precision, state = VARIANTS[name]
    params = torch.zeros(sum(out * (inputs + has_bias) for out, inputs, has_bias in rule.layers))
    prepared = kernels.prepare(params, ops._about(rule.to_json()), precision)
    weights, per_cell = prepared.weights, name.endswith("map")
    product_of = {"PRODUCT": product(precision, hip=target.startswith("gfx"))}
    if direction == "forward":
        launches = [(kernels.step_fwd, kernels.WARPS, weights.forward_constants(per_cell))]
    else:
        constants = weights.backward_constants(per_cell)
        passes = [p._asdict() for p in kernels.passes(weights, per_cell)]
        launches = [(kernels.step_bwd, p.pop("warps"), constants | p) for p in passes]
    operand = {"fp16": "*fp16", "bf16": "*bf16"}.get(precision, "*fp32")
    types = dict.fromkeys(("x", "out", "grad", "grad_x"), "*" + state) | {"keys": "*i32", "fire": "*i64"}
    types |= {"weights": operand, "biases": "*fp32", "partial": "*fp32", "scale": "*fp32"}
    columns, results = kernels.COLUMNS[precision], []
    for kernel, warps, constants in launches:
        constants |= product_of | {"BW": columns}
        names = kernel.arg_names
        signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
        aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")}
        source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=aligned)
        options = {"num_warps": warps, "num_stages": 1}
        kernel = triton.compile(source, target=GPUTarget(*TARGETS[target]), options=options)
        halo = 2 * constants.get("GRAD_X", False)
        results.append((kernel, columns - halo, halo, constants.get("UNROLL", 1), warps))
    return results


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
    launches = [_launch(*launch, target) for launch in compiled(name, direction, target)]
    together = {"launches": len(launches)}
    for quantity in launches[0]:
        of = [launch[quantity] for launch in launches]
        together[quantity] = max(of) if quantity in ("registers", "shared_bytes") else round(sum(of), 2)
    return {"variant": name, "direction": direction, "target": target} | together


def _launch(kernel, cells, halo, unroll, warps, target):
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
        "loop_matrix_instructions": sum(bool(re.match(matrix, i)) for i in body),
        "warp_instructions_per_cell": (len(outside) + (ROWS + halo) / unroll * len(body)) * warps / (ROWS * cells),
    }


def main(arguments: list[str]) -> None:
    target, word = (*arguments, "", "")[:2]
    rows = []
    for t in [target] if target else TARGETS:
        for name in VARIANTS:
            for direction in ("forward", "backward"):
                if word in name:
                    rows.append(row(name, direction, t))
                    print(*(f"{v:>7}" if n > 2 else f"{v:<26}" for n, v in enumerate(rows[-1].values())), flush=True)
    if not arguments:
        write_result(TABLE, {"header": header(), "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
