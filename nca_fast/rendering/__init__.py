"""Automata made visible: films of them, and canvases larger than training ever saw."""
