# Every target sets up what it needs; a second call starts its work at once.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup setup-test qualify gpu-check test check bench gallery types clean

BIN := .venv/bin
QUALIFY_PATH ?= ./iobench-data
PRESET ?= quick
ARGS ?=
WORKERS ?= 0

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo '  variables: PYTHON=python3.12, ARGS="-k words" (pytest), WORKERS=2 (test, in two processes),'
	@echo '             QUALIFY_PATH=/mnt/nfs PRESET=quick (qualify)'

setup:  ## .venv with torch, Horovod (about 4 minutes the first time) and iobench; GPU=1 with NCCL and what uses a GPU
	@setup/environment.sh run

setup-test:  ## that, and DALI, kvikio and the development tools
	@setup/environment.sh test

qualify: setup  ## the storage verdict for QUALIFY_PATH; met or missed, make ends with 0
	@status=0; $(BIN)/iobench qualify $(QUALIFY_PATH) --preset $(PRESET) || status=$$?; \
	case $$status in 0 | 1) ;; *) exit $$status ;; esac

# Needs no network: it takes .venv, else PYTHON (python3) with the packages that are there.
gpu-check:  ## tests, rates and training on this machine's GPU in under 9 minutes; ARGS="--minutes 5" (docs/gpu.md)
	@mkdir -p build/link && ln -sfn "$(CURDIR)" build/link/iobench
	@python=$(BIN)/python; status=0; [ -x $$python ] || python=$${PYTHON:-python3}; \
	PYTHONPATH="$(CURDIR)/build/link" $$python -P -m iobench.gpu_check $(ARGS) || status=$$?; \
	case $$status in 0 | 1) ;; *) exit $$status ;; esac

# Children import what another has compiled, also where the environment forbids Python to keep that.
test: setup-test  ## the tests, but for the slow ones
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -m 'not slow' -n $(WORKERS) --dist loadfile $(ARGS)

check: setup-test types  ## ruff and mypy --strict
	@$(BIN)/ruff check --quiet --output-format concise .
	@$(BIN)/ruff format --check --quiet . || { echo "make check: 'ruff format .' would change files" >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@echo "make check: ruff and mypy have nothing to say"

bench: setup-test  ## the slow tests, and every script in tests/bench, in turn
	@$(BIN)/pytest -m slow $(ARGS)
	@for script in tests/bench/*.py; do \
	    [ -e "$$script" ] || { echo "there is no script in tests/bench yet"; break; }; \
	    echo "== $$script"; $(BIN)/python "$$script" || exit; \
	done

gallery: setup-test  ## pages of the reference runs in build/gallery, their pictures in docs/pictures (wants chromium)
	@$(BIN)/python tests/gallery.py

# mypy has to see the root folder as the package it is when installed.
types:
	@rm -rf build/types && mkdir -p build/types/iobench
	@for entry in *.py py.typed */__init__.py; do \
	    ln -s "../../../$${entry%/__init__.py}" build/types/iobench/; \
	done

clean:  ## removes .venv and what was built; data and runs stay
	@rm -rf .venv build dist *.egg-info loaders/images/*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +
