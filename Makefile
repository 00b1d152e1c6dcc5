# Two commands do everything on a fresh machine with Python 3.11+ and make:  make demo  ·  make test
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

# `make demo` needs only what runs the system and its data; the tools for tests come with .venv/dev.stamp.
.venv/local.stamp: requirements-local.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "Installing into .venv (half a minute the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --disable-pip-version-check -q --require-hashes --no-deps -r requirements-local.lock
	@$(BIN)/pip install --disable-pip-version-check -q --no-build-isolation --no-deps -e .
	@touch $@

.venv/dev.stamp: requirements-dev.lock .venv/local.stamp
	@$(BIN)/pip install --disable-pip-version-check -q --require-hashes --no-deps -r requirements-dev.lock
	@touch $@

.PHONY: help install demo up down status test faults bench check deploy-check k8s-generate format golden lock clean
help: ## list what make can do
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/dev.stamp ## everything for development into .venv

demo: .venv/local.stamp ## a real day of orders on a local cluster, with its books checked (ARGS="--orders 50")
	@$(BIN)/oms demo $(ARGS)

up: .venv/local.stamp ## start the local cluster and keep it up until Ctrl-C
	@$(BIN)/oms up $(ARGS)

down: .venv/local.stamp ## stop the local cluster; its data stays
	@$(BIN)/oms down $(ARGS)

status: .venv/local.stamp ## show every part of the local cluster, its health and lag
	@$(BIN)/oms status $(ARGS)

test: .venv/dev.stamp ## all tests, a short fault campaign among them, on a local cluster of real Kafka and PostgreSQL
	@$(BIN)/pytest $(ARGS)

faults: .venv/dev.stamp ## the fault campaign on the live cluster (SEED=1 MINUTES=10 KINDS="…")
	@$(BIN)/python -m tests.faults.campaign

bench: .venv/dev.stamp ## the benchmark, hours (QUICK=1: minutes; ARGS="--only whole"; ARGS=--help teaches)
	@$(BIN)/python -m bench $(if $(QUICK),--quick) $(ARGS)

check: .venv/dev.stamp ## format, lint, types, import rules, shape: under a minute
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/pytest -q tests/unit/test_shape.py

deploy-check: .venv/dev.stamp ## render deploy/k8s and check it without a cluster; a part of make test
	@$(BIN)/pytest -q tests/deploy

k8s-generate: .venv/dev.stamp ## write the Kubernetes manifests that follow from topics and services
	@$(BIN)/python -m deploy.k8s.generate

format: .venv/dev.stamp ## format the code and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

golden: .venv/dev.stamp ## write schemas, examples, and the pages and tables that are made from the code
	@$(BIN)/python -m libs.testing.golden
	@$(BIN)/python -m oms.settings_page

lock: ## resolve the three locks anew from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header -q -o requirements.lock
	uv pip compile pyproject.toml --extra local --universal --python-version 3.11 --generate-hashes --no-header -q \
		--no-emit-package pandas -o requirements-local.lock
	uv pip compile pyproject.toml --extra local --group dev --universal --python-version 3.11 --generate-hashes \
		--no-header -q --no-emit-package pandas -o requirements-dev.lock

clean: ## remove .venv, caches and build output
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis
