# Each target sets up what it needs: a virtual environment with the tested versions, then the command itself.
# What follows ## is what `make help` says of a target.
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN = $(VENV)/bin
# pip compiles on one core what it installs, a third of the wait for a demo; this does it on all of them afterwards, and
# passes over the few files that are no Python of this version.
INSTALL = $(BIN)/python -m pip --disable-pip-version-check install -qq --no-compile --constraint constraints.txt
COMPILE = $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true

# Of make report: folders of scans and of MGMT series, without which the embedded phantoms are used. What is made from a
# folder is kept apart, under its name: phantoms and patients are never mixed.
DATA ?=
MGMT_DATA ?=
PRESET ?= demo
COHORTS = $(if $(DATA),--data "$(DATA)") $(if $(MGMT_DATA),--mgmt-data "$(MGMT_DATA)")
# Experiments side by side: on two cores two of one thread each take 0.5 to 0.8 of the time of one after the other.
AT_ONCE ?= 2
OF_DATA = $(if $(DATA),-$(notdir $(DATA:/=)))$(if $(MGMT_DATA),-$(notdir $(MGMT_DATA:/=)))

.PHONY: demo demo-unet demo-mgmt report test lint coverage docs help clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/demo.done ## no data, no GPU: a SegResNet that learns synthetic patients
	$(BIN)/python -m experiments.table1_baseline

demo-unet: $(VENV)/unet.done ## the same with both U-Nets, on TensorFlow
	$(BIN)/python -m experiments.unet25d
	$(BIN)/python -m experiments.unet3d

demo-mgmt: $(VENV)/demo.done ## MGMT from synthetic DICOM series, and where the models look
	$(BIN)/python -m experiments.mgmt_ensemble
	$(BIN)/python -m experiments.mgmt_explain

# An experiment that failed is shown as such in figures and page, and in the exit status at the end.
report: $(VENV)/demo.done $(VENV)/unet.done ## every experiment, all figures and the written report; DATA=, MGMT_DATA=, PRESET=, AT_ONCE=
	status=0; \
	$(BIN)/python -m experiments.run_all --at-once $(AT_ONCE) --runs "runs$(OF_DATA)" --preset $(PRESET) $(COHORTS) || status=1; \
	$(BIN)/python -m experiments.figures --runs "runs$(OF_DATA)" --output "figures$(OF_DATA)" $(COHORTS) || status=1; \
	$(BIN)/python -m experiments.report --runs "runs$(OF_DATA)" --figures "figures$(OF_DATA)" --output "report$(OF_DATA)" \
	  || status=1; \
	exit $$status

# Two processes of one thread each: more threads than cores only wait for each other.
test: lint ## lint, types, import contracts and all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/test.done ## ruff, the types of common and the import contracts alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: $(VENV)/test.done ## all tests, and the lines of each file that none of them runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov --cov-report=term

docs: $(VENV)/docs.done ## the documentation as a site: build/docs/index.html
	$(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  f"expected Python 3.11 to 3.13, found {sys.version.split()[0]} as $(PYTHON); name another with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# torch is installed first, so that TORCH_INDEX (the address of PyTorch's CPU or CUDA builds) serves it alone.
$(VENV)/demo.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(INSTALL) --editable '.[segresnet,mgmt]'
	$(COMPILE)
	touch $@

$(VENV)/unet.done: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[unet]'
	$(COMPILE)
	touch $@

$(VENV)/docs.done: $(VENV)/demo.done
	$(INSTALL) --editable '.[docs]'
	$(COMPILE)
	touch $@

$(VENV)/test.done: $(VENV)/demo.done
	$(INSTALL) --editable '.[segresnet,mgmt,unet,onnx,mlflow,wandb,test,benchmarks]'
	$(COMPILE)
	touch $@

clean: ## remove the virtual environment
	rm -rf $(VENV)
