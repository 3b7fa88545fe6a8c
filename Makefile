# Everything runs in a virtual environment that make creates on first use.
#   make test PYTHON=python3.13 VENV=.venv313   another interpreter
#   make test PYTEST_ARGS="-k pipeline"         more options for pytest

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

PY := $(VENV)/bin/python
OLDEST := $(VENV)-oldest

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo demo-imagenet demo-text demo-pictures demo-clusters \
	test test-all test-cov test-oldest fuzz check package docs links networks \
	bench-accuracy bench-clusters bench-speed bench-deploy bench-scale bench-peers clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.setup-examples ## Install the package and run examples/quickstart.py
	$(PY) examples/quickstart.py

demo-imagenet: $(VENV)/.setup-examples ## EfficientNet-Lite0 with ImageNet weights, on other data too
	$(PY) examples/imagenet.py

demo-text: $(VENV)/.setup-text ## A language model on news, padding masked or not, some 10 minutes
	$(PY) examples/text.py

demo-pictures: $(VENV)/.setup-examples ## Pictures on disk that are larger than memory, two minutes
	$(PY) examples/larger_than_memory.py

demo-clusters: $(VENV)/.setup-examples ## Deep clustering of MNIST without labels, some 10 minutes
	$(PY) examples/deep_clusters.py

test: $(VENV)/.setup-tests ## Run the tests but for the slow ones, doctests included
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -m "not slow" $(PYTEST_ARGS)

test-all: $(VENV)/.setup-tests ## Run all tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 $(PYTEST_ARGS)

test-cov: $(VENV)/.setup-dev ## What the tests but for the slow ones do not reach; less than 97% fails
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -m "not slow" --cov $(PYTEST_ARGS)

test-oldest: ## Run the tests with the oldest packages that are supported
	test -x $(OLDEST)/bin/pip || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -c tests/oldest.txt --editable ".[tests]"
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 2 -m "not slow" $(PYTEST_ARGS)

fuzz: $(VENV)/.setup-tests ## Attack every public entry with 10,000 cases, 10 to 20 minutes
	OMP_NUM_THREADS=1 $(PY) -m tests.fuzz --cases 10000 --seed 0

check: $(VENV)/.setup-dev ## Lint, check the formatting, check the types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m codespell_lib

package: $(VENV)/.setup-dev ## Build wheel and sdist, install each into an empty environment and try it
	rm -rf dist
	$(PY) -m build
	$(PY) -m tests.package dist/*.whl dist/*.tar.gz

links: $(VENV)/.setup-docs ## Ask for every link of the docs, the ones to elsewhere too
	$(PY) -m sphinx -b linkcheck -D plot_gallery=0 docs docs/_build/links

docs: $(VENV)/.setup-docs ## Build the HTML documentation; a warning is an error
	rm -rf docs/generated docs/sg_execution_times.rst
	OMP_NUM_THREADS=1 $(PY) -m sphinx -W --keep-going -b html docs docs/_build/html

networks: $(VENV)/.setup-tests ## Measure the networks of the docs anew
	$(PY) -m tests._extractors._torch.zoo

bench-accuracy: $(VENV)/.setup-examples ## Accuracy at a given cost: the tables of the docs, 30 minutes
	$(PY) -m benchmarks.accuracy
	$(PY) -m benchmarks.tuning_cost

bench-clusters: $(VENV)/.setup-examples ## Clusters at a given cost; trains ten encoders the first time, an hour
	$(PY) -m benchmarks.clusters

bench-speed: $(VENV)/.setup-examples ## Seconds against the plain network, an hour with training
	test -f build/mobilenet_v3_small.pt || \
		$(PY) examples/train_mobilenet.py --data npz:fashion_mnist
	PYTHONPATH=examples $(PY) -m benchmarks.speed
	PYTHONPATH=examples $(PY) -m benchmarks.pays

bench-deploy: $(VENV)/.setup-deploy ## Early exits in onnxruntime against torch, half an hour
	OMP_NUM_THREADS=1 PYTHONPATH=examples $(PY) -m benchmarks.deploy
	OMP_NUM_THREADS=1 PYTHONPATH=examples $(PY) -m benchmarks.deploy_serving

bench-scale: $(VENV)/.setup-scale ## Time and memory against the size of the data, an hour, resumed
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.scale

bench-peers: $(VENV)/.setup-peers ## Exits of other papers on the same networks, many hours, resumed
	OMP_NUM_THREADS=1 PYTHONPATH=examples $(PY) -m benchmarks.peers
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.peers_times
	$(PY) -m benchmarks.paper_figures

clean: ## Remove what builds and runs leave behind (the environment stays)
	rm -rf build dist *.egg-info docs/_build docs/auto_examples docs/generated docs/sg_execution_times.rst .coverage* htmlcov
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find sk_e2cm tests examples benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per extra; it is renewed only when pyproject.toml changes.
$(VENV)/.setup-%: pyproject.toml
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --editable ".[$*]"
	touch $@
