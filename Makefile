# Everything that this project can do. Needs make and Python 3.11 or later; the rest goes into private environments
# (.venv*), which are made on demand and brought up to date when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# By scope, because the examples of a document build on each other.
ON_ALL_CORES = --numprocesses auto --dist loadscope

export PIP_DISABLE_PIP_VERSION_CHECK = 1
unexport PYTHONPATH PYTHONHOME WAL_BUILD_COMPILED

.DEFAULT_GOAL = help
.NOTPARALLEL:
.PHONY: help demo demo-cluster test types compiled torture fuzz interop cluster bench bench-cluster docs mutants tests-on wheel-check format clean

help:  ## Show this list.
	@sed -n 's/^\([a-z-]*\): .*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 21

demo: $(VENV)/.installed  ## Kill a small key-value store while it writes, and recover it.
	@$(BIN)/python examples/kvstore.py

demo-cluster: $(VENV)/.test  ## Run a ledger on three etcd members, and kill the leader while it writes: takes etcd.
	@$(BIN)/python examples/ledger_on_etcd.py

test: $(VENV)/.dev  ## Check format, style and types, and run all tests with coverage.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	@$(MAKE) --no-print-directory types
	NOT_MEASURED='$(if $(shell command -v etcd),nothing,*/wal/_cluster/*)' $(BIN)/pytest $(ON_ALL_CORES) --cov

types: $(VENV)/.dev  ## Check types alone: all of them, and with a second checker what users see of them.
	$(BIN)/mypy
	$(BIN)/mypy conftest.py hatch_build.py .ci/check_wheel.py .ci/check_site.py docs/conf.py
	$(BIN)/basedpyright --pythonpath $(BIN)/python

torture: $(VENV)/.dev  ## Crash, tear, damage, fail and race at length. EFFORT=deep takes hours.
	$(BIN)/pytest --numprocesses auto --dist worksteal -m torture --effort $(or $(EFFORT),full) $(if $(filter deep,$(EFFORT)),--timeout 0)

fuzz: $(VENV)/.dev  ## Fuzz each target for SECONDS=60.
	$(BIN)/python fuzz/run.py --seconds $(or $(SECONDS),60)

interop: $(VENV)/.dev  ## Exchange 10,000 logs with etcd, both ways, and kill it: takes etcd and Go. EFFORT=quick|deep OPTIONS='--log 17'
	$(BIN)/pytest interop --numprocesses auto --dist worksteal --effort $(or $(EFFORT),full) $(if $(filter deep,$(EFFORT)),--timeout 0) $(OPTIONS)

# Patterns of rows reach the program as they are written.
cluster: $(VENV)/.dev  ## Kill, pause and part three members of an etcd cluster that is written to: takes etcd, and for some root. EFFORT=quick|deep
	$(BIN)/pytest cluster --effort $(or $(EFFORT),full) $(if $(filter deep,$(EFFORT)),--timeout 0) $(OPTIONS)

bench: $(VENV)/.bench  ## Measure durable saves and more, beside the disk, etcd and other stores: ROUNDS=7 ROWS='save-*' OPTIONS=--help
	@set -f; $(BIN)/python benchmarks/bench.py $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ROWS),--rows $(ROWS)) $(OPTIONS)

bench-cluster: $(VENV)/.bench  ## Measure the storage on an etcd cluster, and clients of etcd: takes etcd. OPTIONS=--help
	@PYTHONPATH=tests $(BIN)/python benchmarks/clusters.py $(OPTIONS)

docs: $(VENV)/.docs  ## Build the documentation site in site/, where every warning and every dead link is an error.
	rm -rf site
	$(BIN)/sphinx-build --builder html --fail-on-warning --keep-going --fresh-env --doctree-dir site/.doctrees --quiet docs site
	rm -rf site/.doctrees site/.buildinfo
	@$(BIN)/python .ci/check_site.py site
	@echo "Open site/index.html"

mutants: $(VENV)/.dev  ## Change framing, recovery and writer in NUMBER=400 places, one at a time: do tests notice? Takes hours.
	$(BIN)/python mutation/mutate.py --number $(or $(NUMBER),400)

tests-on:  ## Run the tests alone on another Python: make tests-on PYTHON=python3.12
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])') \
	&& $(MAKE) --no-print-directory VENV=.venv-$$version .venv-$$version/.test \
	&& .venv-$$version/bin/pytest $(ON_ALL_CORES)

compiled:  ## Run the tests on the compiled build, but for clusters and archives: takes a C compiler and Python's headers.
	@$(MAKE) --no-print-directory VENV=.venv-compiled .venv-compiled/.test
	WAL_BUILD_COMPILED=1 .venv-compiled/bin/pip install --quiet --force-reinstall .
	@.venv-compiled/bin/python -I -c 'import wal; assert wal.__compiled__, wal; print("Testing", wal)'
	.venv-compiled/bin/pytest $(ON_ALL_CORES) --ignore-glob '*/test_cluster*' --ignore-glob '*/test_archive*'

# The wheel is built from the sdist, and once more from here. The type checker asks the first python on the PATH.
wheel-check: $(VENV)/.dev  ## Build the sdist and the wheel, check both, and try the wheel in an environment of its own.
	rm -rf dist .venv-wheel
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m build --wheel --outdir dist/tree
	cmp dist/*.whl dist/tree/*.whl
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/check-wheel-contents dist/*.whl
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip install --quiet dist/*.whl
	.venv-wheel/bin/python -I .ci/check_wheel.py dist/*.whl dist/*.tar.gz
	PATH="$$PWD/.venv-wheel/bin:$$PATH" $(BIN)/basedpyright --verifytypes wal --ignoreexternal
	rm -rf .venv-wheel

format: $(VENV)/.dev  ## Format the code, and mend what the linter can mend.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:  ## Remove everything that was made.
	rm -rf .venv* dist site .bench .mutation .coverage* .fuzz .interop .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find conftest.py docs src tests benchmarks fuzz interop cluster mutation examples -name __pycache__ -prune -exec rm -rf {} +

# ---------------------------------------------------------------------------------------------- environments

define CHECK_PYTHON
import sys
if sys.version_info < (3, 11):
    sys.exit("wal needs Python 3.11 or later, and %s is %s. Name another one: make PYTHON=python3.12 ..."
             % (sys.executable, sys.version.split()[0]))
try:
    import ensurepip, venv
except ImportError:
    sys.exit("%s comes without venv. Install it (on Debian and Ubuntu: apt-get install python3-venv)." % sys.executable)
endef
export CHECK_PYTHON

$(VENV)/.made:
	@$(PYTHON) -c "$$CHECK_PYTHON"
	@echo "Making $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# The library, in place, with what it needs to run.
$(VENV)/.installed: pyproject.toml $(VENV)/.made
	@$(BIN)/pip install --quiet --editable .
	@touch $@

# And with what it takes to test it, to work on it, to measure it beside others, or to document it. Groups need pip 25.1.
$(VENV)/.test $(VENV)/.dev $(VENV)/.bench $(VENV)/.docs: $(VENV)/.%: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/pip install --quiet --group $*
	@touch $@
