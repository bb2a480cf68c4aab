# audio-distill. `make help` lists everything.
#
#   make demo                                   a real Whisper distilled on 2 cores in 8 minutes
#   make demo-tagger                            an audio tagger on 2 cores in 13 minutes
#   make demo-hears                             one model that transcribes and tags sounds
#   make NAME NGPU=8 SET="train.max_steps=10 output_dir=runs/short"

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

BASE_PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PYTHON := $(VENV)/bin/python
NGPU ?= 1
TO ?= ct2
SET ?=

RECIPES := $(patsubst recipes/%/recipe.yaml,%,$(wildcard recipes/*/recipe.yaml))
LAUNCH = $(if $(filter 1,$(NGPU)),$(PYTHON),$(VENV)/bin/accelerate launch \
  --config_file recipes/accelerate/ddp.yaml --num_processes $(NGPU))
LABELS = $(RECIPES:%=%.label)
TRAINS = $(RECIPES:%=%.train)
EVALS = $(RECIPES:%=%.eval)
ROBUSTNESS = $(RECIPES:%=%.robustness)
EXPORTS = $(RECIPES:%=%.export)
PUSHES = $(RECIPES:%=%.push)
PUSHED_LABELS = $(RECIPES:%=%.push_labels)
PLANS = $(RECIPES:%=%.plan)
SWEEPS = $(RECIPES:%=%.sweep)
BENCHES = bench.label bench.train bench.decode bench.latency bench.roofline bench.scores bench.store bench.tag bench.consistency bench.gpu
FORMATTED = distill/cli setup.py
STRICT = distill/cli distill/__main__.py distill/data/formats distill/data/sources distill/losses \
  distill/metrics distill/training distill/whisper/encoder
FAMILIES = $(RECIPES:%=%.family)
PROMPTS = $(RECIPES:%=%.prompts)
ENCODERS = $(RECIPES:%=%.encoder)
CLEANS = $(RECIPES:%=%.clean)
# tests of what is computed, by kernels that depend on the processor
NUMERICAL = $(patsubst %,tests/%.py,losses/test_losses losses/test_targets losses/test_divergences \
  losses/test_products training/test_optimizer ced/model/test_checkpoint ced/model/test_frontend \
  ced/model/test_model ced/model/test_pipeline ced/teachers/test_frames whisper/data/test_collate \
  whisper/data/test_recorded whisper/decoding/test_decoder \
  whisper/decoding/drafting/test_near_ties whisper/decoding/drafting/test_speculative \
  whisper_at/test_whisper_at)
# what reads the texts of a recipe aloud; most have none
READER = $(if $(wildcard recipes/$*/read_aloud.yaml),$(PYTHON) -c "import ttspico" 2> /dev/null || \
  $(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt ttspico)
# what some recipes need first: scenes mixed of recordings, teachers trained here
SCENES := $(patsubst recipes/%/scenes.yaml,%.scenes,$(wildcard recipes/*/scenes.yaml))
TEACHERS := $(patsubst recipes/%/teachers,%.teachers,$(wildcard recipes/*/teachers))

.PHONY: help setup lint test test.all docs test.portable $(BENCHES) $(RECIPES) $(LABELS) $(TRAINS) $(EVALS) $(ROBUSTNESS) $(EXPORTS) $(PUSHES) $(PUSHED_LABELS) $(PLANS) $(SWEEPS) $(FAMILIES) $(PROMPTS) $(CLEANS) $(SCENES) $(TEACHERS) demo-tagger.whisper $(ENCODERS)

help:
	@echo "make setup            make .venv and install everything, pinned (once)"
	@echo "make test             run the tests"
	@echo "make test.all         and those that say with real models, or once more, what others say"
	@echo "make test.portable    the tests of what is computed, as a processor without AVX-512 does"
	@echo "make lint             check style, spelling and types of the code"
	@echo "make docs             build the documentation into site/; dead links are errors"
	@echo "make NAME             label, train, evaluate and report one recipe"
	@echo "make NAME.plan        what would run: windows, hours, disk, parameters, steps, time"
	@echo "make NAME.scenes      mix the scenes of recipes/NAME/scenes.yaml, and ask about them"
	@echo "make NAME.teachers    train the teachers of recipes/NAME/teachers, if there are any"
	@echo "make NAME.label       run the teacher once over the audio"
	@echo "make NAME.sweep       what every threshold of the label filter would keep"
	@echo "make NAME.train       train the student; goes on where it was stopped"
	@echo "make NAME.eval        teacher and student on the test split, and the report"
	@echo "make NAME.family      several students from one store, and which one to take"
	@echo "make NAME.prompts     whether the student does what prompts say, beside a twin without"
	@echo "make NAME.encoder     another student of demo-prompted: its encoder reads the prompts"
	@echo "make NAME.robustness  both in noise, through telephones, and where nobody speaks"
	@echo "make NAME.export      copies for other runtimes, proven there; TO=ct2, onnx or ggml"
	@echo "make NAME.push        publish the student on the Hub (never automatic)"
	@echo "make NAME.push_labels publish the pseudo-labels on the Hub"
	@echo "make NAME.clean       forget everything about a recipe's run"
	@echo "make bench.train      training steps from the teacher store beside the usual way"
	@echo "make bench.label      labelling beside the usual way and faster-whisper"
	@echo "make bench.decode     speculative decoding beside plain decoding and transformers"
	@echo "make bench.latency    short clips at their own length, beside padding and others"
	@echo "make bench.roofline   the same on GPUs, predicted from bandwidths"
	@echo "make bench.gpu        what must be right on GPUs, and how fast it is; tiny on a CPU"
	@echo "make bench.scores     what is lost by keeping only some of the teacher's scores"
	@echo "make bench.store      reading one view from the teacher store beside other layouts"
	@echo "make bench.tag        a tagger's steps from the store beside teachers that run live"
	@echo "make bench.consistency  a tagger whose teachers heard the same, beside other views"
	@echo
	@echo "NAME is one of: $(RECIPES)"
	@echo "NGPU=8 launches 8 processes; SET=\"key=value ...\" overrides keys of the recipe,"
	@echo "e.g. make demo SET=\"train.max_steps=10 output_dir=runs/short\""

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	@echo "== Making $(VENV) (about 2 GB; a few minutes, once)"
	@test -x $(PYTHON) || $(BASE_PYTHON) -m venv $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@echo "== Fetching the demo's teacher, once (150 to 290 MB)"
	@$(PYTHON) -m distill.whisper.teacher demo || echo "Not now; make demo tries again."
	@touch $@

setup: $(VENV)/.installed

lint: setup
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --quiet --check $(FORMATTED)
	@$(VENV)/bin/codespell
	@$(VENV)/bin/mypy --follow-imports=silent $(STRICT)

docs: setup
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	@echo "site/index.html"

test: setup
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile

test.all: setup
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile -m ""

# oneDNN, ATen and MKL each have kernels for newer instructions, which add in other orders
test.portable: setup
	@ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
	  OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile $(NUMERICAL)

$(RECIPES): %: setup
	@$(READER)
	@$(PYTHON) -m distill run $* $(if $(filter 1,$(NGPU)),,--num-processes=$(NGPU)) $(SET)

$(SCENES): %.scenes: setup
	@echo "== $*: scenes"
	@$(PYTHON) -m distill.data.scenes recipes/$*/scenes.yaml
	@$(if $(wildcard recipes/$*/questions.yaml),$(PYTHON) -m pseudo_label.aqa $*)

$(TEACHERS): %.teachers: setup
	@for teacher in recipes/$*/teachers/*.yaml; do \
	  echo "== $*: teacher $$(basename $$teacher .yaml)"; \
	  $(LAUNCH) -m distill.train $$teacher || exit 1; \
	done

# what transcribes and tags needs the scenes of the taggers, and one of them to compare with
demo-hears demo-hears.plan demo-hears.train demo-tagger.whisper: demo-tagger.scenes
demo-hears demo-hears.eval: demo-tagger.whisper

demo-tagger.whisper: setup
	@$(LAUNCH) -m distill.train recipes/demo-tagger/teachers/whisper.yaml

$(LABELS): %.label: setup
	@echo "== $*: pseudo-labels"
	@$(LAUNCH) -m pseudo_label $* $(SET)
	@$(if $(filter 1,$(NGPU)),,$(LAUNCH) -m pseudo_label.translate $* $(SET))
	@$(if $(filter 1,$(NGPU)),,$(LAUNCH) -m pseudo_label.scores $* $(SET))

$(TRAINS): %.train: setup
	@echo "== $*: student"
	@$(LAUNCH) -m pseudo_label.scores $* $(SET)
	@$(LAUNCH) -m distill.train $* $(SET)

$(EVALS): %.eval: setup
	@echo "== $*: evaluation and report"
	@$(PYTHON) -m eval $* $(SET)

$(PROMPTS): %.prompts: setup
	@echo "== $*: a twin without prompts, and what prompts do"
	@$(PYTHON) -m eval.prompts.twin $* $(SET)
	@$(PYTHON) -m eval.prompts $* $(SET)

$(ENCODERS): %.encoder: setup
	@$(PYTHON) -m distill run recipes/$*/encoder.yaml $(SET)

$(ROBUSTNESS): %.robustness: setup
	@echo "== $*: robustness"
	@$(PYTHON) -m eval.robustness $* $(SET)

$(EXPORTS): %.export: setup
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[export]"
	@$(PYTHON) -m distill.export $* to=$(TO) $(SET)

$(PUSHES): %.push: setup
	@$(PYTHON) -m distill.hub $* $(SET)

$(PUSHED_LABELS): %.push_labels: setup
	@$(PYTHON) -m pseudo_label.push $* $(SET)

$(PLANS): %.plan: setup
	@$(if $(filter $*.scenes,$(SCENES)),$(MAKE) --no-print-directory $*.scenes)
	@$(if $(wildcard recipes/$*/no_speech.yaml),$(PYTHON) -m distill.audio_llm.data.no_speech $*)
	@$(READER)
	@$(if $(wildcard recipes/$*/read_aloud.yaml),$(PYTHON) -m distill.data.speech.read_aloud $*)
	@$(PYTHON) -m distill.plan $* $(SET)

$(SWEEPS): %.sweep: setup
	@$(PYTHON) -m pseudo_label.sweep $* $(SET)

$(FAMILIES): %.family: setup
	@echo "== $*: family of students"
	@$(PYTHON) -m eval.family $* $(if $(filter 1,$(NGPU)),,--num-processes=$(NGPU)) $(SET)

bench.train bench.scores: bench.%: setup
	@$(PYTHON) -m pseudo_label demo $(SET)
	@$(PYTHON) -m eval.benchmark.$* demo $(SET)

bench.label: setup
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	@$(PYTHON) -m eval.benchmark.label demo $(SET)

bench.decode: setup
	@$(PYTHON) -m eval.benchmark.decode

bench.latency: setup
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	@OMP_NUM_THREADS=1 $(PYTHON) -m eval.benchmark.latency

bench.roofline: setup
	@$(PYTHON) -m eval.benchmark.roofline

bench.gpu: setup
	@$(PYTHON) -m eval.benchmark.gpu

bench.store: setup
	@$(PYTHON) -m eval.benchmark.store

bench.tag: setup
	@$(PYTHON) -m eval.benchmark.tag demo-tagger $(SET)

bench.consistency: setup
	@$(MAKE) --no-print-directory demo-tagger SET=
	@$(PYTHON) -m eval.benchmark.consistency recipes/demo-tagger/consistency.yaml $(SET)

$(CLEANS): %.clean:
	@rm -rf runs/$*
	@echo "runs/$* is gone"
