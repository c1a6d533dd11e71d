"""What Triton's front end makes of a kernel, so written that it is the same text where compilers are given the same.

Names, places in the program text and the order of instructions that hang on nothing but each other's results are left
out. So a table of what compilers make need not be made anew when a kernel learns something that its old constants leave
out.
"""

import hashlib
import re
from functools import cache

# Instructions without effects, whose place among others says nothing.
_PURE = re.compile(
    r"arith\.|math\.|tt\.(addptr|bitcast|broadcast|clampf|dot|elementwise_inline_asm|expand_dims|extern_elementwise|"
    r"fp_to_fp|gather|get_program_id|join|make_range|mulhiui|reshape|splat|split|trans|unsplat)\b"
)


def of_launch(kernel, signature, constants, attributes, options, target) -> str:
    """Writes the code of a launch.

    Args:
        kernel, signature, constants, attributes: As `triton.compiler.ASTSource` takes them.
        options: Of the compiler.
        target: A `triton.backends.compiler.GPUTarget`.
    """
    # The front end makes the same for all GPUs of a maker.
    same = repr((kernel.__name__, signature, sorted(constants.items()), sorted(attributes.items()), target.backend))
    return _written(_Once(same, (kernel, signature, constants, attributes, options, target)))


class _Once:
    """Arguments that are equal where their texts are."""

    def __init__(self, text, arguments):
        self.text, self.arguments = text, arguments

    def __eq__(self, other):
        return self.text == other.text

    def __hash__(self):
        return hash(self.text)


@cache
def _written(once):
    from triton._C.libtriton import ir
    from triton.compiler import ASTSource
    from triton.compiler.compiler import make_backend

    kernel, signature, constants, attributes, options, target = once.arguments
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    backend, context, stages = make_backend(target), ir.context(), {}
    options = backend.parse_options(dict(options))
    backend.add_stages(stages, options, source.language)
    ir.load_dialects(context)
    backend.load_dialects(context)
    implementation, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    module = source.make_ir(target, options, implementation, modules, context)
    return _without_order(str(stages["ttir"](module, {})))


def _without_order(text):
    """Replaces each value by a digest of how it is computed, and leaves out instructions without effects."""
    values, lines, count = {}, [], 0

    def known(name):
        nonlocal count
        if name[0] not in values:  # an argument, or something that changes from turn to turn
            count += 1
            values[name[0]] = f"%{count}"
        return values[name[0]]

    for line in text.splitlines():
        line = re.sub(r" loc\((?:[^()]|\([^()]*\))*\)", "", line).strip()
        if line.startswith("#loc"):
            continue
        results, instruction = [], line
        if found := re.match(r"((?:%[\w.$-]+(?::\d+)?(?:, )?)+) = (.*)", line):
            instruction = found[2]
            for name, number in re.findall(r"(%[\w.$-]+)(?::(\d+))?", found[1]):
                results += [f"{name}#{i}" for i in range(int(number))] if number else [name]
        instruction = re.sub(r"%[\w.$-]+(?:#\d+)?", known, instruction)
        if results and _PURE.match(instruction):
            digest = hashlib.sha256(instruction.encode()).hexdigest()[:16]
        else:
            count += 1
            digest = f"%{count}"
            lines.append(f"{digest} {instruction}")
        values.update((name, f"{digest}.{i}") for i, name in enumerate(results))
    return "\n".join(lines)
