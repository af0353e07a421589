# Seekable. `make` alone lists what can be done; everything installs what it needs first.

PYTHON ?= python3
ARGS   ?=

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
HELM  := $(VENV)/.helm
PIP   := $(BIN)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.PHONY: help install run run-gridfs test soak bench lint format lock build clean
.SUFFIXES:

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) $(HELM) ## set up .venv with everything the program and its tests need

run: $(STAMP) ## start the server (ARGS="--port 9000")
	$(BIN)/seekable serve $(ARGS)

run-gridfs: $(STAMP) ## start the server over GridFS, on a MongoDB of its own in .mongodb
	$(BIN)/python deploy/run_gridfs.py $(ARGS)

test: install ## run every test, real clients included (ARGS="-k range")
	@sh tests/tools.sh
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

soak: install ## run what takes too long for `make test`: memory under load, kill -9 at each call, long faults
	$(BIN)/python tests/soak/memory.py $(ARGS)
	$(BIN)/python tests/soak/kills.py
	$(BIN)/pytest -n 2 -m campaign

bench: install ## measure it beside nginx, Caddy, aiohttp and Starlette: half an hour (ARGS=--quick: 3 minutes)
	@sh benchmarks/tools.sh
	$(BIN)/python -m benchmarks $(ARGS)

lint: install ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## fix what can be fixed by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# It names no index: --no-config keeps a machine's own out, and the last line fails when one got in all the same.
# What the image and the chart's tests install are parts of it: the same versions, in files of their own.
LOCK := $(BIN)/uv pip compile --quiet --no-config --universal --generate-hashes --no-annotate --custom-compile-command 'make lock'
PART := $(LOCK) --constraints requirements.lock

lock: install ## remake requirements.lock and its parts from pyproject.toml (ARGS=--upgrade)
	$(LOCK) --python-version 3.11 --all-extras $(ARGS) --output-file requirements.lock pyproject.toml
	$(PART) --python-version 3.11 --output-file deploy/image.lock pyproject.toml
	echo hatchling | $(PART) --python-version 3.11 --output-file deploy/build.lock -
	$(PART) --no-deps --python-version 3.12 $(ARGS) --output-file tests/k8s/requirements.lock tests/k8s/requirements.in
	@! grep -nE '://|file:|^-|@ ' requirements.lock deploy/*.lock tests/k8s/requirements.lock

build: install ## make a wheel in dist/
	rm -rf dist
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

clean: ## remove what builds and tests leave behind, but not .venv, files/ or .mongodb
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . \( -path ./.venv -o -path ./.git -o -path ./files \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last, so an installation that was broken off is done again. --no-build-isolation: the backend is in the
# lock; an isolated build would fetch the newest one, unchecked.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Seekable needs Python 3.11 or newer and $(PYTHON) is %d.%d: choose another with make PYTHON=..." % v[:2])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { $(ensure_venv); $(PYTHON) -m venv --clear $(VENV); }
	@echo 'Installing into $(VENV) what requirements.lock names: about a minute the first time'
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# Not for who only runs it: it is large. --ignore-requires-python: the library that has Helm's code says that it wants Python
# 3.12, and needs nothing of it.
$(HELM): $(STAMP) tests/k8s/requirements.lock
	@echo 'Installing what the tests of the chart need'
	@$(PIP) install --require-hashes --no-deps --ignore-requires-python -r tests/k8s/requirements.lock
	@touch $@

# Debian and Ubuntu ship Python without ensurepip, and `python -m venv` then fails halfway with advice over ten lines.
define ensure_venv
$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then \
		echo "Installing $$package" && apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "$$package" </dev/null >/dev/null; \
	else \
		echo "$(PYTHON) cannot make a virtual environment: apt-get install $$package, then make again" >&2; false; \
	fi; } || exit 1
endef
