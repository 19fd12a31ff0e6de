# Front door for people, pre-commit and CI. `make help` lists the targets; there is no logic here.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export TCP_NODELAY := 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo fmt check unit sim seed fuzz test peers bench docs wheel wheel-test ci clean

##@ Start
setup: $(VENV)/.run ## Create .venv from the lock file: what Raypost needs to run
setup-dev: $(VENV)/.dev ## The same with what developers need

demo: $(VENV)/.run ## Two hospitals and a relay here, a CT is sent. ONCE=1 ends after delivery, STUDY=path, JSON=file, FAULTS=name
	@$(BIN)/raypost demo $(if $(ONCE),--once) $(if $(FAULTS),--faults "$(FAULTS)") \
	  $(if $(STUDY),--study "$(STUDY)") $(if $(JSON),--json-file "$(JSON)")

##@ Every day
fmt: $(VENV)/.dev ## Format and sort imports
	$(BIN)/ruff format src tests tools
	$(BIN)/ruff check --fix src tests tools

check: $(VENV)/.dev ## Lint, imports, types, spelling, generated docs, rules of the house
	$(BIN)/ruff check src tests tools
	$(BIN)/ruff format --check src tests tools
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/codespell src tests docs tools README.md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md SECURITY.md
	$(BIN)/python tools/generate_docs.py --check
	$(BIN)/pytest -q tests/test_tidy.py

unit: $(VENV)/.dev ## Tests of single modules: no peers, no whole sites
	$(BIN)/pytest -q -n 3 tests/test_tidy.py tests/test_docs.py tests/unit --ignore tests/unit/stations --ignore tests/unit/cli

sim: $(VENV)/.run ## A whole network from each seed, in all weathers. SEEDS=2000, WEATHER=storm
	$(BIN)/python -m raypost.lab.simulator --seeds $(or $(SEEDS),500) $(if $(WEATHER),--weather $(WEATHER))

seed: $(VENV)/.run ## One seed with a readable trace. S=481, WEATHER=storm
	@$(BIN)/python -m raypost.lab.simulator --seed $(or $(S),0) $(if $(WEATHER),--weather $(WEATHER))

fuzz: $(VENV)/.dev ## Mutated input for every reader of foreign bytes. MINUTES=2
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),2)

test: $(VENV)/.dev peers ## All tests, with real Postfix, Dovecot, DCMTK, Orthanc, gpg
	$(BIN)/pytest -q -n 3 tests --ignore tests/e2e --ignore tests/contract/mail
	$(BIN)/pytest -q -n 2 --dist loadfile tests/contract/mail tests/e2e

peers:
	@sh tools/install_peers.sh

##@ Before a release
bench: $(VENV)/.dev peers ## Figures, in Markdown and JSON (bench-data/)
	$(BIN)/python -m tests.bench $(if $(OUT),--out "$(OUT)")

docs: $(VENV)/.dev ## Fill in the generated pages of docs/reference
	$(BIN)/python tools/generate_docs.py

wheel: $(VENV)/.dev ## Build the wheel into dist/
	$(BIN)/python -m build --no-isolation --wheel

wheel-test: wheel ## Install the wheel in an empty environment and run the demonstration from it
	sh tools/test_wheel.sh

ci: check test sim wheel-test ## What CI runs: check, test, sim, wheel in an empty environment, demo
	$(MAKE) demo ONCE=1

clean: ## Remove everything that was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis bench-data fuzz-data

help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.run: requirements/run.txt pyproject.toml
	@PYTHON="$(PYTHON)" sh tools/setup.sh run

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	@PYTHON="$(PYTHON)" sh tools/setup.sh dev
