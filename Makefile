# Each target sets up what it needs: a virtual environment with the tested versions, then the command itself.
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo demo-unet demo-mgmt test lint clean

demo: $(VENV)/demo.done
	$(BIN)/python -m experiments.table1_baseline

demo-unet: $(VENV)/unet.done
	$(BIN)/python -m experiments.unet25d
	$(BIN)/python -m experiments.unet3d

demo-mgmt: $(VENV)/demo.done
	$(BIN)/python -m experiments.mgmt_ensemble
	$(BIN)/python -m experiments.mgmt_explain

# Two processes of one thread each: more threads than cores only wait for each other.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  f"expected Python 3.11 to 3.13, found {sys.version.split()[0]} as $(PYTHON); name another with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# torch is installed first, so that TORCH_INDEX (the address of PyTorch's CPU or CUDA builds) serves it alone.
$(VENV)/demo.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[segresnet,mgmt]'
	touch $@

$(VENV)/unet.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[unet]'
	touch $@

$(VENV)/test.done: $(VENV)/demo.done
	$(PIP) install --quiet --constraint constraints.txt --editable '.[segresnet,mgmt,unet,test]'
	touch $@

clean:
	rm -rf $(VENV)
