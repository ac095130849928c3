# make verify   the conformance suite on all four implementations: reference, torch, tensorflow, jax
# make test     all tests
# make check    formatter, linter, type checker
# make clean    remove what the others made
#
# Everything is installed into .venv, once, and again when pyproject.toml or constraints.txt change.

PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
# Written last: an installation that was interrupted leaves no stamp, and the next run goes on with it.
STAMP := $(VENV)/installed

.PHONY: verify test check browser clean
.DELETE_ON_ERROR:

verify: $(STAMP)
	$(BIN)/attnspec verify --require reference,torch,tensorflow,jax

# One worker on each core: threads inside them would only wait for one another.
test: $(STAMP) browser
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Reports are tested in a real browser. Where it can be installed, it is; where not, its tests say that they are skipped,
# and in CI they fail.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || \
		{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends chromium; }

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find reference backends conformance tests -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	rm -f $@
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"attnspec needs Python 3.11 or newer; $(PYTHON) is {v.major}.{v.minor}: say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable '.[all,dev]' --constraint constraints.txt
	touch $@
