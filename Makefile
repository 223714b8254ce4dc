PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DURATION ?=
SOURCE ?=
SEEDS ?= 1,2,3,4
VERSIONS ?= 14 16 17

.PHONY: demo test lint bench docs torture-path test-mariadb-sid test-postgres-versions clean

demo: $(VENV)/.demo  ## A shop's database and three stores that follow it; DURATION=20 ends by itself; SOURCE=mysql
	@$(BIN)/cdc demo $(if $(DURATION),--duration $(DURATION)) $(if $(SOURCE),--source $(SOURCE))

test: lint  ## All tests, against real servers
	$(BIN)/pytest -n 2 --dist loadgroup

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test  ## Speed and memory against references run beside it; BENCH_JSON=FILE
	$(BIN)/python -m tests.bench

docs: $(VENV)/.test  ## The page of reference, from the configuration's models
	$(BIN)/cdc schema export config --format markdown > docs/configuration.md

torture-path: $(VENV)/.test  ## The full matrix: kill points x logs x stores; SEEDS=1,2
	CDC_TORTURE_SEEDS=$(SEEDS) CDC_TORTURE_DEATHS=40 CDC_TORTURE_BIG=1000000 CDC_TORTURE_SECONDS=60 \
		CDC_TORTURE_TIMEOUT=3600 CDC_TORTURE_STORES=duckdb,tantivy,redis,opensearch,sql_postgres \
		$(BIN)/pytest tests/faults tests/integration/mysql/test_failover.py \
		tests/integration/mysql/test_snapshot_gone.py tests/integration/postgres/test_snapshot_gone.py \
		-p no:cacheprovider --timeout 3600

test-mariadb-sid: $(VENV)/.test  ## What is tested on MariaDB, on Debian sid's, which is newer than Debian's
	CDC_TEST_MARIADB=sid CDC_TORTURE_BIG=20000 $(BIN)/pytest -n 2 --dist loadgroup \
		-k 'mariadb or two_databases' tests/contract tests/integration tests/faults

test-postgres-versions: $(VENV)/.test  ## What is tested on PostgreSQL, on versions that `make test` leaves out; VERSIONS=16
	set -e; for version in $(VERSIONS); do CDC_TEST_POSTGRES=$$version $(BIN)/pytest -n 2 --dist loadgroup -k '(postgres \
		or test_values or cli_init or cli_tables or real_servers or every_change_arrives) and not mysql and not demo' \
		tests/contract tests/integration tests/faults; done

$(VENV)/.demo $(VENV)/.test: $(VENV)/.%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
