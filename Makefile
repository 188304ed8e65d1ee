# make demo · make test · make bench · make lint · make notebooks; each sets up what it needs by itself
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow bench lint notebooks clean
demo: $(READY)
	$(BIN)/python -m tools.demo $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

bench: $(READY)
	$(BIN)/python -m tools.bench $(ARGS)
	$(BIN)/python -m tools.bench.gpu

notebooks: $(READY)
	$(BIN)/python -m tools.readme.notebooks

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) demo build *.egg-info

$(READY): constraints.txt requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v[:2] <= (3, 13) or sys.exit( \
		f"Python 3.11 to 3.13 is needed, {v[0]}.{v[1]} is here: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt -c constraints.txt
	touch $@
