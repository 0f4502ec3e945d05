# Two commands matter: `make demo` shows payments and refunds end to end, `make test` proves it. Both need Python 3.11–3.14 only.

.DEFAULT_GOAL := help
.PHONY: help setup demo up test prove bench check e2e contracts lock clean

# The first Python that is new enough; the packages with native code exist for 3.11 to 3.14.
PYTHON := $(shell for each in $(DEFRAY_PYTHON) python3 python3.11 python3.12 python3.13 python3.14 python \
	"$$(uv python find '>=3.11,<3.15' 2>/dev/null)"; do \
	"$$each" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null \
	&& { command -v "$$each"; break; }; done)
VENV := .venv/bin

help: ## what can be made
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: ## make .venv from the hashed lock (everything below does it first; a second time costs nothing)
	@test -n "$(PYTHON)" || { echo "setup: no Python 3.11 to 3.14 found" >&2; \
		echo "setup: install one (Debian 12: apt-get install python3 python3-venv) or name it: make DEFRAY_PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" deploy/bootstrap.py

demo: setup ## payments, refunds, a lost answer, late money, an order by event, a coupon: narrated and checked; exits when done
	@$(VENV)/defray demo $(ARGS)

up: setup ## the same stack, kept running until Ctrl-C
	@$(VENV)/defray up $(ARGS)

test: setup ## every proof in its short form
	@$(VENV)/python -m pytest -n 2 -m "not full and not alone" $(ARGS)
	@$(VENV)/python -m pytest -m "not full and alone" $(ARGS)

prove: setup ## every proof at full counts (up to 30 minutes on two cores)
	@DEFRAY_PROVE=1 $(VENV)/python -m pytest -n 2 -m "not alone" $(ARGS)
	@DEFRAY_PROVE=1 $(VENV)/python -m pytest -m alone $(ARGS)

bench: setup ## measure against the textbook twin and the limit; writes var/bench/report.json
	@$(VENV)/python -m tests.bench $(ARGS)

e2e: setup ## only the path of a payment through all four services
	@$(VENV)/python -m pytest tests/e2e $(ARGS)

check: setup ## format, lint, types, imports, rules: under a minute
	@$(VENV)/ruff format --check --quiet
	@$(VENV)/ruff check --quiet
	@$(VENV)/mypy
	@$(VENV)/lint-imports
	@$(VENV)/python -m pytest -q tests/architecture $(ARGS)

contracts: setup ## write JSON Schemas, AsyncAPI, OpenAPI, the event catalogue and each schema.sql anew
	@$(VENV)/python -m tests.contracts.generate $(ARGS)
	@$(VENV)/python -m tests.migrations.schema

lock: ## write all locks anew within the pinned versions (maintainers; ARGS=--upgrade moves what is not pinned)
	@"$(PYTHON)" deploy/bootstrap.py --lock $(ARGS)

clean: ## remove what was made here (not the download cache of this user)
	@if [ -x $(VENV)/defray ]; then $(VENV)/defray clean; fi
	@rm -rf .venv .venv-* .tools .setup.lock .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
