"""VAE-NCA: an autoencoder whose decoder writes the rule of an automaton."""
