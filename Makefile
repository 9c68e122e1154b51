# The one entry point. Every target does the set-up that it needs; `make` alone explains them.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tests mostly wait for sockets, so there are more workers than cores. A file stays with one
# worker (--dist loadfile), because the tests of a module share a broker.
WORKERS ?= 4
# What the tests run: interpreted (the sources), or compiled (a wheel made of them).
BUILD ?= interpreted
# Which of them: files, directories.
TESTS ?= tests
IMAGE ?= tidegate/tidegate:dev
BUILDER ?= docker
# Of the image of a release; empty: none is built.
PLATFORMS ?= linux/amd64,linux/arm64
HELM ?= helm
# Where `make run` listens; any address of loopback, when another broker uses the ports of this one.
ADDRESS ?= 127.0.0.1
export PYTHONSAFEPATH := 1
export BUILD_UNDER_TEST := $(BUILD)

# The compiled build's own environment has the wheel, and everything else from $(VENV).
COMPILED := build/compiled
COMPILED_SOURCES := pyproject.toml tools/compiled_wheel.py tools/compiled_environment.py \
  $(shell find services/tidegate operator -type f -not -name '*.pyc' -not -path '*/web/static/*')
TESTED_interpreted := $(BIN)/python
TESTED_compiled := $(COMPILED)/venv/bin/python
TESTED = $(or $(TESTED_$(BUILD)),$(error BUILD is interpreted or compiled))
# What a target with tests needs.
READY = $(VENV)/.installed-test $(if $(filter compiled,$(BUILD)),$(COMPILED)/.installed)

.DEFAULT_GOAL := help
.PHONY: help setup run console compiled test test-unit test-outside test-slow test-cluster test-cluster-grpc test-cluster-long kubernetes test-kube test-node test-node-long fuzz proto reference ledger crd chart-readme dashboards pictures lock version image release lint fmt docs bench clean

help: ## Explain the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; say which with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "Python's venv is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }

# One stamp per set of packages; a changed pyproject.toml makes all of them old.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "installing Tidegate with [$*] into $(VENV)"
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

setup: $(VENV)/.installed-lint ## Make the virtual environment with everything for development, and git's commit-msg hook
	@$(BIN)/python tools/commit_message.py --install
	@echo "ready: $(BIN)/tidegate"

# What the page of the console is made of.
PAGE := services/tidegate/console/web/static/index.html
PAGE_SOURCES := $(shell find services/console/src -type f) \
  $(addprefix services/console/,index.html package-lock.json vite.config.ts)
$(PAGE): $(PAGE_SOURCES) tools/console_page.py | $(BIN)/python
	@echo "building the page of the console"
	@$(BIN)/python tools/console_page.py

console: $(PAGE) ## Build the page of the console (with Node from the PATH, else from PyPI)

run: export TIDEGATE_CONSOLE__ADDRESS ?= $(ADDRESS)
run: $(VENV)/.installed-all ## Start a broker on this machine (loopback only, anonymous clients allowed)
	@echo "MQTT       $(ADDRESS):1883"
	@echo "WebSocket  ws://$(ADDRESS):8083/mqtt"
	@echo "admin      http://$(ADDRESS):18083/metrics  (also /livez and /readyz)"
	@echo "console    http://$(ADDRESS):18080/  (the line \"tidegate console\" below has how to log in)"
	@echo "data       ./data"
	@echo "command    $(BIN)/tidegate"
	@echo "Every user of this machine may connect, without a password. Ctrl-C stops it. In another terminal try:"
	@echo "  mosquitto_pub -V 5 -t greetings/world -m hello -q 1 --retain"
	@echo "  mosquitto_sub -V 5 -t 'greetings/#' -v -C 1"
	@mkdir -p build
	@$(MAKE) --question --silent console 2>/dev/null || echo "page       is being built beside it (build/console-page.log); reload it in half a minute"
	@$(MAKE) --silent --no-print-directory console >build/console-page.log 2>&1 &
	@exec $(BIN)/tidegate serve --allow-anonymous --data-dir ./data --admin $(ADDRESS):18083 \
	  --listener tcp://$(ADDRESS):1883 --listener ws://$(ADDRESS):8083/mqtt

$(COMPILED)/.installed: $(COMPILED_SOURCES) | $(VENV)/.installed-test $(PAGE)
	@echo "compiling a wheel of Tidegate (80 s of CPU time)"
	@$(BIN)/python tools/compiled_environment.py $(COMPILED)
	@touch $@

compiled: $(COMPILED)/.installed ## Build the compiled wheel, and an environment with it (build/compiled; needs gcc and Python's headers)
	@echo "ready: $(COMPILED)/venv/bin/tidegate, $(COMPILED)/dist"

test: $(READY) ## Run the tests (those that need Node, Chromium or nginx are skipped without them; BUILD=compiled: of the compiled build, as below)
	$(TESTED) -m pytest $(TESTS) -n $(WORKERS) --dist loadfile -m "not slow and not cluster and not kube and not node"

test-unit: $(READY) ## Run the quick tests: no sockets, no store
	$(TESTED) -m pytest tests/unit tests/property -n 2

test-outside: $(READY) ## Run other people's clients and test suites against the broker
	$(TESTED) -m pytest tests/outside tests/integration -n $(WORKERS) --dist loadfile -m "not slow"

test-slow: $(READY) ## Run the tests that take minutes
	$(TESTED) -m pytest tests -m "slow and not cluster and not kube and not node"

test-cluster: $(READY) ## Kill, pause and cut off the processes of a cluster for a minute, and more
	$(TESTED) -m pytest $(if $(filter-out tests,$(TESTS)),$(TESTS),tests/cluster) -n 2 --dist loadfile -rP

