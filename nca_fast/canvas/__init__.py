"""The engine for canvases of any size."""
