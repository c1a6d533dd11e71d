"""Models around an automaton: networks that write its weights."""
