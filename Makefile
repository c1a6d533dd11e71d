# make venv   the virtual environment .venv with everything in it
# make demo   learns a texture and draws it, in two to three minutes
# make test   the test suite
# make docs   the site, build/site/index.html
PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: venv demo test docs

venv: .venv/installed

# A stamp, so that an installation that was interrupted is done again and a finished one is not.
.venv/installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[examples,dev,docs]'
	touch $@

test: venv
	$(RUN) -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

demo: venv
	rm -rf demo
	.venv/bin/nca-fast demo

docs: venv
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet --site-dir build/site
