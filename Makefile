# make demo   from a clone to a cited answer
# make test   the tests          make check   lint, types and format
# make bench  the figures of docs/performance.md

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
# cpu or gpu: which FAISS
FAISS  ?= cpu
READY  := $(VENV)/.ready-$(FAISS)

.PHONY: demo test check bench clean

demo: $(READY)
	$(BIN)/embedsvc demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/all.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(FAISS),dev]'
	touch $@

clean:
	rm -rf $(VENV)
