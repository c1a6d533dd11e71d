"""What people train an automaton for, one system a file."""
