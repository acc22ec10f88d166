PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_FOR_DOCS := $(VENV)/.ready-for-docs
OF_FIDELITY := codings controls sinks sites stability effects probing bars
OTHERS := $(filter-out %_gpu.py,$(wildcard benchmarks/bench_*.py))
BENCHMARKS := $(filter-out $(patsubst %,benchmarks/bench_%.py,fidelity $(OF_FIDELITY)),$(OTHERS))

.PHONY: help setup setup-docs demo test test-long torture fuzz soak lint format bench bench-fidelity docs clean

help:
	@echo "make demo   set up, then build, evaluate and explain on the embedded model (no network, under a minute)"
	@echo "make test   set up, then run the tests; real models are read from ITDA_TEST_DATA (default ../shared/data)"
	@echo "make test-long   what takes longer: kills, clusters, every model, all that README, guides and examples show"
	@echo "make lint   style, types and layers"
	@echo "make docs   write the generated pages of docs/, run its guides, and build the site in build/site (offline)"
	@echo "make torture, make fuzz, make soak   a hundred kills; 100,000 damaged files; half an hour in one process"
	@echo "make bench  every benchmark; tables on the terminal, numbers in benchmarks/results"
	@echo "make bench-fidelity  builders beside autoencoders, codings, controls, sites; hours, and goes on where it was stopped"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "itda needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	# Their own requirements are of another time, and hold more than the tests run; tabulate is one that they do
	$(BIN)/python -m pip install --quiet --no-deps dictionary-learning==0.1.0 sae-bench==0.6.0 tabulate==0.10.0
	@touch $(READY)

setup: $(READY)

$(READY_FOR_DOCS): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $(READY_FOR_DOCS)

setup-docs: $(READY_FOR_DOCS)

demo: $(READY)
	$(BIN)/itda demo --out itda-demo --overwrite

# Two processes on the same cores: threads that spin while they wait would take them from each other
PYTEST := HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(PYTEST) -m "not long"

test-long: $(READY)
	$(PYTEST) -m long

torture: $(READY)
	HF_HUB_OFFLINE=1 PYTHONPATH=tests $(BIN)/python tests/support/torture.py 100

fuzz: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt atheris
	HF_HUB_OFFLINE=1 PYTHONPATH=tests $(BIN)/python tests/support/fuzz.py 100000

soak: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/soak.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/write_docs.py --check

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A broken link within the site and a guide whose code fails are errors
docs: $(READY_FOR_DOCS)
	$(BIN)/python tools/write_docs.py
	HF_HUB_OFFLINE=1 $(BIN)/python -m sphinx -q -W --keep-going -b html docs build/site
	@echo build/site/index.html

# Their own requirements are of another time; ours are enough for what is compared
bench: $(READY)
	$(BIN)/python -m pip install --quiet --no-deps repeng==0.4.0 steering-vectors==0.12.2
	set -e; for script in $(BENCHMARKS); do HF_HUB_OFFLINE=1 $(BIN)/python $$script; done

# One thread for builders and autoencoders alike: their times are compared, whatever else the machine does
bench-fidelity: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[peers]'
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python benchmarks/bench_fidelity.py
	set -e; for script in $(OF_FIDELITY); do HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/bench_$$script.py; done

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
