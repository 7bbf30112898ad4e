# `make` says what there is. Everything fetched or built goes to ANSWERD_CACHE (~/.cache/answerd).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
ENV := . scripts/env.sh
CARGO_TEST := cargo test --release --features failpoints
# Much of a test is waiting: two more at once than there are processors. A test of a browser counts as two. One that fails
# does not keep the others from being heard.
NEXTEST := cargo nextest run --release --features failpoints --no-fail-fast --test-threads $(shell expr $$(nproc) + 2)
# Unit tests have answerd unoptimized, with all checks of numbers: it is built in a fifth of the time.
ANSWERD_ALONE := profile.release.package.answerd
UNIT := $(foreach check,opt-level=0 debug-assertions=true overflow-checks=true,--config $(ANSWERD_ALONE).$(check))
# What every store of documents promises: these tests are run with each.
STORE_TESTS := documents|search|folder|events|cache|identity
BENCHES := quality search embedding generation serving streams cache replicas crash events life

.PHONY: help run test bench soak check release fuzz setup clean-data

help: ## Say what there is
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1|\2/p' Makefile | \
		while IFS='|' read -r name what; do printf '  make %-11s %s\n' "$$name" "$$what"; done

run: setup ## Build it and start it with config.toml
	@scripts/ui.sh
	@$(ENV); \
	if [ ! -x "$$CARGO_TARGET_DIR/release/answerd" ]; then echo 'The first build compiles llama.cpp and tantivy: it takes about 25 minutes on two cores.'; fi; \
	cargo build --release; \
	if [ "$$ANSWERD_CACHE" != "$$HOME/.cache/answerd" ]; then \
		export ANSWERD__EMBEDDING__MODEL="$${ANSWERD__EMBEDDING__MODEL:-$$ANSWERD_MODELS/all-MiniLM-L6-v2}"; \
		export ANSWERD__MODELS__CHAT__PATH="$${ANSWERD__MODELS__CHAT__PATH:-$$ANSWERD_MODELS/SmolLM2-135M-Instruct.Q4_1.gguf}"; \
	fi; \
	exec "$$CARGO_TARGET_DIR/release/answerd" serve --config config.toml

test: ## Run all tests
	@scripts/setup.sh test
	@scripts/ui.sh test
	@$(ENV); \
	if cargo nextest --version >/dev/null 2>&1; then \
		$(NEXTEST) $(UNIT) --lib; \
		$(NEXTEST) --bins --test '*'; \
		ANSWERD_TEST_STORE=postgres $(NEXTEST) --test service -E 'test(/^($(STORE_TESTS))::/)'; \
		if [ -n "$${ANSWERD_TEST_QDRANT_URL:-}" ]; then \
			ANSWERD_TEST_STORE=qdrant $(NEXTEST) --test service -E 'test(/^($(STORE_TESTS))::/)'; \
			$(NEXTEST) --run-ignored only --test service -E 'test(/^qdrant::/)'; \
		fi; \
	else \
		$(CARGO_TEST) $(UNIT) --lib; \
		$(CARGO_TEST) --bins --test '*'; \
		for store in postgres $${ANSWERD_TEST_QDRANT_URL:+qdrant}; do \
			for part in $(subst |, ,$(STORE_TESTS)); do ANSWERD_TEST_STORE=$$store $(CARGO_TEST) --test service "$$part::"; done; \
		done; \
		if [ -n "$${ANSWERD_TEST_QDRANT_URL:-}" ]; then $(CARGO_TEST) --test service qdrant:: -- --ignored; fi; \
	fi

bench: ## Run the benchmarks: all, or BENCH=quality|search|embedding|generation|serving|streams|cache|replicas|crash|events|life
	@case '$(or $(BENCH),$(BENCHES))' in *search*|*replicas*) scripts/setup.sh test ;; esac; \
	case '$(or $(BENCH),$(BENCHES))' in *embedding*|*generation*|*serving*|*streams*) scripts/setup.sh bench ;; *) scripts/setup.sh ;; esac
	@$(ENV); \
	for name in $(or $(BENCH),$(BENCHES)); do cargo bench --features failpoints --bench "$$name"; done

soak: ## An hour of mixed load with random faults (SOAK_MINUTES, SOAK_SEED)
	@scripts/setup.sh test
	@$(ENV); cargo bench --features failpoints --bench soak

check: setup ## Check format, lints, licences of dependencies and the documentation's links
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	@$(ENV); \
	cargo deny --locked check licenses bans sources; \
	cargo clippy --release --all-targets --features failpoints -- -D warnings; \
	RUSTDOCFLAGS='-D warnings' cargo doc --release --no-deps --lib --features failpoints

fuzz: ## Fuzz the parsers: FUZZ_SECONDS=60 for each of FUZZ_TARGETS, all by default
	@scripts/fuzz.sh

release: ## Build it for other machines, and pack it
	@scripts/release.sh

setup: ## Get the build tools and the models, where they are missing
	@scripts/setup.sh

clean-data: ## Remove the state: catalog and indexes (data/state)
	rm -rf data/state
