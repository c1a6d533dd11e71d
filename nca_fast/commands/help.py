"""Help: what a command does, with examples, its options, and the list of commands, on terminals of any width."""

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import MISSING

from nca_fast.commands.options import Option, options

LEAST_COLUMNS, MOST_COLUMNS = 20, 120
_NAMES = 26  # columns for the names of options, where the terminal has room for texts beside them
_EVERYWHERE = """Every command also takes --quiet (prints nothing but errors and warnings), --json (prints one JSON
object at its end), and --debug (an error shows where in Python it came from)."""


def command_help(name: str, command: type, everything: bool) -> str:
    """Writes the help of a command: what it does, and its options; unless it is to be everything, the main ones, and
    briefly those that its examples have."""
    known = options(command)
    main = [o for o in known if o.required or o.name in getattr(command, "main", ())]
    main = [o for o in known if not o.flags and o not in main] + main if main else known
    order = {word: place for place, word in enumerate(getattr(command, "main", ()))}
    main.sort(key=lambda o: (bool(o.flags), order.get(o.name, -1)))
    others = [o for o in known if o not in main]
    shown = [] if everything else [o for o in others if set(o.flags) & _in_examples(name, command)]
    others = [o for o in others if o not in shown]
    lines = [_usage(name, known), "", *_wrapped(inspect.cleandoc(command.__doc__)), "", *_listed("Options", main)]
    if shown:
        brief = [(_typed(option), f"{option.text.partition('. ')[0].rstrip('.')}.") for option in shown]
        lines += ["", *_wrapped("Also in the examples:"), *_columns(brief, _NAMES)]
    if everything:
        for group in dict.fromkeys(o.group for o in others):
            lines += ["", *_listed(group or "More options", [o for o in others if o.group == group])]
    elif others:
        lines += ["", *_wrapped(f"{len(others)} more option{'s' * (len(others) > 1)}: nca-fast {name} --help-all")]
    return "\n".join([*lines, "", *_wrapped(" ".join(_EVERYWHERE.split()))])


def _in_examples(name: str, command: type) -> set[str]:
    """Finds the options that are typed in the examples of a command's help."""
    typed = re.compile(rf"(nca-fast|-m nca_fast) {name} .*")
    lines = [found[0] for line in command.__doc__.splitlines() if (found := typed.search(line))]
    return {word for line in lines for word in re.findall(r" (--[a-z-]+)", line)}


def overview(title: str, commands: Mapping[str, type]) -> str:
    """Writes the help of the program: examples, and the first line about each command."""
    listed = [(name, inspect.cleandoc(command.__doc__).splitlines()[0]) for name, command in commands.items()]
    lines = [*_wrapped(title), "", "Commands:", *_columns(listed, 15), ""]
    lines += _wrapped("The help of a command: nca-fast texture --help; of all its options: --help-all.")
    return "\n".join([*lines, *_wrapped(" ".join(_EVERYWHERE.split()))])


def _usage(name: str, known: list[Option]) -> str:
    words = [
        option.value if option.required or option.value.startswith("[") else f"[{option.value}]"
        for option in known
        if not option.flags
    ]
    words += [f"{option.flags[0]} {option.value}" for option in known if option.flags and option.required]
    return f"nca-fast {' '.join([name, *words])} [options]"


def _listed(title: str, some: Iterable[Option]) -> list[str]:
    return [*_wrapped(f"{title}:"), *_columns([(_typed(option), _said(option)) for option in some], _NAMES)]


def _typed(option: Option) -> str:
    return " ".join([", ".join(option.flags), option.value]).strip()


def _said(option: Option) -> str:
    """What an option does, and what it is when it is not given, unless the text says what None is."""
    if option.default is MISSING:
        return f"{option.text} (required)"
    if option.default in (None, (), "") or option.default is False:
        return option.text
    default = " ".join(map(str, option.default)) if isinstance(option.default, tuple) else option.default
    return f"{option.text} (default: {default})"


def columns() -> int:
    """Columns of the terminal, or as many as text should have."""
    return min(MOST_COLUMNS, max(LEAST_COLUMNS, shutil.get_terminal_size().columns))


def _columns(rows: list[tuple[str, str]], names: int) -> list[str]:
    """Lays out names and texts beside each other; below each other, where there is no room."""
    beside = columns() >= 2 * names + 20
    indent = names if beside else 6
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, max(8, columns() - indent), break_on_hyphens=False)
        if beside and len(name) + 4 <= names and wrapped:
            lines.append(f"  {name}".ljust(names) + wrapped.pop(0))
        else:
            lines += textwrap.wrap(f"  {name}", columns(), subsequent_indent="    ", break_on_hyphens=False)
        lines += [" " * indent + line for line in wrapped]
    return lines


def _wrapped(text: str) -> list[str]:
    """Wraps paragraphs; lines that are indented are examples, to be copied, and stay as they are."""
    lines, paragraph = [], []
    for line in [*text.splitlines(), None]:
        if line and not line.startswith(" "):
            paragraph.append(line)
            continue
        lines += textwrap.wrap(" ".join(paragraph), columns(), break_on_hyphens=False)
        paragraph = []
        lines += [] if line is None else [line]
    return lines
