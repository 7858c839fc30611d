# make demo   from a clone to a cited answer
# make browser  Chromium, which the tests of the page drive, where it is missing and may be installed
# make test   the tests          make check   lint, types and format
# make bench  the figures of docs/performance.md; bench-encode: those of the encoder and its API, with Infinity as peer
# make bench-index   the vector index against hnswlib, at 1M vectors or SIZE=N
# make bench-quality what the default search finds, and what its stages cost
# make bench-ingest  whether an ingest can be left alone;  make crash-test  200 kills amid one, and what is synced when
# make fault-test    a disk that fails at each step;  make fuzz  SECONDS=1800 for each reader, then the routes that write

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
# cpu or gpu: which FAISS
FAISS  ?= cpu
READY  := $(VENV)/.ready-$(FAISS)

# infinity_emb in an environment of its own, for the comparison
PEER   := .venv-infinity

.PHONY: demo browser test check docs bench bench-encode bench-index bench-quality bench-ingest crash-test fault-test fuzz clean

demo: $(VENV)/.runs-$(FAISS)
	$(BIN)/embedsvc demo

browser:
	command -v chromium || { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; } || echo "no chromium: tests of the page are skipped"

# Two at a time, by files: fixtures of a module are made once. In the order of names, so that no long file comes last.
WORKERS ?= 2

test: $(READY)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for page in python openai mcp; do \
	    $(BIN)/python -m tests.examples docs/$$page.md | $(BIN)/mypy /dev/stdin || exit 1; \
	done
	$(BIN)/python -m tests.examples --apart docs/integrations.md | $(BIN)/mypy /dev/stdin

# The page of all commands and flags; a test compares it.
docs: $(READY)
	$(BIN)/typer embedsvc.cli.commands utils docs --name embedsvc --title 'Command line' --output docs/cli.md

bench: $(READY)
	$(BIN)/python benchmarks/all.py

bench-encode: $(READY) $(PEER)/.ready
	$(BIN)/python benchmarks/encode.py --json benchmarks/results/encode.json
	$(BIN)/python benchmarks/quality.py --json benchmarks/results/quality.json
	$(BIN)/python benchmarks/serve.py --infinity $(PEER)/bin/infinity_emb --json benchmarks/results/serve.json
	$(BIN)/python benchmarks/soak.py --json benchmarks/results/soak.json

# SIZE: vectors; hnswlib is built here from its sources
SIZE ?= 1000000
bench-index: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/index.py --size $(SIZE) --json benchmarks/results/index-$(SIZE).json

bench-quality: $(READY)
	$(BIN)/python benchmarks/answers.py --json benchmarks/results/answers.json

bench-ingest: $(READY)
	$(BIN)/python benchmarks/ingest.py --json benchmarks/results/ingest.json
	$(BIN)/python benchmarks/overnight.py --json benchmarks/results/overnight.json

KILLS ?= 200
FOLDER ?= ../shared/data/long/peps
crash-test: $(READY)
	$(BIN)/python -m tests.test_crash --kills $(KILLS) --folder $(FOLDER)
	$(BIN)/python -m tests.test_fsync

fault-test: $(READY)
	EVERY_STEP=1 $(BIN)/python -m pytest tests/test_faults.py

# of each target; EXAMPLES: requests for each route
SECONDS ?= 1800
EXAMPLES ?= 200
fuzz: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/test_schema.py
	$(BIN)/python fuzz/run.py --seconds $(SECONDS) --json benchmarks/results/fuzz.json

$(PEER)/.ready: constraints.txt
	$(PYTHON) -m venv $(PEER)
	grep '^torch==' constraints.txt > $(PEER)/constraints.txt
	$(PEER)/bin/pip install --quiet --disable-pip-version-check -c $(PEER)/constraints.txt \
	    'infinity_emb[server,torch]' 'typer<0.12' 'click<8.2'
	touch $@

# What it takes to run, without what only tests need.
$(VENV)/.runs-$(FAISS): pyproject.toml constraints.txt
	@echo "Installing into $(VENV): torch, Lance, FAISS and others, about 2 GB on the disk; some minutes …"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(FAISS),mcp]'
	touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(FAISS),dev]'
	touch $@

clean:
	rm -rf $(VENV) $(PEER)
