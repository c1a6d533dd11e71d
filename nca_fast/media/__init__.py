"""Pictures, films, data sets and file formats."""