test-cluster-grpc: export TIDEGATE_CARRIER = grpc
test-cluster-grpc: $(READY) ## Takeovers, order and a minute of faults with grpcio at every end of the link
	$(TESTED) -m pytest tests/cluster/test_takeover.py tests/cluster/test_chaos.py -n 2 --dist loadfile -rP

test-cluster-long: export TIDEGATE_CHAOS_PROFILE ?= default
test-cluster-long: export TIDEGATE_CHAOS_S ?= 600
test-cluster-long: export TIDEGATE_CHAOS_RUNS ?= 3
test-cluster-long: export TIDEGATE_IDLE ?= 15000
test-cluster-long: export TIDEGATE_RETAINED ?= 100000
test-cluster-long: $(READY) ## The same with default timeouts and 3 times 10 minutes of faults, 15,000 connections, 100,000 retained
	$(TESTED) -m pytest tests/cluster -rP

kubernetes: $(VENV)/.installed-test ## Build the Kubernetes that test-kube and test-node need (once, 5 to 12 minutes, about 3 GiB of Go's cache)
	PYTHONPATH=tests $(BIN)/python -m support.kube.binaries
	PYTHONPATH=tests $(BIN)/python -m support.kube.containerd_programs
	PYTHONPATH=tests $(BIN)/python -m support.kube.state_metrics_program

test-kube: $(VENV)/.installed-test ## Run the operator and the chart against a real API server
	$(BIN)/python -m pytest tests/kube -n 2 --dist loadfile -rP

test-node: $(VENV)/.installed-test ## Run the real image on a whole node (root; network namespaces of its own)
	$(BIN)/python -m pytest tests/node -rP -m "not slow"

test-node-long: $(VENV)/.installed-test ## The same, and lose nodes of a cluster of three under load
	$(BIN)/python -m pytest tests/node -rP

fuzz: $(READY) ## Feed the codec arbitrary bytes for a minute
	$(TESTED) tests/fuzz/fuzz_codec.py -max_total_time=60

proto: $(VENV)/.installed-test ## Generate services/tidegate/link/v1 from proto/
	$(BIN)/python -m grpc_tools.protoc --proto_path=proto --python_out=services --pyi_out=services \
	  --grpc_python_out=services tidegate/link/v1/link.proto

reference: $(VENV)/.installed-test ## Generate docs/configuration.md, and the table of mosquitto's directives
	$(BIN)/python -m tidegate.runtime.config.documentation docs/configuration.md
	$(BIN)/python -m tidegate.convert.documentation docs/differences-from-mosquitto.md

ledger: $(VENV)/.installed-test ## Generate docs/conformance.md from the tests' statements
	$(BIN)/python tests/conformance/ledger.py --write

crd: $(VENV)/.installed-test ## Generate the chart's CustomResourceDefinitions from the models
	$(BIN)/python -m tidegate_operator.spec.crd charts/tidegate/crds/mqttbrokers.yaml
	$(BIN)/python -m tidegate_operator.spec.backup_crd charts/tidegate/crds/mqttbackups.yaml

chart-readme: $(VENV)/.installed-test ## Generate the chart's README, and its schema's descriptions, from its values
	$(BIN)/python charts/readme.py

dashboards: ## Generate the chart's dashboards of Grafana
	$(PYTHON) charts/dashboards.py

pictures: $(VENV)/.installed-test ## Draw docs/images from the import contracts
	$(BIN)/python tools/pictures.py

# uv resolves for the image's Python and writes down the hashes of every file.
LOCK := $(VENV)/lock/bin/uv pip compile --quiet --generate-hashes --no-annotate --upgrade \
  --python-version 3.11 --python-platform linux --custom-compile-command "make lock"
lock: | $(BIN)/python ## Choose and lock the versions of everything in the image
	$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/python -m pip install --quiet uv
	$(LOCK) --extra all --extra operator -o image/requirements.lock pyproject.toml
	printf 'hatchling\npip\nsetuptools\n%s\n' "$$($(PYTHON) tools/compiled_wheel.py --requirements)" | $(LOCK) -o image/requirements-build.lock -

image: console ## Build the image (IMAGE=name:tag, BUILDER=docker or buildah)
	$(BUILDER) build --tag $(IMAGE) .

version: $(VENV)/.installed-release ## Write the version into the chart (VERSION=X.Y.Z sets it)
	PYTHONPATH=tools $(BIN)/python -m release.versions $(VERSION)

release: $(VENV)/.installed-release console ## Make wheel, sdist, image layout, SBOM, chart, OLM bundle, checksums (REGISTRY=host/path)
	@test -n "$(REGISTRY)" || { echo "say where images and charts will be: make release REGISTRY=registry.example.com/team" >&2; exit 1; }
	PYTHONPATH=tools $(BIN)/python -m release --registry "$(REGISTRY)" --platforms "$(PLATFORMS)" \
	  --builder "$(BUILDER)" --build-options "$(BUILD_OPTIONS)" --helm "$(HELM)"

lint: $(VENV)/.installed-lint ## Check style, types and the layering of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/console_page.py --check

fmt: $(VENV)/.installed-lint ## Format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

# NO_MKDOCS_2_WARNING leaves out what the authors of the theme say about their plans.
docs: $(VENV)/.installed-docs ## Build the web site in build/site (a broken link or anchor is an error)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

bench: $(VENV)/.installed-test ## Measure cost beside mosquitto and NATS, in turn (BENCH="--scenarios A,C --rounds 1": docs/performance.md)
	$(BIN)/python bench/run.py $(BENCH)

clean: ## Remove what the other targets made (not ./data)
	rm -rf services/console/node_modules $(dir $(PAGE))
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find services tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
