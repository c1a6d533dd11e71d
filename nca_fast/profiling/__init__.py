"""How fast this machine runs an automaton, and how fast it could."""
