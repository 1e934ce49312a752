# rmlab. `make book` and `make test` do all their own set-up; `make help` lists the rest.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# an extra package index to take torch from, such as PyTorch's index of CPU wheels (on Linux the default build brings CUDA along)
TORCH_INDEX ?=
PAGE   := _build/html/index.html

LOWEST := $(addprefix tests/,test_recipe.py test_tokens.py test_text.py test_tables.py test_preferences.py test_cli.py test_backbone.py fast \
            reward/test_model.py reward/test_classifier.py reward/test_lora.py optimise/test_sampling.py \
            measure/test_baselines.py show/test_rows.py show/test_figures.py show/test_figures_best_of_n.py show/test_explorer.py)

.PHONY: help book test lab notebooks study lint bench wheel lowest clean html
help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

book: $(VENV)/.stamp ## run the quick study, build the book, say which page to open
	$(BIN)/rmlab study quick
	$(BIN)/python scripts/notebooks.py
	@$(MAKE) --no-print-directory html
	@echo "The book: open $(PAGE)  (file://$(abspath $(PAGE)))"

test: html ## build the pages from the shipped results if need be, then run every test
	$(BIN)/python -m pytest -q -n auto --dist loadgroup

lab: $(VENV)/.stamp ## the chapters as notebooks, in JupyterLab
	$(BIN)/jupyter lab book

notebooks: $(VENV)/.stamp ## write the .ipynb beside each chapter anew
	$(BIN)/python scripts/notebooks.py

study: $(VENV)/.stamp ## the studies whose rows are shipped in data/ (hours on two cores; each resumes where it stopped)
	@set -e; for study in best_of_n best_of_n_sighted; do $(BIN)/rmlab study $$study; done

lint: $(VENV)/.stamp ## ruff's rules and its formatter, and the notebooks in step with their sources
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/notebooks.py --check

bench: $(VENV)/.stamp ## every claim of speed, measured beside the alternative
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[trl]"
	@set -e; for script in $(wildcard benchmarks/*.py); do echo "== $$script"; $(BIN)/python "$$script"; done

wheel: $(VENV)/.stamp ## the package with the shipped rows, to install anywhere: dist/
	@rm -rf build
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist .
	@rm -rf build; ls dist/*.whl

lowest: ## the fast tests on the lowest versions that pyproject.toml allows, in _build/lowest
	$(PYTHON) -m venv _build/lowest
	$(PYTHON) scripts/bounds.py notebooks test > _build/lowest/pins.txt
	_build/lowest/bin/python -m pip install -q $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r _build/lowest/pins.txt
	PYTHONPATH=. _build/lowest/bin/python -m pytest -q -W default -m "not slow" $(LOWEST)

clean: ## remove what was built, the quick study's results included
	rm -rf _build

# The pages alone, from the results in data/ and the reader's own quick study where there is one. The cache of
# executed chapters knows a cell's code, not the package and the data it reads: when these change it is dropped.
html: $(VENV)/.stamp
	@mkdir -p _build
	@find rmlab data _build/study/quick constraints.txt -type f \( -path '*/study/*' -name '*.csv' -o ! -path '*/study/*' \
	  ! -name '*.pyc' \) -exec cksum {} + 2>/dev/null | LC_ALL=C sort > _build/.now
	@cmp -s _build/.now _build/.src || rm -rf _build/.jupyter_cache
	@mv _build/.now _build/.src
	$(BIN)/jupyter-book build book --all -W -n --keep-going

$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rmlab needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[book,test]"
	@touch $@
