# make demo    opens the page (prints its address)
# make test    style, then all tests
# make bench   speed and memory, in one table
#
# Needs Python 3.11 or newer as `python3.11` or `python3`, or: make demo PYTHON=/path/to/python
# Everything is installed into .venv, anew only when a requirements file has changed.

PYTHON ?= $(or $(shell command -v python3.11),python3)
RUN := .venv/bin/python
PIP := $(RUN) -m pip install -qq --disable-pip-version-check

.PHONY: demo test bench
.DEFAULT_GOAL := demo

demo: .venv/page.stamp
	$(RUN) app.py

# Test files side by side, each on a core of its own: threads of several would wait for each other.
test: .venv/dev.stamp
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile

bench: .venv/dev.stamp
	$(RUN) -m benchmarks

# A stamp is written only when all is installed, so an interrupted installation starts again.
.venv/page.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	@echo "Installing what the page needs (a few minutes the first time) …"
	$(PIP) -r requirements.txt
	touch $@

.venv/dev.stamp: requirements-dev.txt .venv/page.stamp
	@echo "Installing what the tests need …"
	$(PIP) -r requirements-dev.txt
	touch $@
