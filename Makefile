# EMTE's commands. Each sets itself up: a .venv with the packages of pyproject.toml, made anew when that file changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A process per core: most tests wait for others. A file's tests share their servers, so it stays together; the files
# come in the order of tests/conftest.py.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder

# Stories of crashes to simulate, by seed: the first, and the one behind the last.
SEEDS ?= 0:10000

.PHONY: demo test check nightly simulate mutants bench soak kills stop clean

demo: $(VENV)/.ready
	@exec $(BIN)/python scripts/demo.py $(ARGS)

test: $(VENV)/.ready
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy matching robot log2db app scripts
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term:skip-covered $(ARGS)

# The engine against the reference engine, on many more streams of commands than a test run has time for.
nightly: export EMTE_STREAMS ?= 10000
nightly: $(VENV)/.ready
	$(BIN)/python -m pytest tests/matching/test_engine_reference.py $(ARGS)

# Crashes, power cuts and bad disks, simulated: docs/RELIABILITY.md.
simulate: $(VENV)/.ready
	@exec $(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

# Whether the simulation finds the faults that are planted in the source.
mutants: $(VENV)/.ready
	@exec $(BIN)/python -m tests.simulation.mutants $(ARGS)

bench: $(VENV)/.ready
	@$(BIN)/python benchmarks/run.py $(ARGS)
	@$(BIN)/python benchmarks/recovery.py $(filter --quick,$(ARGS)) $(RECOVERY)
	@$(BIN)/python benchmarks/settlement.py $(filter --quick,$(ARGS)) $(SETTLEMENT)

soak: $(VENV)/.ready
	@exec $(BIN)/python scripts/soak.py $(ARGS)

# One kill after another, as fast as the venue comes back: on SQLite, or with ARGS=--cluster on PostgreSQL.
kills: ROUNDS ?= 200
kills: $(VENV)/.ready
	@exec $(BIN)/python scripts/soak.py --rounds $(ROUNDS) --tickers 2 $(ARGS)

stop:
	@bash stop_all.sh

clean:
	rm -rf $(VENV) .bench-venv .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage *.egg-info

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "EMTE needs Python 3.11 or newer; this is " + sys.version.split()[0])'
	@echo "setting up $(VENV) (once; a minute or so) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
