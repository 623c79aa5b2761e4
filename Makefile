# `make demo` and `make test` do all the set-up they need on a fresh machine with Python 3.10 to 3.12.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
CLAIM ?= claim
JOBS ?= 2
AUDIOCRAFT = 1.3.0
ABLATED = claim mos_granularity levels masked_vs_full patch_overlap guidance controls mask_ratio
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: install demo codec pretrained-data pretrained fast pictures claim-data claim test lint docs bench clean
.PHONY: ablations $(ABLATED:%=ablation-%)

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

# The learned codec of the package, from nothing: real music (Debian's packages), the playground, hours of training on
# a core. Resumable: interrupt it at any time and call it again.
CODEC_RUN = solver=compression/qamdt_spectral dset=codec optim.epochs=32 schedule.lr_scheduler=cosine \
  +schedule.cosine.warmup=200 +schedule.cosine.lr_min_ratio=0.02 +schedule.cosine.cycle_length=1.0
codec: install
	test -e egs/real_music/train/data.jsonl.gz || tools/real_music.sh egs/real_music
	$(BIN)/qamdt playground egs/codec/music --tracks 2000 --degraded 0.6 --seed 21 --splits train=0.98,valid=0.02
	for split in train valid; do \
	  $(BIN)/python tools/mix_manifests.py egs/codec/$$split egs/codec/music/$$split:0.85 egs/real_music/$$split:0.15 || exit 1; \
	done
	$(BIN)/dora run $(CODEC_RUN)
	$(BIN)/python tools/embed_codec.py $(CODEC_RUN)

# The embedded model, from nothing: more of the playground, its latents once, hours of training. Resumable, too.
PRETRAINED = solver=qamdt/playground dset=pretrained cache.path=egs/pretrained/latents
pretrained-data: install
	$(BIN)/qamdt playground egs/pretrained --tracks 5000 --degraded 0.5 --seed 31 --splits train=0.98,valid=0.02
	for split in train valid; do $(BIN)/qamdt annotate egs/pretrained/$$split || exit 1; done
	test -e egs/pretrained/latents/done || $(BIN)/dora run $(PRETRAINED) cache.write=true mdt.dim=64 mdt.depth=2 \
	  mdt.decoder_depth=0 optim.epochs=12 optim.updates_per_epoch=260 evaluate.every=null generate.every=null
	touch egs/pretrained/latents/done

pretrained: pretrained-data
	$(BIN)/dora run $(PRETRAINED) optim.epochs=117 optim.updates_per_epoch=260 evaluate.every=null generate.every=null
	$(BIN)/python tools/embed_model.py $(PRETRAINED) optim.epochs=117 optim.updates_per_epoch=260 evaluate.every=null \
	  generate.every=null

# Its student of few steps, `--model fast`: guidance goes inside first, then 12 steps become 4.
FAST = solver=qamdt/distill dset=pretrained cache.path=egs/pretrained/latents evaluate.every=null generate.every=null \
  distill.text_scale=[1,3] distill.quality_scale=[1,3]
GUIDED = $(FAST) distill.steps=12 distill.teacher_steps=1 optim.epochs=4
SIGNATURE = $(BIN)/python -c "import sys; from audiocraft_qamdt.train import main; print(main.get_xp(sys.argv[1:]).sig)"
fast: pretrained-data
	$(BIN)/dora run $(GUIDED)
	sig=$$($(SIGNATURE) $(GUIDED)) && $(BIN)/dora run $(FAST) optim.epochs=12 continue_from=//sig/$$sig && \
	  $(BIN)/python tools/embed_model.py $(FAST) optim.epochs=12 continue_from=//sig/$$sig

# README's pictures, from the embedded model, and that of a listening test (Chromium takes it).
pictures: install
	$(BIN)/python tools/pictures.py docs/images
	$(BIN)/python tools/listening_picture.py docs/images

