# Both targets make .venv themselves; the second time they start at once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: tag test slow lint docs types page clean

tag: .venv/tagging ## make tag FILE=clip.wav
	@$(BIN)/dcls-tag $(if $(FILE),'$(FILE)',--help) $(ARGS)

# else each of the commands that the tests start compiles everything anew
export PYTHONDONTWRITEBYTECODE :=

# Two processes of one thread each: on two cores that halves the time, torch's own threads do not.
test: .venv/dev ## the fast tests, some five minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadscope

slow: .venv/dev ## the tests that take longer
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

lint: .venv/dev docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: .venv/dev ## build/docs: the documentation with a reference; a broken link is an error
	$(BIN)/python scripts/build_docs.py

types: .venv/dev
	$(BIN)/mypy

page: .venv/tagging ## page/dist: the page that hears, for any static host; dcls-page opens it. Needs Node.js
	cd page && npm ci --no-audit --no-fund
	$(BIN)/python scripts/page_data.py page/dist
	node page/build.js page/dist

clean:
	rm -rf .venv build dist page/dist page/node_modules

$(BIN)/python:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'

# Tagging needs neither torch nor the other training libraries: seconds and 400 MB instead of minutes and 5 GB.
.venv/tagging: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable .
	@touch $@

.venv/dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@ .venv/tagging
