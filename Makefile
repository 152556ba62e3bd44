# Everything a newcomer needs: `make demo`, `make test`. Needs Python 3.11 or newer with venv, git and make.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
TEST_JOBS ?= 3
QUICKSTART := examples/quickstart

# The plugins, installed in place together with reprobox: no index is asked for them.
PLUGINS := $(wildcard plugins/*/pyproject.toml)
WITH_PLUGINS := $(patsubst %/pyproject.toml,-e ./%,$(PLUGINS))

BIN := $(VENV)/bin
PIP := "$(BIN)/python" -m pip --quiet --disable-pip-version-check
REPROBOX := "$(BIN)/reprobox"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

# The stamps stand for "this set of packages is installed"; a changed pyproject.toml installs anew. The project itself is
# installed in place, so a changed source file needs nothing.
$(VENV)/.made:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "reprobox needs Python 3.11 or newer; say which: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m venv "$(VENV)" || \
	  { echo "this Python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@touch "$@"

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	$(PIP) install -e .
	@touch "$@"

$(VENV)/.installed-%: $(VENV)/.made pyproject.toml $(PLUGINS)
	$(PIP) install -e '.[$*]' $(WITH_PLUGINS)
	@touch "$@"

.PHONY: demo
demo: $(VENV)/.installed ## lock, realize and run examples/quickstart
	$(REPROBOX) lock -C $(QUICKSTART)
	$(REPROBOX) realize -C $(QUICKSTART)
	$(REPROBOX) run -C $(QUICKSTART)
	@test -s $(QUICKSTART)/out/loss.png
	@echo "The plot of the loss: $(CURDIR)/$(QUICKSTART)/out/loss.png"

.PHONY: backends
backends: $(VENV)/.installed-docker,singularity ## install the backends for Docker, Podman and Apptainer into .venv
	"$(BIN)/reprobox" plugins

.PHONY: test
test: $(VENV)/.installed-test ## run the tests (PYTEST_ARGS='-k name' to choose, TEST_JOBS=0 to see one at a time)
	"$(BIN)/python" -m pytest --numprocesses $(TEST_JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/.installed-dev ## check style, types and the arrows of the design
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/lint-imports"

.PHONY: docs
docs: $(VENV)/.installed-docs ## build the documentation into docs/_build/html
	"$(BIN)/python" -m sphinx -q -W -n --keep-going -b html docs docs/_build/html
	@echo "The documentation: $(CURDIR)/docs/_build/html/index.html"

.PHONY: bench
bench: $(VENV)/.installed ## measure against Docker, buildah and mmdebstrap (needs root and the engines)
	"$(BIN)/python" benchmarks/bench.py --write benchmarks/RESULTS.md

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf "$(VENV)" build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage*
	rm -f $(QUICKSTART)/out/loss.png $(QUICKSTART)/out/weights.npz
	find reprobox plugins tests -name __pycache__ -type d -prune -exec rm -rf {} +
