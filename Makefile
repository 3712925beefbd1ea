# make run: start the server on PORT, with SQLite under ./data, open to guests on loopback.
# make test: lint, types, import rules and every test, some once more without the C extension. The rest is below.

PYTHON ?= python3
PORT ?= 8080
BIN = .venv/bin
# Where sending to many differs without the C extension.
SENDING = batch delivery event_stream fanout growing hub room session slow_reader socket_line websocket
WITHOUT_EXTENSION = $(SENDING:%=tests/live/test_%.py) tests/test_server.py tests/test_crash.py tests/verify/test_verify.py
# Tests wait more than they compute: two at a time take half as long on two cores. A file's tests stay together.
# Without the last option xdist 3.8 waits for ever once one of the two has died.
PYTEST = $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --max-worker-restart 0
PIP = $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: run test lint clean
.SILENT:

run: .venv/installed
	exec $(BIN)/python -m tornado_chat serve --guests --database sqlite:///data/chat.db --port $(PORT)

test:
	PYTHON="$(PYTHON)" sh tests/support/setup.sh
	$(MAKE) --no-print-directory .venv/installed-tests .venv/installed-chainlit
	$(MAKE) --no-print-directory lint
	$(PYTEST)
	TORNADO_CHAT_PURE=1 $(PYTEST) $(WITHOUT_EXTENSION)

lint: .venv/installed-tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	sh tests/web/javascript/check.sh

clean:
	rm -f tornado_chat/live/*.so
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -rf tests/web/javascript/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "make: $(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python setup.cfg setup.py pyproject.toml tornado_chat/live/_fanout.c
	echo "installing into .venv (once) ..."
	$(PIP) install --editable .
	touch $@

.venv/installed-tests: .venv/installed
	$(PIP) install --editable '.[test]'
	touch $@

# It pins what other tests need otherwise, and brings a hundred packages.
.venv/installed-chainlit: .venv/installed
	$(BIN)/python -m venv .venv/chainlit
	.venv/chainlit/bin/python -m pip --quiet --disable-pip-version-check install --editable . 'chainlit>=2.12,<3'
	touch $@
