"""A command line spelled again with some of its options changed: what a command proposes to do next."""

import shlex
from typing import Any

from nca_fast.commands.options import options


def again(command: str, kind: type, **changed: Any) -> str:
    """Spells a command line again, with all that was typed but what is changed.

    Args:
        command: As it was typed, for a shell.
        kind: The dataclass of the command, which says what its options are.
        changed: By the names of its fields: the new values of options that take one value, each at the end of the line;
            None leaves an option or a flag out, True is a flag.

    Returns:
        For a shell, to be pasted.
    """
    flags = {flag: option for option in options(kind) for flag in option.flags}
    kept, values = [], 0  # values to come that belong to an option that is left out; below 0 all up to the next option
    for word in shlex.split(command):
        flag, equals, _ = word.partition("=")
        option = flags.get(flag.replace("_", "-")) if word.startswith("--") else None
        if option is not None and option.name in changed:
            values = -1 if "..." in option.value else int(bool(option.value) and not equals)
        elif values and not word.startswith("--"):
            values -= 1
        else:
            kept.append(word)
            values = 0
    for name, value in changed.items():
        kept += [] if value is None else [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(kept)
