# Every target is what continuous integration calls too. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
VALIDATORS := .validators
JOBS ?= 2
SLOW ?= slow or server
BENCH ?= generation tiled_decode scale training plan compiled reading codec_choice releasing exporting
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The demonstration: phantoms by default, or `make demo DATA=folder` for a folder of your own scans.
SUBJECTS ?= 96
DATA ?=
DEMO := demo
STUDY := $(DEMO)/study/study.yaml
PHANTOM_OPTIONS ?= --subjects $(SUBJECTS) --spacing-mm 6
ifeq ($(DATA),)
SCANS := $(DEMO)/scans
INIT_OPTIONS ?= --images $(SCANS)/images --labels $(SCANS)/labels --participants $(SCANS)/participants.tsv \
	--groups $(SCANS)/groups.yaml --volume ventricles --size 32 --budget-minutes 3 --preset trial
else
INIT_OPTIONS ?= --images $(DATA)
endif
RUN_OPTIONS ?=
# `make demo TASKS=1` measures every task of the trained models as well, on few scans.
TASKS ?=
TASK_OPTIONS ?= --scans 3 --samples 2

CLUSTER ?= cluster

.DEFAULT_GOAL := help
.PHONY: help setup demo cluster test test-slow test-all validators bench client lint format clean

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Make .venv with exactly the versions of constraints.txt.

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[imagenet,postgres,privacy,test,lint]"
	touch $@

demo: $(READY)  ## From scans to a release, below ./demo. DATA=folder: your own; SUBJECTS=n phantoms; TASKS=1: tasks too.
ifeq ($(DATA),)
	test -d $(DEMO)/scans || $(BIN)/meddiff phantoms $(DEMO)/scans $(PHANTOM_OPTIONS)
endif
	test -f $(STUDY) || $(BIN)/meddiff init $(DEMO)/study $(INIT_OPTIONS)
	$(BIN)/meddiff run $(STUDY) $(RUN_OPTIONS)
ifneq ($(TASKS),)
	$(BIN)/meddiff tasks $(STUDY) $(TASK_OPTIONS)
	mkdir -p $(DEMO)/pictures
	cp $(DEMO)/study/figures/task-*.png $(DEMO)/pictures/
endif

cluster: $(READY)  ## Prefect, MLflow, Dask and a worker as processes on loopback, until Ctrl-C; data in ./cluster.
	$(BIN)/python infra/cluster.py $(CLUSTER)

test: $(READY)  ## The fast tests.
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

test-slow: $(READY)  ## What `make test` leaves out: whole flows, servers, killed processes.
	$(BIN)/python -m pytest -q -m "$(SLOW)" --timeout 1200 -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-all: validators test test-slow  ## Every test, those with foreign validators among them.

validators: $(VALIDATORS)/.ready  ## The foreign tools that are asked about a release, into .validators.

$(VALIDATORS)/.ready: tests/release/validators/requirements.txt
	test -x $(VALIDATORS)/bin/python || $(PYTHON) -m venv $(VALIDATORS)
	$(VALIDATORS)/bin/python -m pip install --quiet --no-compile -r $<
	touch $@

bench: $(READY)  ## Side by side with the alternatives, in one run.
	for name in $(BENCH); do OMP_NUM_THREADS=2 $(BIN)/python tests/benchmarks/$$name.py || exit 1; done

client: $(READY)  ## The wheel of meddiff-client, for those who only read releases, into dist/.
	$(BIN)/python infra/client/build.py dist

lint: $(READY)  ## Style, types, and the direction of imports.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## Let ruff mend what it can.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove .venv, the demonstration and every cache.
	rm -rf $(VENV) $(VALIDATORS) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
