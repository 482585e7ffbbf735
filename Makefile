PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench setup clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.py attention/csrc/span_attention.cpp runtime/native/csrc/ops.cpp
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -e '.[dev]'
	touch $@
