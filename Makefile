# Everything a newcomer needs; only python3 (3.10 or newer) and make must be there.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest

.PHONY: install demo test slow chaos lint format docs bench clean help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

install: $(STAMP)  ## build .venv alone

demo: $(STAMP)  ## phantom cohort -> ingest -> 2 DeepSpeed workers -> report, about 4 minutes on 2 cores
	$(BIN)/hepdist demo

test: $(STAMP)  ## the test suite without the slow tests
	$(PYTEST) -m "not slow" $(ARGS)

slow: $(STAMP)  ## the slow tests only
	$(PYTEST) -m slow $(ARGS)

chaos: $(STAMP)  ## kill workers, drivers, nodes and more at 30 random moments each; docs/reliability.md
	CHAOS_MOMENTS=30 CHAOS_OUT=$${CHAOS_OUT:-chaos.jsonl} $(PYTEST) tests/chaos $(ARGS)

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy hepdist

format: $(STAMP)  ## rewrite the sources as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## the documents as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -f docs/site/mkdocs.yml

BENCHMARKS := startup loop stream ingest bricks search scaling gpu

# litdata asks for torchvision, which has no place beside this torch and is not used by what is measured: hence --no-deps.
bench: $(STAMP)  ## all benchmarks, about 75 minutes; their numbers go to docs/benchmarks.md
	$(BIN)/pip install -e '.[bench]'
	$(BIN)/pip install --no-deps litdata
	for name in $(BENCHMARKS); do echo "== $$name" && $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python benchmarks/stream.py --copies

clean:  ## remove the environment and caches; runs/ and cohorts/ stay
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# constraints.txt pins Python 3.11 and newer; on 3.10 pip chooses the newest releases that still support it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "hepdist needs Python 3.10 or newer; call make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install $$($(BIN)/python -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")') -e '.[dev]'
	touch $(STAMP)
