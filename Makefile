# Everything that people and CI do here. Programs run as modules of .venv, because a console
# script cannot start from a folder whose name contains a space.

PYTHON ?= python3
require_python := import sys; sys.version_info >= (3, 11) or sys.exit("setup: Python 3.11 or newer \
  is needed; this is " + sys.version.split()[0] + "; name another with `make PYTHON=python3.12`")
python := .venv/bin/python
lint_imports := import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))
MAKEFLAGS += --no-print-directory --no-builtin-rules
export PYTHONUNBUFFERED = 1
# Bytecode is kept, whatever the shell says: tests start some hundred Pythons.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-soak soak test-streaming test-systemd check check-types check-all-else sizes bench protos docs lock clean
.DELETE_ON_ERROR:

setup: .venv/complete .parts/complete
	@:

.venv/complete: requirements/build.lock requirements/dev.lock requirements/install.py
	@$(PYTHON) -c '$(require_python)'
	@$(PYTHON) -m requirements.install
	@touch $@

.parts/complete: requirements/parts.lock sidecar/local/programs/parts.py tests/support/debian_root.py \
  tests/support/systemd/root.py tests/support/browser/root.py tests/support/object_store.py .venv/complete
	@mkdir -p .parts
	@$(python) -m sidecar.local.programs.parts
	@$(python) -m tests.support.systemd.root
	@$(python) -m tests.support.browser.root
	@$(python) -m tests.support.object_store
	@touch $@

# A mesh under load whose primary fails twice; KEEP=1 leaves it running.
demo: setup
	@$(python) -m sidecar.local.demo $(if $(KEEP),--keep)

# Four processes on two cores: most tests wait for real programs. CONSUL_BIN=/path/to/consul selects another
# Consul, here and wherever one is started.
# `make test ROOM=election` tests one folder of sidecar/, without meshes and without `check`.
at_once := -n 4 --dist loadfile --no-loadscope-reorder
ifdef ROOM
test: setup
	@files=$$($(python) -m tests.room '$(ROOM)') && QUICK=1 $(python) -m pytest -q $(at_once) $$files
else
test: setup check
	@$(python) -m pytest -q $(at_once)
endif

# An hour of random faults on a cluster with everything on; MINUTES=5 is the short form, SEED=N repeats one.
soak: setup
	@$(python) -m sidecar drill soak --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED)) \
	  --report .cache/soak/$$(date +%Y%m%d-%H%M%S)

# All tests, including those that take too long for each change, with more examples, drawn afresh.
test-soak: setup
	@SOAK=1 HYPOTHESIS_ANEW=1 $(python) -m pytest -q -m '' $(at_once)

# The demo, and the tests that could fail on a streaming Consul: on 1.8 behind a proxy that streams.
streams := CONSUL_BIN='$(CURDIR)/tests/support/streaming/consul'
streamed := $(wildcard tests/contract/consul/test_client*.py) tests/contract/operator tests/contract/cli \
  tests/integration/consul tests/integration/xds/catalog/test_consul_outages.py \
  tests/chaos/test_cluster_faults.py $(wildcard tests/chaos/test_mesh_*.py) tests/integration/mesh

test-streaming: setup
	@$(streams) $(python) -m sidecar.local.demo
	@$(streams) $(python) -m pytest -q $(at_once) $(streamed)
	@$(streams) $(python) benchmarks/consul_gone.py --minutes 2 --every 30

# The units on a real systemd, of which `make test` runs a part, and a whole deployment: run before a release.
test-systemd: setup
	@$(python) -m pytest -q -m '' tests/integration/deploy/test_systemd_units.py tests/integration/deploy/before_release*.py

# Side by side: mypy takes one core, and about as long as all the others on another.
check: setup
	@$(MAKE) --jobs 2 --output-sync check-types check-all-else

check-types:
	@$(python) -m mypy --no-error-summary

check-all-else:
	@$(python) -m ruff check --quiet
	@$(python) -m ruff format --quiet --check
	@said=$$($(python) -c '$(lint_imports)' 2>&1) || { echo "$$said"; exit 1; }
	@.venv/bin/buf lint protos
	@$(python) -m protos.generate --check
	@$(python) -m docs.generate --check
	@$(python) -m tests.checks.validate_envoy
	@$(python) -m tests.checks.validate_deploy

# Files, lines and functions of sidecar/, for information.
sizes: setup
	@$(python) -m tests.checks.sizes

bench: setup
	@for benchmark in $$(grep -l __main__ benchmarks/*.py); do $(python) "$$benchmark" || exit 1; done

protos: setup
	@$(python) -m protos.generate

docs: setup
	@$(python) -m docs.generate

lock: .venv/complete
	@$(python) -m requirements.lock

clean:
	rm -rf .venv .parts .cache dist build
