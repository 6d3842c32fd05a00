# Everything here starts from a bare clone; the only thing needed is a Python of 3.11 or newer.
# Another interpreter: `make install PYTHON=python3.12`.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo release test test-slow reliability cards quality docs style clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Create .venv with the pinned dependencies and this package

# torch alone and first: a build that is there already, for CPU or for CUDA, satisfies its pin and stays.
$(STAMP): requirements/dev.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "rtd-cir needs Python 3.11 or newer; '$(PYTHON)' says: $$($(PYTHON) --version 2>&1 | head -n 1)"; \
		echo "Name a newer one: make install PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' requirements/dev.txt)"
	$(BIN)/python -m pip install --quiet -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## Train and judge everything on a drawn wardrobe; writes runs/demo
	$(BIN)/rtd demo

# make release RECIPE=rtd-vitl ORG=org TRIPLETS=triplets.jsonl LICENSE=mit; first with SMOKE=1. More: OPTIONS="--dry-run"
release: $(STAMP) ## Train, judge and publish: RECIPE= ORG= TRIPLETS= LICENSE=; with SMOKE=1 only try it
	$(BIN)/rtd release $(or $(RECIPE),rtd-vitl) $(or $(ORG),$(error name where it is published: make release ORG=org)) \
		$(if $(TRIPLETS),--triplets "$(TRIPLETS)") $(if $(LICENSE),--license $(LICENSE)) $(if $(SMOKE),--smoke) $(OPTIONS)

test: $(STAMP) ## Run the tests and the examples in docstrings
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(STAMP) ## Run the slow end-to-end tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not gpu and not network and not parity"

reliability: $(STAMP) ## Kill runs, damage files, and print what came of it
	KILL_BEFORE_EACH=1 $(BIN)/python -m pytest -q -m "slow or not slow" tests/reliability

cards: $(STAMP) ## Render the cards of model_cards again
	$(BIN)/python -m trainer.publishing.recipes

quality: $(STAMP) ## Check lint, format, spelling, types, architecture and English
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/contracts/test_architecture.py tests/contracts/test_english.py

docs: $(STAMP) ## Build the site of the documentation; writes build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

style: $(STAMP) ## Repair lint and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment, caches and build files; runs/ stays
	rm -rf .venv build dist rtd_cir.egg-info .pytest_cache .ruff_cache
	find modeling_rtd trainer tests -name __pycache__ -type d -prune -exec rm -rf {} +
