"""Textures, styles, photographs, sprites and sentences that chose no default, and the trainings of all of them."""
