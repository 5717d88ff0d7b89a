# Everything a newcomer needs is a target here. Each sets up what is missing first (dev/install.sh), and says so.

SHELL := /bin/sh
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
TIDEWATCH := $(RELEASE)/tidewatch
# --locked: the versions in Cargo.lock and no others.
CARGO_BUILD := cargo build --release --workspace --bins --locked

.DEFAULT_GOAL := help
# Tests run services of their own, with failpoints compiled in (crates/service/src/failpoint.rs): one build for all tests.
FAILPOINTS := --features tidewatch-service/failpoints
with_chaos = $(TIDEWATCH) with-stack -- $(RELEASE)/tidewatch-chaos

.PHONY: help demo up down status test lint build bench chaos fuzz

help: ## this list
	@echo 'make TARGET, where TARGET is one of'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

demo: build ## the whole system on sample traffic, until Ctrl-C (ONCE=1: until the incidents are shown)
	@$(TIDEWATCH) demo $(if $(filter-out 0 no false,$(ONCE)),--once)

up: build ## the same stack in the background, data kept; writes .tidewatch/env
	@$(TIDEWATCH) up

down: ## stop what `make up` started
	@if [ -x $(TIDEWATCH) ]; then $(TIDEWATCH) down; else echo 'nothing is built here, so nothing runs'; fi

status: ## what runs, and whether it is ready
	@if [ -x $(TIDEWATCH) ]; then $(TIDEWATCH) status; else echo 'nothing is built here, so nothing runs'; fi

build: ## release binaries in target/release
	@dev/install.sh build
	$(CARGO_BUILD)

# In the release profile like everything else, so that build scripts (librdkafka's takes a minute) run once.
lint: ## formatting and clippy, warnings denied
	@dev/install.sh test
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets --locked -- -D warnings

# All binaries and tests in one go: built apart, cargo would choose other features and compile most dependencies twice.
test: lint ## lint, then every test and a selection of the fault tests, on a private Kafka and Postgres
	cargo build --release --workspace --bins --tests --locked $(FAILPOINTS)
	$(TIDEWATCH) with-stack -- cargo test --release --workspace --locked $(FAILPOINTS)
	$(with_chaos) --quick $(if $(SEED),--seed $(SEED))

# The example makes cargo choose the features of dependencies as it does for tests.
chaos: ## every fault test and mutation control (SEED=n repeats a schedule, ONLY="name …" chooses, ROUNDS=n of correlations)
	@dev/install.sh test
	cargo build --release --workspace --bins --example cost --locked $(FAILPOINTS)
	$(with_chaos) $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(ONLY)

bench: build ## throughput and latency of the whole system on this machine
	$(TIDEWATCH) with-stack -- $(RELEASE)/tidewatch-bench throughput
	$(TIDEWATCH) with-stack -- $(RELEASE)/tidewatch-bench latency

# cargo-fuzz needs a nightly toolchain; it is put into .tidewatch. What a target finds is in fuzz/artifacts: it belongs into
# fuzz/regressions/TARGET, where the tests read it.
FUZZ := PATH="$(CURDIR)/.tidewatch/bin:$$PATH" cargo +nightly fuzz run
FUZZ_LIMITS := -max_total_time=$(or $(SECONDS),60) -timeout=10 -rss_limit_mb=2048

fuzz: ## every fuzz target for a minute, or so many seconds (SECONDS=n)
	@[ -x .tidewatch/bin/cargo-fuzz ] || cargo install --locked --root .tidewatch cargo-fuzz
	@mkdir -p fuzz/corpus/rules fuzz/corpus/events fuzz/corpus/lines
	$(FUZZ) rules fuzz/corpus/rules fuzz/src rules -- $(FUZZ_LIMITS)
	$(FUZZ) events fuzz/corpus/events fuzz/seeds/events -- $(FUZZ_LIMITS)
	$(FUZZ) lines fuzz/corpus/lines fuzz/seeds/lines -- $(FUZZ_LIMITS)
