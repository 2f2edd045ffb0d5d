# Both targets make .venv themselves; the second time they start at once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: tag test slow lint docs types clean

tag: .venv/tagging ## make tag FILE=clip.wav
	@$(BIN)/dcls-tag $(if $(FILE),'$(FILE)',--help) $(ARGS)

# Two processes of one thread each: on two cores that halves the time, torch's own threads do not.
test: .venv/dev ## the fast tests, under three minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

slow: .venv/dev ## the tests that take longer
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

lint: .venv/dev docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: .venv/dev ## build/docs: the documentation with a reference; a broken link is an error
	$(BIN)/python scripts/build_docs.py

types: .venv/dev
	$(BIN)/mypy

clean:
	rm -rf .venv build dist

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