# Resumable: interrupt it at any time and call it again. JOBS experiments at once, each with its share of the cores.
# QAMDT_ARGS="optim.epochs=40 evaluate.every=10" trains longer and gives curves, QAMDT_SEEDS=0 is the first seed alone.
CLAIM_TRACKS ?= 1200
CLAIM_BASELINE = conditioner=qamdt/none generate.quality=null dataset.train.filter_below=default \
  dataset.train.filter_share=1.0 quality.null_level=0 continue_from=default
claim-data: install
	$(BIN)/qamdt playground egs/claim/music --tracks $(CLAIM_TRACKS)
	$(BIN)/qamdt playground egs/claim/scarce --tracks $(CLAIM_TRACKS) --degraded 0.95
	$(BIN)/qamdt playground egs/claim/clean --tracks 128 --degraded 0 --seed 2 --splits evaluate=1
	for set in music scarce; do \
	  for split in train valid; do $(BIN)/qamdt annotate egs/claim/$$set/$$split || exit 1; done; \
	  grep -q noise_range egs/claim/$$set/train/quality.json || $(BIN)/qamdt noise-range egs/claim/$$set/train || exit 1; \
	done
	tools/claim_latents.sh $(BIN) egs/claim/latents

claim: claim-data
	for grid in claim claim_95; do \
	  QAMDT_CACHE=egs/claim/latents $(BIN)/qamdt grid qamdt.$$grid --jobs $(JOBS) || exit 1; \
	  $(BIN)/qamdt report --grid qamdt.$$grid --baseline "$(CLAIM_BASELINE)" --out $(CLAIM)/$$grid || exit 1; \
	done

# The other grids on the claim's data, with half its updates; resumable, too. The claim's own arms come first, to show that
# their order at this length is that of the whole. Four runs of `controls` train on other tracks or labels than the
# claim's latents are of, and encode their audio. `make ablation-levels` and so on is one grid.
ABLATIONS ?= ablations
ABLATION_LENGTH ?= optim.epochs=6 evaluate.every=6
ABLATION_CACHE = cache.path=egs/claim/latents/claim-0
ABLATION_MODEL = solver=qamdt/playground_small dset=claim solver/qamdt/evaluation=playground generate.quality=5 seed=0 \
  $(ABLATION_LENGTH) $(ABLATION_CACHE)
ABLATION_ARGS = $(ABLATION_LENGTH) $(ABLATION_CACHE)
ablation-claim: ABLATION_ARGS = $(ABLATION_LENGTH)
ablation-claim: ABLATION = QAMDT_FILTERED=1 QAMDT_CACHE=egs/claim/latents
ablation-levels ablation-masked_vs_full: ABLATION = QAMDT_SEEDS=0
ablation-patch_overlap: ABLATION = QAMDT_SEEDS=0 QAMDT_OVERLAPS=0,1
ablation-guidance: ABLATION = QAMDT_FROM="$$($(SIGNATURE) $(ABLATION_MODEL))"
ablation-mask_ratio: ABLATION_ARGS = optim.epochs=6 evaluate.every=3 $(ABLATION_CACHE)
ablation-mask_ratio: ABLATION = QAMDT_KINDS=random
ablation-controls: ABLATION_ARGS = $(ABLATION_LENGTH)
ablation-controls: ABLATION = QAMDT_SEEDS=0 QAMDT_CACHE=egs/claim/latents
ablation-mos_granularity: ABLATION =
ablation-guidance: ablation-mos_granularity
ablations: $(ABLATED:%=ablation-%)
$(ABLATED:%=ablation-%): ablation-%: claim-data
	export QAMDT_SOLVER=qamdt/playground_small QAMDT_DSET=claim QAMDT_ARGS="$(ABLATION_ARGS)" $(ABLATION); \
	$(BIN)/qamdt grid qamdt.$* --jobs $(JOBS) && $(BIN)/qamdt report --grid qamdt.$* --out $(ABLATIONS)/$*

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

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
# Against the authors' class, of which you need a checkout: `python -m benchmarks.against_official --code DIR`.
bench: install
	$(BIN)/python -m benchmarks $(BENCH)

clean:
	rm -rf $(VENV) $(DEMO) site
