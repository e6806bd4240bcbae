# Every target makes the environment it needs first; nothing but Python >= 3.11 and make is required.
# A CPU is enough for all of them.

PYTHON ?= python3
JOBS ?= 2
ARGS ?=
ONLY ?=

VENV := .venv
BIN := $(VENV)/bin
# The demo needs the runtime dependencies alone; what checks and measures the project needs the rest, too.
RUNTIME := $(VENV)/.installed
ALL := $(VENV)/.installed-all
BASELINES := $(VENV)/.installed-baselines
METAWORLD := $(VENV)/.installed-metaworld
NEWEST := .venv-newest
GPU := .venv-gpu
SITE := .venv-docs

.DEFAULT_GOAL := help
.PHONY: help demo test test-commands test-newest test-slow slurm lint docs bench bench-gpu cpu-suite cpu-ablations cpu-suite-baselines clean distclean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  make %-20s %s\n", $$1, $$2}'
	@echo 'Variables: PYTHON=python3.11 (3.11 or newer), ARGS="..." (passed on to the command), JOBS=2 (test processes),'
	@echo '           ONLY="dflex_hopper/*/1" (runs of a suite: TASK/ARM/SEED, of baselines TASK/SEED; * for any)'

# $(call begin,ENVIRONMENT) makes the environment where there is none. Until its installation is complete it holds
# a file .installing with the number of the process; found without that process, it marks an environment that is
# half installed, which is made anew.
define begin
@command -v $(PYTHON) >/dev/null || { \
  echo "error: '$(PYTHON)' not found; install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo "error: '$(PYTHON)' is $$($(PYTHON) -V 2>&1); Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
@if [ -e $(1)/.installing ]; then \
  if kill -0 "$$(cat $(1)/.installing)" 2>/dev/null; then \
    echo "error: process $$(cat $(1)/.installing) is installing into $(1); wait for it" >&2; exit 1; fi; \
  echo 'The last installation into $(1) was not completed: starting over'; rm -rf $(1); fi
@$(1)/bin/python -m pip --version >/dev/null 2>&1 || rm -rf $(1)
@mkdir -p $(1); rm -f $(1)/.installed*; echo $$PPID > $(1)/.installing
@[ -x $(1)/bin/python ] || $(PYTHON) -m venv $(1) || { \
  echo "error: cannot make $(1); on Debian or Ubuntu install the package python3-venv" >&2; exit 1; }
endef

# $(call install,ENVIRONMENT,WHAT,CONSTRAINTS) shows pip's own progress on a terminal. A log gets one line per package
# that is fetched, because bars cannot move there.
define install
@echo 'Installing into $(1)'
@{ $(1)/bin/python -u -m pip install --disable-pip-version-check $(2) -c $(3) && rm $(1)/.installing; } $(SUMMARY); \
  test ! -e $(1)/.installing
endef

LINES := /^Installing collected/ { print "  unpacking " gsub(/,/, "") + 1 " packages"; fflush() } \
  /^ *(Downloading|Using cached|Processing) / { for (i = 2; i <= NF; i++) if ($$i ~ /[.](whl|tar[.]gz)$$/) { \
  file = $$i; sub(/.*\//, "", file); split(file, part, "-"); \
  print "  " part[1] " " part[2] ($$NF ~ /B[)]$$/ ? " " $$(NF-1) " " $$NF : ""); fflush() } }
ifndef MAKE_TERMOUT
SUMMARY := | awk '$(LINES)'
endif

$(RUNTIME): pyproject.toml constraints.txt
	$(call begin,$(VENV))
	$(call install,$(VENV),-e .,constraints.txt)
	@touch $@

$(ALL): $(RUNTIME)
	$(call begin,$(VENV))
	$(call install,$(VENV),-e '.[dev]',constraints.txt)
	@touch $(RUNTIME) $@

$(BASELINES): $(ALL)
	$(call begin,$(VENV))
	$(call install,$(VENV),-e '.[baselines]',constraints.txt)
	@touch $(RUNTIME) $(ALL) $@

$(METAWORLD): $(ALL)
	$(call begin,$(VENV))
	$(call install,$(VENV),-e '.[metaworld]',constraints.txt)
	@touch $(RUNTIME) $(ALL) $@

demo: $(RUNTIME) ## train the MLP and the flow world model on a small task and compare them
	$(BIN)/python examples/demo.py $(ARGS)

# One thread per worker: the workers already fill the cores, and small tensors gain nothing from more. Each begins
# with a half of the tests in their order, so that what tests of a file share is mostly made once.
test: $(ALL) ## run the fast tests
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-commands: $(ALL) ## run every command that the documents show, with tiny sizes
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n $(JOBS) --dist worksteal \
	  tests/docs/test_commands.py $(ARGS)

# A new environment every time: MuJoCo's newest release is whatever it is today.
test-newest: ## run the tests that depend on MuJoCo with its newest release, in an environment of their own
	@rm -rf $(NEWEST)
	$(call begin,$(NEWEST))
	@grep -v '^mujoco==' constraints.txt > $(NEWEST)/constraints.txt
	$(call install,$(NEWEST),-e '.[video]' mujoco mujoco-warp dm_control pytest pytest-timeout pytest-xdist,$(NEWEST)/constraints.txt)
	@$(NEWEST)/bin/python -c 'import mujoco; print("MuJoCo", mujoco.__version__)'
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -n $(JOBS) $(NEWEST_TESTS) $(ARGS)

NEWEST_TESTS := tests/contracts/test_envs.py tests/numerics/test_dflex_tasks.py tests/numerics/test_mujoco_warp.py \
  tests/end_to_end/test_resume.py::test_interrupted_run_ends_bit_identical \
  tests/end_to_end/test_video.py::test_film_of_a_gymnasium_robot \
  tests/end_to_end/test_video.py::test_drawing_shows_the_copy_and_changes_nothing

# Slow tests train or measure time, so they run one after the other. One thread each: with small networks two take
# as long as one, and much longer beside another program.
test-slow: $(METAWORLD) ## run the tests that train or measure (minutes to hours)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --timeout 3600 $(ARGS)

lint: $(ALL) ## check style, format and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# Reads the sources without importing them, so that its environment is small.
$(SITE)/.installed: pyproject.toml constraints.txt
	$(call begin,$(SITE))
	$(call install,$(SITE),mkdocs mkdocs-material mkdocs-gen-files 'mkdocstrings[python]',constraints.txt)
	@touch $@

docs: $(SITE)/.installed ## build the documentation with the API as a site in site/; fails on a broken link
	DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict --quiet $(ARGS)
	@echo 'site/index.html'

# As root on Debian; the tests start a node of it and stop it again.
slurm: ## install SLURM, which the slow tests of the cluster need (root, Debian or Ubuntu)
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends slurm-wlm munge

bench: $(ALL) ## measure the speed of training and simulation
	$(BIN)/pwm bench $(ARGS)

# PyTorch's own build for GPUs, in an environment of its own; MuJoCo Warp excludes the MuJoCo of dm_control.
bench-gpu: ## tests and figures of a machine with a GPU, in an environment of their own
	$(call begin,$(GPU))
	@grep -v '^mujoco==' constraints.txt > $(GPU)/constraints.txt
	$(call install,$(GPU),-e '.[warp]' pytest pytest-timeout pytest-xdist hypothesis,$(GPU)/constraints.txt)
	@$(GPU)/bin/python -c 'import torch; assert torch.cuda.is_available(), "PyTorch finds no GPU here"'
	$(GPU)/bin/python -m pytest -m gpu $(GPU_TESTS)
	$(GPU)/bin/python -m pytest tests/numerics/test_mujoco_warp.py
	$(GPU)/bin/python benchmarks/device_speed.py --output device_speed.json $(ARGS)

GPU_TESTS := tests/end_to_end/test_other_device.py tests/end_to_end/test_train.py tests/unit/test_monitoring.py \
  tests/numerics/test_replay.py tests/docs/test_metrics.py

# Every one of them continues what was interrupted and repeats nothing that is done.
cpu-suite: $(ALL) ## train every dynamics on nine tasks, five seeds, and export the results (a day; ONLY=... for a part)
	$(BIN)/pwm experiment experiment=cpu_suite $(patsubst %,--only '%',$(ONLY)) $(ARGS)
	$(BIN)/python benchmarks/export_suite.py

cpu-ablations: $(ALL) ## the same with one change at a time to the recipe (half a day)
	$(BIN)/pwm experiment experiment=cpu_ablations $(patsubst %,--only '%',$(ONLY)) $(ARGS)
	$(BIN)/python benchmarks/export_suite.py --experiment cpu_ablations

cpu-suite-baselines: $(BASELINES) ## model-free agents on the tasks of the suite, beside its results (a day)
	$(BIN)/python benchmarks/model_free_suite.py $(patsubst %,--only '%',$(ONLY)) $(ARGS)
	$(BIN)/python benchmarks/export_suite.py

clean: ## remove caches and build products; keeps environments and logs
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path './.venv*' -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean ## clean, and remove the environments as well
	rm -rf $(VENV) $(NEWEST) $(GPU) $(SITE)
