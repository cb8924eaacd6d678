# Every recipe is a step that CI runs too (.ci/run). `make help` lists them.

CARGO ?= cargo
FUZZ_SECONDS ?= 20
PACKAGES ?= ichord ichorctl
FUZZ_TARGETS := datagram session offload uapi config patch record dns snapshot installer

.PHONY: help build test fmt lint doc deny fuzz static extension bench

help: ## List the recipes
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

build: ## Build both programs, optimized
	$(CARGO) build --release --locked

test: ## Run all tests
	$(CARGO) test --workspace --locked

fmt: ## Check the formatting
	$(CARGO) fmt --all --check
	cd tests/fuzz && $(CARGO) fmt --check

lint: ## Clippy, warnings are errors
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

doc: ## Build the documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked

deny: ## Licences, bans and sources of all dependencies
	$(CARGO) deny --locked check bans licenses sources

fuzz: ## Fuzz every parser for FUZZ_SECONDS each
	cd tests/fuzz && RUSTC_BOOTSTRAP=1 $(CARGO) fuzz build --fuzz-dir . --sanitizer none
	cd tests/fuzz && for target in $(FUZZ_TARGETS); do \
		mkdir -p corpus/$$target && RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir . --sanitizer none $$target \
			corpus/$$target seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 || exit 1; \
	done

static: ## Build the shipped static binaries into dist/
	ICHOR_PACKAGES="$(PACKAGES)" .ci/static

extension: ## Build the extension image from the binaries of `make static`
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(CARGO) run --locked --release -p ichorctl -- image build \
		--amd64 dist/x86_64/ichord --arm64 dist/aarch64/ichord -o dist/ichor-extension.oci.tar

bench: ## Compare ichord with every userspace WireGuard that is here, then the core's own benchmarks (root)
	$(CARGO) build --release --locked -p ichord -p ichor-tests --bins
	target/release/peer-bench
	$(CARGO) bench --locked -p ichor-tests --bench core
