"""From a model to a picture or a film: canvases of any size in memory or in files, and pictures that are redrawn."""
