# Every target that needs Python makes .venv first; nothing but Python >= 3.11 and make is required.
# A CPU is enough for all of them.

PYTHON ?= python3
EXTRAS ?= dev,dmc,metaworld
JOBS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint bench cpu-suite clean distclean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo 'Variables: PYTHON=python3.11 (3.11 or newer), ARGS="..." (passed on to the command), JOBS=2 (test processes)'

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: '$(PYTHON)' not found; install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: '$(PYTHON)' is $$($(PYTHON) -V 2>&1); Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "error: cannot make $(VENV); on Debian or Ubuntu install the package python3-venv" >&2; exit 1; }
	@echo 'Installing into $(VENV) (a few minutes the first time)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]' -c constraints.txt
	@touch $@

demo: $(STAMP) ## train the MLP and the flow world model on a small task and compare them
	$(BIN)/python examples/demo.py $(ARGS)

# One thread per worker: the workers already fill the cores, and small tensors gain nothing from more.
test: $(STAMP) ## run the fast tests
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

# Slow tests train or measure time, so they run one after the other. One thread each: with small networks two take
# as long as one, and much longer beside another program.
test-slow: $(STAMP) ## run the tests that train or measure (minutes to hours)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --timeout 3600 $(ARGS)

lint: $(STAMP) ## check style, format and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

bench: $(STAMP) ## measure the speed of training and simulation
	$(BIN)/pwm bench $(ARGS)

cpu-suite: $(STAMP) ## train every dynamics on the small tasks, several seeds (hours; ARGS="--tasks ... --seeds 1" for a part)
	$(BIN)/python benchmarks/cpu_suite.py $(ARGS)

clean: ## remove caches and build products; keeps .venv and logs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean ## clean, and remove .venv as well
	rm -rf $(VENV)
