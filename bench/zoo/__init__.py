"""The automata that come with nca_fast: what they learn, and the one command that trains them."""
