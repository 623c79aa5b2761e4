# `make demo` and `make test` do all the set-up they need on a fresh machine with Python 3.10 to 3.12.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
CLAIM ?= claim
JOBS ?= 2
AUDIOCRAFT = 1.3.0
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: install demo claim test lint docs bench clean

install: $(STAMP)

# AudioCraft without its pins, from its source archive: that one holds the config/ folder its own solvers need.
$(STAMP): requirements.txt setup.cfg Makefile
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip "setuptools>=68,<81" wheel
	$(BIN)/pip install --quiet -r requirements.txt
	rm -rf $(VENV)/share/audiocraft && mkdir -p $(VENV)/share/audiocraft
	$(BIN)/pip download --quiet --no-deps --no-binary audiocraft --no-build-isolation -d $(VENV)/share/audiocraft audiocraft==$(AUDIOCRAFT)
	tar xzf $(VENV)/share/audiocraft/audiocraft-$(AUDIOCRAFT).tar.gz -C $(VENV)/share/audiocraft --strip-components=1 audiocraft-$(AUDIOCRAFT)/config
	$(BIN)/pip install --quiet --no-deps --no-build-isolation $(VENV)/share/audiocraft/audiocraft-$(AUDIOCRAFT).tar.gz
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: install
	$(BIN)/qamdt demo --out $(DEMO)

# Resumable: interrupt it at any time and call it again. JOBS experiments at once, each with its share of the cores.
claim: install
	$(BIN)/qamdt playground egs/claim/music --tracks 1200
	$(BIN)/qamdt playground egs/claim/clean --tracks 128 --degraded 0 --seed 2 --splits evaluate=1
	for split in train valid; do $(BIN)/qamdt annotate egs/claim/music/$$split || exit 1; done
	QAMDT_DSET=claim $(BIN)/qamdt grid qamdt.claim --jobs $(JOBS)
	$(BIN)/qamdt report --grid qamdt.claim --baseline "none dataset.train.share=default" --out $(CLAIM)

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The manual as a site in site/, with the API reference; a broken link is an error. `make docs DOCS=serve` while writing.
DOCS ?= build
docs: install
	$(BIN)/pip install --quiet --no-build-isolation -e ".[docs]"
	$(BIN)/mkdocs $(DOCS)

# Minutes of work on an idle machine; not part of the tests. BENCH="--only small" and so on: `python -m benchmarks --help`.
bench: install
	$(BIN)/python -m benchmarks $(BENCH)

clean:
	rm -rf $(VENV) $(DEMO) site
