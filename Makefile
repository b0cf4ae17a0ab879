# `make demo` and `make test`; `make check` before each commit. Everything runs offline once the packages are installed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL ?=
MODELS := $(notdir $(patsubst %/model_index.json,%,$(wildcard dg_tools/zoo/*/model_index.json)))

# On a CPU half the time of a forward goes to page faults unless the allocator keeps its memory (glibc only).
export MALLOC_MMAP_THRESHOLD_ = 8589934592
export MALLOC_TRIM_THRESHOLD_ = 8589934592
export OMP_WAIT_POLICY = PASSIVE
export HF_HUB_OFFLINE = 1
export PYTHONDONTWRITEBYTECODE = 1

# Tests run on WORKERS processes of one torch thread each; a worker takes whole groups (tests/conftest.py says which).
WORKERS ?= 2
WORKERS_PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS)
PYTEST = OMP_NUM_THREADS=1 $(WORKERS_PYTEST)
NBVAL = TQDM_DISABLE=1 PLOTLY_RENDERER=plotly_mimetype TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 \
	$(BIN)/python tests/kernels/server.py $(WORKERS_PYTEST) \
	--dist loadfile --no-loadscope-reorder --nbval notebooks --nbval-kernel-name forked --nbval-cell-timeout 600 \
	--nbval-sanitize-with tests/notebooks_sanitize.cfg

timed = begin=$$(date +%s); $(2) && echo "-- $(1): $$(( $$(date +%s) - begin )) s"

.PHONY: install demo test check core lint types unit tutorials lab notebooks docs bench evidence seeds full wheel clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "dg_tools needs Python 3.11 or later")'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "Python's venv module is missing: install it (Debian: python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: install
	$(BIN)/dg-tools demo --out demo $(if $(MODEL),--model $(MODEL))

test: lint types unit tutorials

# Before each commit, at most 90 seconds. It says what it leaves out.
check: lint types core

core: install
	@$(call timed,core tests,$(PYTEST) --core)

lint: install
	@$(call timed,lint,$(BIN)/ruff check . && $(BIN)/ruff format --check .)

types: install
	@$(call timed,types,$(BIN)/mypy)

unit: install
	@$(call timed,unit tests,$(PYTEST) --durations=5)

# Strictly against the kept outputs; then once more as another CPU: no vector instructions.
tutorials: install
	@$(call timed,notebooks,$(NBVAL))
	@$(call timed,notebooks as another CPU,ATEN_CPU_CAPABILITY=default $(NBVAL))

# One thread: on several the embedded models are slower. OMP_NUM_THREADS=8 make lab: for a large model on a CPU.
lab: export OMP_NUM_THREADS ?= 1
lab: install
	$(BIN)/jupyter lab notebooks

notebooks: install
	$(BIN)/python -m tools.regenerate_notebooks
	$(BIN)/python -m tools.notebook_thumbnails

# Notebooks with their kept outputs and the API, as pages that open from the file system: build/docs/index.html.
docs: install
	$(BIN)/python -m sphinx -b html -c docs -d build/doctrees -W --keep-going -q . build/docs

bench: install
	TRANSFORMERS_VERBOSITY=error DIFFUSERS_VERBOSITY=error TQDM_DISABLE=1 $(BIN)/python -m benchmarks.run

# The evidence, recomputed for both embedded models and the two controls (MODEL=name for one column); EVIDENCE.md and its
# pages from what came out. Under 45 minutes a model on one core; QUICK=1: five, into build/evidence. What is done is kept.
evidence: install
	TRANSFORMERS_VERBOSITY=error DIFFUSERS_VERBOSITY=error $(BIN)/python -m evidence.run \
		$(if $(MODEL),--model $(MODEL)) $(if $(QUICK),--size quick)

# Three seeds of a small model and a variant of it, from pictures to docs/evidence/seeds.md: about an hour of one core; goes on where it stopped. ICONS=folder: where the icon packages are, see training/README.md.
seeds: install
	$(BIN)/python -m pip install --quiet --requirement training/requirements.txt
	OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error DIFFUSERS_VERBOSITY=error $(BIN)/python -m evidence.seeds \
		$(if $(ICONS),--icons $(ICONS))

# 300 draws of the tests' random walk (SEED=n for the same ones again), every family's blocks compiled, then SD3-medium's
# full-size transformer with random weights, through verify and a report too: 9 GB, and some ten minutes of two idle cores
# (593 s measured).
full: install
	TQDM_DISABLE=1 TRANSFORMERS_VERBOSITY=error DIFFUSERS_VERBOSITY=error $(BIN)/python -m benchmarks.walk 300 $(SEED)
	TQDM_DISABLE=1 TRANSFORMERS_VERBOSITY=error DIFFUSERS_VERBOSITY=error $(BIN)/python -m benchmarks.compiled
	TRANSFORMERS_VERBOSITY=error DIFFUSERS_VERBOSITY=error $(BIN)/python -m benchmarks.full_size

wheel: install
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist .
	$(PYTHON) -m venv --clear build/wheel
	build/wheel/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd build && wheel/bin/python ../tools/wheel_check.py ../dist/*.whl $(MODELS)

clean:
	rm -rf build dist demo .mypy_cache .pytest_cache .ruff_cache
