# Everything that a newcomer needs: `make demo`, `make test`. The virtual environment and the locked
# dependencies are set up by whichever target needs them first, and again when the lock file changes.

PYTHON ?= python3
PORT ?= 8000
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
READY_RACK := $(VENV)/.ready-rack
# Percent of lines and branches; all of it was measured at 97, and a change should not take it below 96.
KILLS ?= 100
FRAMES ?= 1000000
COVERAGE_FLOOR := 96
# For checks that need settings but no service: what a deployment sets, with values of no use elsewhere.
PRODUCTION_LIKE := env SECRET_KEY=$$($(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(64))') TLS=1 \
	DEBUG=0 ALLOWED_HOSTS=headend.example MASTER_KEY_FILE=/etc/ami-headend/master.keys \
	DATABASE_URL=postgres://headend@127.0.0.1:1/headend REDIS_URL=redis://127.0.0.1:1/0

.DEFAULT_GOAL := help
.PHONY: help demo up test coverage soak kills mutants rack bench lint format lock clean distclean

help:
	@echo "make demo      the whole head-end with simulated meters and attackers (PORT=$(PORT))"
	@echo "make up        the head-end alone, for real concentrators (PORT=$(PORT))"
	@echo "make test      all tests, on real services (ARGS='-k opening')"
	@echo "make coverage  all tests, and how much of the code they run: at least $(COVERAGE_FLOOR) %"
	@echo "make soak      the long tests: keys rotated under load and kill -9; 96 random lives of a head-end (SOAK_LIVES); every fault around it"
	@echo "make kills     kill -9 of every kind of process under load; goes on counting in var/kills.json (KILLS=500)"
	@echo "make mutants   changed frames of every form; goes on counting in var/mutants.json (FRAMES=10000000)"
	@echo "make rack      hosts as network namespaces, with Patroni, etcd and HAProxy, and each fault of a matrix (ARGS='--help'); needs root"
	@echo "make bench     measures against the floor (ARGS='--help')"
	@echo "make lint      format, lint, types, import contracts, migrations, deployment checks, API schema"
	@echo "make format    formats the code"
	@echo "make lock      locks the dependencies of pyproject.toml anew, with hashes, in requirements/"
	@echo "make clean     removes the virtual environment and caches; leaves var/ (database, keys) alone"
	@echo "make distclean removes var/ too, after asking"

$(READY): requirements/local.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "This needs Python 3.11 or newer as $(PYTHON): install it, or name it: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) lacks the venv module: install it (Debian, Ubuntu: apt install python3-venv)." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/local.txt
	@touch $@

$(READY_DEV): requirements/dev.txt $(READY)
	@echo "Installing the locked tools for tests and lint into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

# exec: make's shell gives way to the process itself, so that Ctrl-C and SIGTERM reach it.
demo: $(READY)
	@exec $(BIN)/python manage.py demo --port $(PORT) $(ARGS)

up: $(READY)
	@exec $(BIN)/python manage.py up --port $(PORT) $(ARGS)

# Pages are tested in Chromium, which is no Python package: brought where that is possible, and else left out.
test: $(READY_DEV)
	@.ci/bring chromium "the tests of pages"
	@exec $(BIN)/python -m pytest -n 4 --dist loadfile $(ARGS)

# The processes that tests start are measured, too: it takes longer than `make test`.
coverage: $(READY_DEV)
	@.ci/bring chromium "the tests of pages"
	@$(BIN)/coverage erase
	@$(BIN)/python -m pytest -n 4 --dist loadfile --cov --cov-report= --cov-fail-under=0 $(ARGS) && \
		$(BIN)/coverage report --fail-under=$(COVERAGE_FLOOR)

soak: $(READY_DEV)
	@exec $(BIN)/python -m pytest -m soak -n 2 -raP $(ARGS)

kills: $(READY_DEV)
	@exec env KILLS=$(KILLS) $(BIN)/python -m pytest -m soak -n 0 -rP $(ARGS) tests/flows/test_soak_kills.py

mutants: $(READY_DEV)
	@exec $(BIN)/python -m tests.mutation --frames $(FRAMES) --state var/mutants.json $(ARGS)

$(READY_RACK): requirements/rack.txt $(READY_DEV)
	@echo "Installing Patroni, as it is locked, into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/rack.txt
	@touch $@

# etcd and HAProxy are no Python packages: brought where that is possible.
rack: $(READY_RACK)
	@.ci/bring etcd-server "the rack" etcd
	@.ci/bring haproxy "the rack" /usr/sbin/haproxy
	@exec $(BIN)/python -m tests.rack $(ARGS)

bench: $(READY_DEV)
	@exec $(BIN)/python -m bench $(ARGS)

lint: $(READY_DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PRODUCTION_LIKE) $(BIN)/python manage.py makemigrations --check --dry-run --skip-checks
	$(PRODUCTION_LIKE) $(BIN)/python manage.py check --deploy --fail-level WARNING
	$(PRODUCTION_LIKE) $(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null

format: $(READY_DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# No index addresses in the lock files: where packages come from is the machine's own configuration.
COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header
AS_DEV = --constraint requirements/dev.txt
lock: $(READY_DEV)
	$(COMPILE) --extra dev --output-file requirements/dev.txt
	$(COMPILE) $(AS_DEV) --output-file requirements/base.txt
	$(COMPILE) $(AS_DEV) --extra local --output-file requirements/local.txt
	$(COMPILE) $(AS_DEV) --extra hsm --output-file requirements/hsm.txt
	$(COMPILE) $(AS_DEV) --extra rack --output-file requirements/rack.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@if [ -e var ]; then echo "var/ stays: it holds the local database and the master key (make distclean removes it)."; fi

distclean: clean
	@if [ -e var ]; then \
		printf 'Delete var/ with the local database and its master key for good? Type yes: '; read answer; \
		[ "$$answer" = yes ] && { [ ! -L var/postgres ] || rm -rf "$$(dirname "$$(readlink var/postgres)")"; rm -rf var; } || { echo "var/ stays."; exit 1; }; fi
