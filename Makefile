# The one door for people and for CI. Every target makes what it needs; none needs an activated environment.

PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m
STAMP := .venv/.installed

.PHONY: help quickstart test check bench docs clean

help:                          ## what there is
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; name another: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	@echo "== making .venv and installing privfl into it (some minutes, once)"
	"$(PYTHON)" -m venv .venv
	$(RUN) pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

ATTACKS := membership/loss,membership/lira,membership/rmia,membership/joint,membership/loss_over_rounds,$\
membership/fedmia,membership/loss_drop,membership/gradient_cosine_sum,membership/global_loss_drop,membership/canary_gradient

quickstart: $(STAMP)           ## fetch Fashion-MNIST, train and attack it with and without protection, write the page
	$(RUN) privfl data fetch fashion_mnist
	$(RUN) privfl frontier paper_configs/trade.toml seed=0..2 --out runs/quickstart --jobs 2 --attacks $(ATTACKS) \
		--point 'privacy.target_epsilon=inf aggregator.kind=mean' \
		--point 'privacy.target_epsilon=inf aggregator.kind=secure_sum' \
		--point 'privacy.target_epsilon=8' \
		--point 'privacy.target_epsilon=2'

test: $(STAMP)                 ## the whole test suite
	$(RUN) pytest -n auto

check: $(STAMP)                ## lint, types, import contracts
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(BIN)/python -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	@$(MAKE) --no-print-directory docs

bench: $(STAMP)                ## every benchmark, quickly
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python "$$file" --quick || exit 1; done

docs: $(STAMP)                 ## the site of the documentation, into build/site/html; a warning is an error
	@mkdir -p build/site
	@cp docs/_site/zensical.toml build/site/
	@$(BIN)/python docs/_site/stage.py build/site/pages
	@cd build/site && NO_COLOR=1 ../../$(BIN)/python -m zensical build --clean --strict
	@echo "the site: build/site/html/index.html"

clean:                         ## remove the environment and caches; runs stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
