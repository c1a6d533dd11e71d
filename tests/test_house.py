"""The order of the rooms: imports go downwards only, and in no circle. Read from the sources, as DESIGN has them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From top to bottom; a room imports from rooms below it, and from its own.
ROOMS = (
    ("cli", "__main__"),
    ("commands",),
    ("export",),
    ("web",),
    ("systems",),
    ("training",),
    ("scoring",),
    ("rendering",),
    ("profiling",),
    ("canvas",),
    ("losses", "features"),
    ("media",),
    ("code_biases", "hexagons"),
    ("nca", "presets", "convert", "layouts", "conformance", "model_card", "textures", "surfaces"),
    ("pretrained",),
    ("zoo",),
    ("checkpoint",),
    ("ops", "operators", "between", "running", "backends", "devices", "compute"),
    ("states",),
    ("reference", "convolutions", "continued", "folding", "frames", "rule", "kernel_rule", "arguments"),
    ("derivatives",),
    ("filters", "activations", "fire_masks", "normals"),
    ("processes", "files", "fields", "control_groups", "waiting", "integers", "prompts", "sizes", "map_names", "once"),
    ("interrupts", "suggestions", "choices", "eager"),
    ("kernels",),
)
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def modules():
    """Every module of the package and the kernels: name -> file."""
    found = {}
    for folder, prefix in (("nca_fast", "nca_fast"), ("kernels", "nca_fast.kernels")):
        for path in (ROOT / folder).rglob("*.py"):
            parts = [prefix, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = path
    found.pop("nca_fast.kernels.py", None)
    return found


def imports(name, path, known):
    """(module, line) of all that a module imports of the package, within functions too."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names]
        else:
            continue
        for imported in names:
            if imported.split(".")[0] == "nca_fast":
                yield imported, node.lineno


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "nca_fast"


def test_every_module_lives_in_a_room():
    rooms = {room(name) for name in modules()} - {"nca_fast"}
    assert rooms <= set(LEVELS), f"give {rooms - set(LEVELS)} a place in the order"


def test_imports_go_downwards():
    known, wrong = modules(), []
    for name, path in known.items():
        if name == "nca_fast":  # the package itself offers what lies below
            continue
        for imported, line in imports(name, path, known):
            here, there = room(name), room(imported)
            if imported == "nca_fast" and here in ("cli", "checkpoint", "commands"):  # its version, which they name
                continue
            if here != there and (there == "nca_fast" or LEVELS[there] <= LEVELS[here]) and not _beside(here, there):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {imported}")
    assert not wrong, "\n".join(wrong)


def _beside(here, there):
    """Whether two single files share a row, in which they may lean on each other; circles are looked for below."""
    return LEVELS.get(here) == LEVELS.get(there) and (ROOT / "nca_fast" / f"{there}.py").exists()


def test_kernels_import_nothing_of_the_package():
    known = modules()
    for name, path in known.items():
        if room(name) == "kernels" and name != "nca_fast.kernels":
            for imported, line in imports(name, path, known):
                assert room(imported) == "kernels", f"{path}:{line}"
                assert "nca_fast." not in path.read_text().splitlines()[line - 1], f"{path}:{line} is not relative"


def test_no_circles():
    known = modules()
    graph = {
        name: {i for i, _ in imports(name, path, known) if i in known and i != name} for name, path in known.items()
    }
    graph.pop("nca_fast")
    done, path = set(), []

    def visit(name):
        if name in path:
            pytest.fail("a circle: " + " -> ".join([*path[path.index(name) :], name]))
        if name in done or name not in graph:
            return
        path.append(name)
        for other in sorted(graph[name]):
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)


def test_the_order_would_notice(tmp_path):
    """A module that reaches upwards, absolutely, relatively or within a function, is seen."""
    path = tmp_path / "a.py"
    path.write_text("def f():\n    from nca_fast.training import loop\n\nfrom ..canvas import canvas\n")
    known = {"nca_fast.training.loop": path, "nca_fast.canvas.canvas": path}
    found = set(imports("nca_fast.media.a", path, known))
    assert found == {("nca_fast.training.loop", 2), ("nca_fast.canvas.canvas", 4)}
