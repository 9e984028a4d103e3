# The only commands a developer needs. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := moderation marketplace ledger featurestore feature_repo components pipelines serving tidegate
PYTHON ?= python3.11
UV_VERSION := 0.13.8
# Compiled modules are kept, whatever the caller's shell says: without them every step of a run
# compiles its libraries again.
export PYTHONDONTWRITEBYTECODE :=
export DO_NOT_TRACK := 1
export HF_HUB_OFFLINE := 1

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[36m%-14s\033[0m %s\n", $$1, $$2}'

.PHONY: setup
setup: $(STAMP) ## install exactly the locked environment into .venv (idempotent)

$(STAMP): requirements.lock pyproject.toml
	@scripts/setup $(VENV) $(UV_VERSION) $(PYTHON)
	@touch $@

.PHONY: lock
lock: setup ## compile requirements.lock anew, with hashes and without index lines
	$(BIN)/uv pip compile pyproject.toml --all-extras --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --quiet -o requirements.lock

.PHONY: demo
demo: setup ## run the main job end to end; DATA=<parquet or folder> runs it on your own listings
	@$(BIN)/tidegate demo $(if $(DATA),--data '$(DATA)') $(if $(MAPPING),--mapping '$(MAPPING)')

.PHONY: format
format: setup ## format the code
	$(BIN)/ruff format . && $(BIN)/ruff check --fix-only .

.PHONY: lint
lint: setup ## ruff, mypy, layering, YAML
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy $(PACKAGES) scripts tests benchmarks
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict .

.PHONY: test
test: setup ## unit and integration tests
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit tests/integration

.PHONY: chaos
chaos: setup ## kill, freeze and starve the gate's processes under load (four minutes)
	$(BIN)/python -m pytest tests/chaos

.PHONY: fuzz
fuzz: setup ## read 100,000 hostile inputs and call the whole HTTP API; ARGS="image text --inputs 5000" for less
	$(BIN)/python -m tests.fuzz $(ARGS)

.PHONY: contract
contract: setup ## golden pipelines, documents, layering of files, the simulated world
	$(BIN)/python -m pytest tests/contract

.PHONY: doctor
doctor: setup ## show that every gate fires: known-good and known-bad candidates; RATES=200 for the published rates
	$(BIN)/tidegate gates doctor $(if $(RATES),--rates $(RATES))

.PHONY: audit
audit: setup ## check that the simulated world does not give its answers away (two minutes)
	$(BIN)/tidegate simulate audit

.PHONY: check
check: lint test contract doctor ## what every commit must pass; CI adds the audit, small benchmarks and the demo

.PHONY: alerts
alerts: setup ## render the alert rules from the contract into manifests/monitoring
	$(BIN)/python -m serving.alerts > manifests/monitoring/alerts.yaml

.PHONY: pipelines
pipelines: setup ## compile the pipelines into build/pipelines
	$(BIN)/tidegate pipelines compile

.PHONY: bench
bench: setup ## print one table against peers: NAME=<folder under benchmarks>
	@test -n "$(NAME)" || { echo "say which: make bench NAME=training (see benchmarks/)"; exit 2; }
	$(BIN)/python -m benchmarks.$(NAME) $(if $(DATA),--data "$(DATA)") $(ARGS)

.PHONY: bench-smoke
bench-smoke: setup ## run every benchmark small
	@for path in benchmarks/*/__main__.py; do name=$$(basename $$(dirname $$path)); \
	  echo "== $$name"; $(BIN)/python -m benchmarks.$$name --smoke || exit 1; done

.PHONY: component
component: setup ## scaffold a pipeline step: NAME=<verb phrase>
	@$(BIN)/python -m scripts.scaffold component "$(NAME)"

.PHONY: adr
adr: setup ## scaffold a decision record: TITLE="..."
	@$(BIN)/python -m scripts.scaffold adr "$(TITLE)"

.PHONY: clean
clean: ## remove what was built; keeps .venv
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
