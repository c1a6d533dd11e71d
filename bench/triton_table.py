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
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from bench.harness import RESULTS, header, write_result
from bench.triton_code import of_launch
from bench.triton_variants import POINTERS, TARGETS, Launch, kinds_of, launches

TABLE = RESULTS / "triton_table.json"


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
