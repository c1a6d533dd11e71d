"""Puts the modules of the page into one script, in their order, unchanged but for their import and export lines."""

import json
import re
from pathlib import Path

SOURCE = Path(__file__).with_name("source")
_IMPORT = re.compile(r'^import (?:\{[^}]*\}|(\w+)) from "\./([\w.]+)"(?: with \{ type: "text" \})?;\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:class|function|const|let) )", re.MULTILINE)
_TOP = re.compile(r"^(?:async )?(?:class|function\*?|const|let) (\w+)", re.MULTILINE)


def bundled(*names: str) -> str:
    """Joins modules and all that they import.

    Args:
        names: Files in source/.

    Returns:
        A script. What is at the top of a module is at the top of the script.

    Raises:
        ValueError: Two modules have something of the same name at their top, or they import each other in a circle.
    """
    texts: dict[str, str] = {}
    for name in names:
        _collect(name, texts, ())
    script = "\n".join(f"// {name}\n\n{text.strip()}\n" for name, text in texts.items())
    tops = _TOP.findall(script)
    twice = sorted({name for name in tops if tops.count(name) > 1})
    if twice:
        raise ValueError(f"names at the top of modules must differ, but there is more than one {', '.join(twice)}.")
    return f'"use strict";\n\n{script}'


def _collect(name, texts, importers):
    """Adds a module, after those that it imports; GLSL becomes a constant of the name that it is imported by."""
    if name in importers:
        raise ValueError(f"modules must not import each other in a circle, but {' -> '.join((*importers, name))}.")
    if name in texts:
        return
    text = (SOURCE / name).read_text(encoding="utf-8")
    for constant, imported in _IMPORT.findall(text):
        if imported.endswith(".glsl"):
            shader = (SOURCE / imported).read_text(encoding="utf-8")
            texts.setdefault(imported, f"const {constant} = {_template(shader)};")
        else:
            _collect(imported, texts, (*importers, name))
    texts[name] = _EXPORT.sub("", _IMPORT.sub("", text))


def _template(text: str) -> str:
    """Writes text as a template literal, whose lines stay lines."""
    quoted = text.replace("\\", "\\\\").replace("`", "\\`").replace("${", "\\${")
    return f"`{quoted}`"


def embedded(value) -> str:
    """Writes JSON so that it may stand inside a script element, whatever strings it has."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
