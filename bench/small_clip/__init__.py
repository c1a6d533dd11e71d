"""The factory of the small CLIP model that ships with the package."""
