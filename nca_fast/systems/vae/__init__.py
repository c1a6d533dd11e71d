"""VAE-NCA: an autoencoder whose decoder writes the rule of an automaton."""

from nca_fast.systems.vae.system import VAE

__all__ = ["VAE"]
