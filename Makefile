# `make demo` and `make test` work on a fresh machine: both install what they need into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo
export CMON_DATA

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo small vit demo-check statistics-check which-score test test-slurm check faults bench clean

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 19

install: $(VENV)/installed  ## make .venv with all that tests and the demo need

# torch first and exactly: a looser requirement would fetch gigabytes of CUDA where a CPU build is at hand.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: install  ## a small training watched from the first epoch to the last; ends with the path of its report
	$(BIN)/python scripts/concept_world.py $(DEMO)/world --images 3000 --seed 1
	$(BIN)/python scripts/train_demo_classifier.py $(DEMO)/classifier
	$(BIN)/cmon run sample_configs/demo.toml

small: install  ## the paper's four case studies, small (25 minutes); CMON_DATA says where the data are
	@test -f "$(CMON_DATA)/cifar10_train20k.zip" || { echo 'error: CMON_DATA: no cifar10_train20k.zip there' >&2; \
	  echo 'hint: make small CMON_DATA=/path/to/data; README says what belongs there' >&2; exit 2; }
	$(MAKE) -j2 -f sample_configs/small/Makefile PYTHON=$(BIN)/python CMON=$(BIN)/cmon
	$(BIN)/python scripts/check_claims.py

vit: install  ## a ViT that the Trainer trained and a ConvNeXt by timm, watched on the demo's world (14 minutes)
	$(BIN)/python scripts/concept_world.py $(DEMO)/world --images 3000 --seed 1
	$(BIN)/python scripts/train_vision_models.py build/vit_convnext
	$(BIN)/cmon run sample_configs/vit_convnext.toml

demo-check: install  ## how often the demo's words are right, where the truth is known
	$(BIN)/python scripts/check_demo.py

statistics-check: install  ## false discoveries among noise units, and how often intervals hold the truth (15 minutes)
	$(BIN)/python scripts/calibrate.py
	$(BIN)/python scripts/check_intervals.py

which-score: install  ## which score gives units their right word (trains 5 networks first: 20 minutes)
	$(BIN)/python scripts/which_score.py

# In as many processes as there are CPUs, one thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8

test: install  ## run the tests
	$(PYTEST)

test-slurm: install  ## run the tests that need a cluster, on a Slurm of their own (root on Debian; 5 minutes)
	scripts/local_slurm.sh install
	scripts/local_slurm.sh run $(BIN)/pytest tests/slurm

check: install  ## format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

faults: install  ## kill, fill, flip and mislead: nothing may be lost or wrong (15 minutes)
	$(BIN)/python scripts/faults.py

bench: install  ## time all stages against their baselines and goals (about 25 minutes)
	$(BIN)/python scripts/bench.py

clean:  ## delete what was built, not .venv
	rm -rf build
