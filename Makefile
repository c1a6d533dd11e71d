# make venv       the virtual environment .venv with everything in it
# make demo       learns a texture and draws it, in two to three minutes
# make test       the test suite
# make test-fast  the tests that take no trainings, kernels or processes: a minute
# make lint       ruff, mypy on what is offered to others, and deno on the page
# make docs       the site, build/site/index.html; a link that leads nowhere is an error
# make notebooks  runs the notebooks of examples/, some minutes, and keeps what they show
# make wheel      the wheel and the source distribution, build/dist
PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: venv demo test test-fast lint docs notebooks wheel

venv: .venv/installed

# A stamp, so that an installation that was interrupted is done again and a finished one is not.
.venv/installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[examples,dev,docs,tensorboard]'
	touch $@

test: venv
	$(RUN) -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

FAST := start house readme fields forecast watching rule filters integers presets files formats images decoding \
  structure reports waiting checkpoint
test-fast: venv
	$(RUN) -m pytest --numprocesses auto --maxprocesses 8 $(patsubst %,tests/test_%.py,$(FAST))

lint: venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/deno lint --quiet --config nca_fast/web/deno.json nca_fast/web/source
	.venv/bin/deno check --quiet --config nca_fast/web/deno.json nca_fast/web/source/app.js

demo: venv
	rm -rf demo
	.venv/bin/nca-fast demo

docs: venv
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet --site-dir build/site

notebooks: venv
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(RUN) -m examples.notebooks

wheel: venv
	rm -rf build/dist
	.venv/bin/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/dist .
	$(RUN) setup.py --quiet sdist --dist-dir build/dist
