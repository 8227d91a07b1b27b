# Everything a newcomer or CI runs. `make` alone lists the targets.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo fit test test-all check format docs notebooks lowest clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  Variables: VENV=$(VENV) (the environment used), PYTHON=$(PYTHON) (what creates it)'

install: $(STAMP) ## Create the virtual environment and install pcvpt in it, editable

$(STAMP): pyproject.toml
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo 'Installing pcvpt into $(VENV); the first time takes a few minutes.'
	@$(BIN)/pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP) ## Condense prompts on real images, beside a linear probe
	$(BIN)/pcvpt fit --config demo.yaml
	$(BIN)/pcvpt test runs/demo
	$(BIN)/pcvpt fit --config demo.yaml --config linear.yaml --model.prompt.base_lr 0.3
	$(BIN)/pcvpt test runs/demo_linear

ifneq (,$(filter fit,$(MAKECMDGOALS)))
ifeq (,$(TASK))
$(error Which task? For example: make fit TASK=cars)
endif
endif
fit: $(STAMP) ## Run one task, TASK=cars; more options in ARGS="--config swin_b.yaml"
	$(BIN)/pcvpt fit --config $(TASK).yaml $(ARGS)

test: $(STAMP) ## Run the tests, without the slow ones
	$(BIN)/pytest -n auto --maxprocesses 8 -m 'not slow' $(ARGS)

test-all: $(STAMP) ## Run all tests
	$(BIN)/pytest -n auto --maxprocesses 8 $(ARGS)

check: $(STAMP) ## Check format, lint, types and import floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and fix what the linter can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

docs: $(STAMP) ## Build the pages into build/docs; open index.html there
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet -f docs/mkdocs.yml

notebooks: $(STAMP) ## Execute the notebooks on small settings, into build/notebooks
	$(BIN)/python notebooks/run.py

lowest: ## Run the tests on the lowest versions pyproject.toml allows
	PYTHON=$(PYTHON) .ci/lowest-versions

clean: ## Remove caches and builds; the environment and runs/ stay
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path '*/.venv/*' -prune -exec rm -rf {} +
