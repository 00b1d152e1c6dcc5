# Two commands do everything on a fresh machine with Python 3.11+ and make:  make demo  ·  make test
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

.venv/local.stamp: requirements-local.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q --require-hashes --no-deps -r requirements-local.lock
	$(BIN)/pip install --disable-pip-version-check -q --no-build-isolation --no-deps -e .
	touch $@

.venv/dev.stamp: requirements-dev.lock .venv/local.stamp
	$(BIN)/pip install --disable-pip-version-check -q --require-hashes --no-deps -r requirements-dev.lock
	touch $@

.PHONY: help install
help: ## list what make can do
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/dev.stamp ## everything for development into .venv
