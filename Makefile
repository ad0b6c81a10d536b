# atlas-lake. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
# Steps build on each other, and each of them uses all cores by itself.
.NOTPARALLEL:

# Cargo is always asked for the whole workspace: it unites the features of what it is asked for, so that a part alone would
# have dependencies of its own and compile them again.
TARGET := $(or $(CARGO_TARGET_DIR),target)
SERVERS := $(or $(ATLAS_SERVERS_DIR),.servers)
# Tests on real servers at once. They mostly wait for each other's time-outs, so there may be more of them than cores.
TEST_THREADS ?= 6

# What is given on the command line (`make demo RATE=500 LAKE=azurite`) is in the environment of every command below.

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# See it

.PHONY: demo
demo: ## Real flights travel MongoDB → Kafka → lake and are verified (RATE=events/s, LAKE=file|azurite)
	python3 tests/servers/fetch.py --data $(if $(filter azurite,$(LAKE)),--azurite)
	cargo build --release --workspace --bins --locked
	$(TARGET)/release/demo $(ARGS)

.PHONY: clean-demo
clean-demo: ## Removes what demos left behind
	rm -rf .demo

.PHONY: bench
bench: ## Measures source and sink against the raw drivers (a few minutes)
	python3 tests/servers/fetch.py
	cargo build --release --workspace --bins --locked
	$(TARGET)/release/bench $(ARGS)

.PHONY: run-servers
run-servers: ## MongoDB, Kafka and Azurite for trying the services by hand; prints their settings
	python3 tests/servers/fetch.py --azurite
	cargo build --workspace --all-targets --locked
	$(TARGET)/debug/servers --azurite

# Build and check

.PHONY: servers
servers: ## Fetches mongod, a Java runtime, Kafka, Azurite, a schema registry, two connectors and readers into .servers/
	python3 tests/servers/fetch.py --azurite --registry --connectors --readers --data

.PHONY: build
build: ## Services, harness and tests, for debugging
	cargo build --workspace --all-targets --locked

.PHONY: build-release
build-release: ## The two services, as they are shipped
	cargo build --release --locked -p source-service -p sink-service

# With the dependencies that are there already; then `build` puts the usual programs back in their place. The test is named
# only because a build without one leaves out the features that tests ask for.
.PHONY: build-seeded-bugs
build-seeded-bugs: ## The services with planted bugs, which the end-to-end tests must catch
	cargo build --workspace --locked --bin source-service --bin sink-service --test it \
	  --features source-service/seeded-bugs,sink-service/seeded-bugs
	install -D -t target/seeded-bugs $(TARGET)/debug/source-service $(TARGET)/debug/sink-service
	$(MAKE) --no-print-directory build

.PHONY: fmt
fmt: ## Formats the sources
	cargo fmt --all

.PHONY: lint
lint: ## Formatting and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: deny
deny: ## Licences, bans and sources of all dependencies (needs cargo-deny)
	cargo deny --all-features check bans licenses sources

# Test

# What is fetched comes while the compiler works.
.PHONY: test
test: ## Everything that CI runs
	$(MAKE) servers tools check-files & fetched=$$!; \
	trap 'kill $$fetched 2>/dev/null || true' EXIT; \
	$(MAKE) lint build-seeded-bugs check-docs; \
	wait $$fetched
	python3 .ci/test.py --threads $(TEST_THREADS)

.PHONY: test-unit
test-unit: ## Tests beside the code, without servers
	cargo test --workspace --locked --lib --bins

.PHONY: test-e2e
test-e2e: servers tools build-seeded-bugs ## End to end on real servers; ONLY=<part of a test's name> runs some
	cargo test --workspace --locked --test it -- --test-threads=$(TEST_THREADS) $(ONLY)

# Ignored by the other targets.
.PHONY: test-large
test-large: servers build ## A thousand partitions into Azurite (minutes; not in make test)
	cargo test --workspace --locked --test it -- --ignored --exact many_partitions::a_thousand_in_azurite --nocapture

.PHONY: tools
tools: ## Fetches Prometheus, which the dashboard's test needs
	python3 .ci/tools.py prometheus

.PHONY: check-files
check-files: check-compose check-dockerfile check-monitoring ## What is not Rust: compose, images, monitoring, scripts

# Compose itself reads the file, which needs no engine. It is built from its Go module, once, in 2 to 4 minutes; without
# Go this one check is left out, and says so. Everything else about the file is tested in tests/tests/it/compose.rs.
.PHONY: check-compose
check-compose: ## docker-compose.yml, by Docker Compose itself (needs Go the first time)
	@code=0; python3 .ci/tools.py compose >/dev/null || code=$$?; \
	if [ $$code = 3 ]; then \
	  echo "check-compose: NOT CHECKED by Docker Compose: install Go and type make check-compose" >&2; exit 0; \
	elif [ $$code != 0 ]; then exit $$code; fi; \
	set -x; \
	$(SERVERS)/compose/docker-compose --project-directory . -f docker-compose.yml config -q; \
	$(SERVERS)/compose/docker-compose --project-directory . -f docker-compose.yml --env-file .env.example config -q

.PHONY: check-dockerfile
check-dockerfile: ## Dockerfile, by hadolint
	@python3 .ci/tools.py hadolint >/dev/null
	$(SERVERS)/hadolint/hadolint --failure-threshold info Dockerfile

.PHONY: check-monitoring
check-monitoring: tools ## Prometheus' configuration, by promtool
	$(SERVERS)/prometheus/bin/promtool check config grafana/prometheus.yml

.PHONY: check-docs
check-docs: ## Pages: settings are current, links and files exist (needs make build)
	python3 .ci/docs.py check

.PHONY: settings-table
settings-table: build ## Writes the settings into README.md
	python3 .ci/docs.py write

# Clean

.PHONY: clean
clean: clean-demo ## What was built; the fetched servers stay
	cargo clean

.PHONY: clean-servers
clean-servers: ## The fetched servers and tools
	rm -rf .servers
