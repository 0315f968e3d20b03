# Needs python3 (3.11 or newer) and make. Everything is installed into .venv, once, with the versions in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
VLLM := .venv-vllm
GATEWAYS := .venv-gateways
POOLS ?= benchmarks/pools
TESTERS ?= 2# processes that run the tests
# setuptools warns about editable installs of folders whose names are common; here they are installed under `suffice`.
INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo demo-diffusion demo-gateway serve test test-vllm test-ray tune-vllm lint types format bench bench-sampling bench-diffusion bench-steering bench-load chaos soak fuzz bench-env gateways-env docs notebooks format clean

help:             ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/ -/; s/^/make /'

demo: $(VENV)/.demo         ## tune a real model through the service, then compare with random search
	$(BIN)/python benchmarks/demo.py

serve: $(VENV)/.demo        ## run the service until interrupted
	$(BIN)/suffice serve $(ARGS)

test: lint types            ## everything CI runs: lint, types, tests, docs
	$(BIN)/python -m pytest --numprocesses $(TESTERS) --dist loadfile $(ARGS)

test-vllm: $(VENV)/.dev $(VLLM)/.ready  ## the gateway before a real vLLM on this machine's CPU
	$(BIN)/python tests/vllm/server.py $(VLLM)/bin/python -- $(BIN)/python -m pytest tests/vllm $(ARGS)

demo-gateway: $(VENV)/.dev $(VLLM)/.ready  ## a real vLLM, the gateway before it, and what it saves: a table and a plot
	$(BIN)/python tests/vllm/server.py $(VLLM)/bin/python -- $(BIN)/python benchmarks/demo_gateway.py $(ARGS)

tune-vllm: $(VENV)/.dev $(VLLM)/.ready  ## tune vLLM's own settings on this machine's CPU: throughput against latency
	$(BIN)/python benchmarks/tune_vllm.py $(VLLM)/bin/python $(ARGS)

demo-diffusion: $(VENV)/.dev  ## four diffusion steps found in sixty evaluations: a table, a schedule and the images
	$(BIN)/python -m benchmarks.demo_diffusion $(ARGS)

test-ray: $(VENV)/.dev $(VENV)/.ray  ## on Ray clusters of this machine, whose nodes die
	TEST_RAY=1 $(BIN)/python -m pytest tests/ray $(ARGS)

lint: $(VENV)/.dev          ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.dev         ## mypy and pyright, both strict
	$(BIN)/mypy
	$(BIN)/pyright

format: $(VENV)/.dev        ## let ruff fix and format what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH)/.peers      ## compare the core with its peers (ARGS="--set full", "latency", "report"; docs/benchmarks.md)
	$(BENCH)/bin/python -m benchmarks $(ARGS)

bench-sampling: $(VENV)/.demo  ## how many answers are enough, on pools (POOLS=folder; docs/sampling_benchmarks.md)
	$(BIN)/python -m benchmarks.sampling --pools $(POOLS) $(ARGS)

gateways-env: $(GATEWAYS)/.ready $(GATEWAYS)-optillm/.ready  ## the gateways that benchmarks/gateway.py compares with, 3.4 GB

bench-diffusion: $(VENV)/.dev  ## schedules for few steps: search, evolution, known ones (docs/diffusion.md)
	$(BIN)/python -m benchmarks.diffusion $(ARGS)

bench-steering: $(VENV)/.dev  ## steering at inference time: reward against calls of the network (docs/steering.md)
	$(BIN)/python -m benchmarks.steering $(ARGS)

bench-load: $(VENV)/.dev     ## tells and asks per second on SQLite and PostgreSQL, next to Optuna (docs/scaling.md)
	$(BIN)/python -m benchmarks.load $(ARGS)

chaos: $(VENV)/.dev         ## kill processes at random over 20,000 tells: is anything lost? (ARGS="--database postgresql")
	$(BIN)/python -m benchmarks.chaos $(ARGS)

soak: $(VENV)/.dev          ## half an hour of ordinary work: does the service grow? (ARGS="--minutes 10")
	$(BIN)/python -m benchmarks.soak $(ARGS)

fuzz: $(VENV)/.dev         ## send the service what its OpenAPI document allows, and what it does not (ARGS="--cases 10000")
	$(BIN)/python -m benchmarks.fuzz $(ARGS)

bench-env: $(BENCH)/.peers $(BENCH)-hebo/.peers  ## the peers' environments; HEBO has one of its own

docs: $(VENV)/.dev          ## build the documentation into site/
	$(BIN)/python -m zensical build --clean --strict

notebooks: $(VENV)/.dev     ## run notebooks/*.py and keep the results beside them as .ipynb
	$(BIN)/python tests/test_notebooks.py $(ARGS)

clean:            ## remove what these commands made
	rm -rf $(VENV) $(BENCH) $(BENCH)-hebo $(VLLM) $(GATEWAYS) $(GATEWAYS)-optillm build dist site demo suffice.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The service with what the demo needs, or with what the tests need: the first `make demo` installs less.
$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing into $(VENV), once. This takes a few minutes."
	@$(INSTALL) -e '.[server,demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing into $(VENV), once. This takes a few minutes."
	@$(INSTALL) -e '.[server,ax,optuna,postgres,dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.ray: $(VENV)/.python pyproject.toml constraints.txt
	@$(INSTALL) -e '.[ray]'
	@touch $@

# vLLM's CPU build. It wants an older FastAPI than the service, so it lives apart and is spoken to over HTTP.
$(VLLM)/.ready: tests/vllm/requirements.txt tests/vllm/requirements-bare.txt
	@echo "Installing vLLM's CPU build into $(VLLM), once: 2.3 GB, a few minutes."
	@$(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 --constraint constraints.txt
	@$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/vllm/requirements-bare.txt
	@$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/vllm/requirements.txt torch==2.13.0
	@$(VLLM)/bin/python -W ignore -c 'import vllm.entrypoints.openai.api_server'
	@touch $@

# What Suffice is compared with, kept out of the project's own environment.
$(BENCH)/.peers: pyproject.toml constraints.txt benchmarks/requirements-peers.txt
	@echo "Installing into $(BENCH), once. This takes a few minutes."
	@$(PYTHON) -m venv $(BENCH)
	@PYTHONWARNINGS=ignore $(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		-e '.[server,ax,optuna,demo]' -r benchmarks/requirements-peers.txt
	@touch $@

$(BENCH)-hebo/.peers: benchmarks/requirements-hebo.txt
	@echo "Installing into $(BENCH)-hebo, once. This takes a few minutes."
	@$(PYTHON) -m venv $(BENCH)-hebo
	@PYTHONWARNINGS=ignore $(BENCH)-hebo/bin/python -m pip install --quiet --disable-pip-version-check \
		-r benchmarks/requirements-hebo.txt
	@PYTHONWARNINGS=ignore $(BENCH)-hebo/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# Other gateways, for benchmarks/gateway.py; optillm's many dependencies do not agree with the others'.
$(GATEWAYS)/.ready: benchmarks/requirements-gateways.txt
	@$(PYTHON) -m venv $(GATEWAYS)
	@$(GATEWAYS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(GATEWAYS)-optillm/.ready: benchmarks/requirements-optillm.txt
	@$(PYTHON) -m venv $(GATEWAYS)-optillm
	@$(GATEWAYS)-optillm/bin/python -m pip install --quiet --disable-pip-version-check -r $< --constraint constraints.txt
	@touch $@

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Suffice needs Python 3.11 or newer; '$(PYTHON)' is not. Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "'$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
