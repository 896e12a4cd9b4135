# Every target sets up what it needs: its own virtual environment in .venv, with a tested set of versions.
PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || echo 2)
BIN := .venv/bin
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)

.PHONY: help setup slurm-profile demo test test-all test-cluster bench lint docs clean

help:
	@echo "make demo      the whole workflow on its built-in corpus and model, then the table of verdicts"
	@echo "make test      the tests"
	@echo "make test-all  the tests, with the long ones in full"
	@echo "make test-cluster   a real Slurm on this machine, and everything that can go wrong on it (root, Debian)"
	@echo "make slurm-profile  the set-up step for snakemake --profile slurm; undo it with: rm slurm"
	@echo "make bench     what capture costs, and the memory it takes, into results/benchmarks/capture.json"
	@echo "make lint      format, lint and type checks"
	@echo "make docs      write the generated pages and numbers of the documentation anew"
	@echo "make clean     remove results (not the environment)"

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# Snakemake looks for profiles by name in the working folder, not in profiles/.
slurm-profile:
	ln -sfn profiles/slurm slurm

demo: setup
	$(SNAKEMAKE) --rerun-incomplete --report results/report.html --report-after-run
	$(BIN)/python -m var_core.report.show results

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(CORES) --no-loadscope-reorder

test-all: setup
	$(BIN)/python -m pytest -m "not cluster"

test-cluster: setup
	rm -f results/cluster/faults-*.json
	$(BIN)/python -m pytest -m cluster -rs -n 3 tests/cluster

bench: .venv/bench
	$(BIN)/python -m var_core.benchmarks all

.venv/bench: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	touch $@

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m var_core.config.generate
	PYTHONPATH=tests $(BIN)/python -m moe_families.page docs/reference/supported-models.md
	PYTHONPATH=tests $(BIN)/python -m workflow_runs.page docs/reference/reruns.md
	$(BIN)/snakemake --rulegraph mermaid-js | $(BIN)/python -m var_core.report.rulegraph docs/demo/rulegraph.mmd
	@if [ -f results/var.duckdb ]; then \
		$(BIN)/python -m var_core.report.pages record results && \
		$(BIN)/python -m var_core.warehouse.reference results/var.duckdb docs/reference/tables.md; \
	else echo "no results/: the recorded numbers of the demo are kept; run make demo first to renew them"; fi
	$(BIN)/python -m var_core.report.pages render
	@if [ -f results/benchmarks/capture.json ]; then $(BIN)/python -m var_core.benchmarks record; fi
	$(BIN)/python -m var_core.benchmarks render
	PYTHONPATH=tests $(BIN)/python -m cluster.page $(if $(wildcard results/cluster/faults-*.json),record)

clean:
	rm -rf results
