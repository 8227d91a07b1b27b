# Everything a newcomer or CI runs. `make` alone lists the targets.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo fit test test-all gpu check format docs notebooks lowest clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  Variables: VENV=$(VENV) (environment), PYTHON=$(PYTHON) (interpreter that creates it)'

install: $(STAMP) ## Create the virtual environment and install pcvpt in it, editable

$(STAMP): pyproject.toml
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo 'Installing pcvpt into $(VENV); the first time takes a few minutes.'
	@$(BIN)/pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP) ## Train and test the demo and a linear probe
	$(BIN)/pcvpt fit --config demo.yaml
	$(BIN)/pcvpt test runs/demo
	$(BIN)/pcvpt fit --config demo.yaml --config linear.yaml --model.prompt.base_lr 0.3
	$(BIN)/pcvpt test runs/demo_linear
	$(BIN)/pcvpt report runs/demo runs/demo_linear

ifneq (,$(filter fit,$(MAKECMDGOALS)))
ifeq (,$(TASK))
$(error Which task? For example: make fit TASK=cars)
endif
endif
fit: $(STAMP) ## Train one task: TASK=cars, further options in ARGS="--config swin_b.yaml"
	$(BIN)/pcvpt fit --config $(TASK).yaml $(ARGS)

test: $(STAMP) ## Run all tests except the slow ones
	$(BIN)/pytest -n auto --maxprocesses 8 -m 'not slow' $(ARGS)

test-all: $(STAMP) ## Run all tests
	$(BIN)/pytest -n auto --maxprocesses 8 $(ARGS)

gpu: $(STAMP) ## Run the tests and the benchmarks that need a GPU, in nine minutes
	$(BIN)/python benchmarks/gpu.py $(ARGS)

check: $(STAMP) ## Check format, lint, types and import floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and fix what the linter can fix
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

docs: $(STAMP) ## Build the pages in build/docs; open index.html there
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet -f docs/mkdocs.yml

notebooks: $(STAMP) ## Execute the notebooks on small settings; write them into build/notebooks
	$(BIN)/python notebooks/run.py

lowest: ## Run the tests on the lowest versions pyproject.toml allows
	PYTHON=$(PYTHON) .ci/lowest-versions

clean: ## Remove caches and builds; keep the environment and runs/
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path '*/.venv/*' -prune -exec rm -rf {} +
