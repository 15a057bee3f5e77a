# keymeter. `make run` and `make test` set up a fresh Debian machine by themselves: all they need
# beforehand is cargo, make and a C compiler.

SHELL := /bin/bash
.DEFAULT_GOAL := help

SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
VENV := target/clients
NODE_CLIENTS := target/clients-node
PROVIDER := target/provider
SERVERS := target/servers
CHART_TOOLS := target/chart
# All that the tests make keymeter write.
CANARY := target/canary

# Installs Debian packages: $(call install,packages,what for)
define install
	@echo "installing $(1) ($(2))"; \
	if ! command -v apt-get >/dev/null || { [ "$$(id -u)" != 0 ] && [ -z "$(SUDO)" ]; }; then \
		echo "cannot install $(1): it needs apt-get, and root or sudo; install it by hand and try again" >&2; exit 1; \
	fi; \
	$(SUDO) apt-get install -y -q $(1) >/dev/null 2>&1 || \
	{ $(SUDO) apt-get update -q >/dev/null && $(SUDO) apt-get install -y -q $(1) >/dev/null; } || \
	{ echo "apt-get could not install $(1); install it by hand and try again" >&2; exit 1; }
endef

# Installs Node's packages, as the prerequisites have them locked, beside the target.
define install-locked
	@if ! command -v npm >/dev/null; then $(MAKE) --no-print-directory install-npm; fi
	mkdir -p $(@D)
	cp $^ $(@D)
	cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@
endef

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The demo shares no limits and sends no traces: without Redis and OpenTelemetry it is built sooner.
.PHONY: run
run: cmake ## build, and run a gateway with a demo upstream and a fresh key
	@[ -e target/demo/keymeter ] || echo "building keymeter and what it needs: some four minutes on two cores, once"
	cargo build --profile demo --locked --no-default-features --features cli --bin keymeter
	@target/demo/keymeter demo

.PHONY: symbols
symbols: cmake ## build the release once more with its symbols, into target/symbols
	cargo build --profile symbols --locked --bin keymeter

.PHONY: test
test: cmake nextest promtool postgresql redis faketime chromium nginx haproxy clients clients-node provider $(CHART_TOOLS)/ready ## set up, then run every test
	@rm -rf $(CANARY)
	KEYMETER_CANARY=$(CURDIR)/$(CANARY) cargo nextest run --locked --workspace --lib --bins --tests --examples
	python3 -B tests/secrets.py $(CANARY)
	cargo test --locked --workspace --doc
	cargo nextest run --locked --workspace --no-default-features --test plugin
	PATH="$(CURDIR)/target/debug:$$PATH" $(VENV)/bin/python tests/clients/openai_client.py
	PATH="$(CURDIR)/target/debug:$$PATH" $(VENV)/bin/python tests/clients/anthropic_client.py
	PATH="$(CURDIR)/target/debug:$$PATH" $(VENV)/bin/python -B tests/clients/smoke/smoke.py python
	PATH="$(CURDIR)/target/debug:$$PATH" $(VENV)/bin/python -B tests/clients/smoke/smoke.py node $(NODE_CLIENTS)
	cargo build --locked --bins --example key_source
	$(VENV)/bin/python tests/clients/revocation.py
	$(VENV)/bin/python tests/clients/control_plane.py
	python3 -B tests/dist/package.py
	$(CHART_TOOLS)/bin/python -B tests/deploy/chart.py
	python3 -B tests/operators/dashboard.py
	python3 -B tests/browser/keys_page.py target/screenshots
	python3 -B tests/browser/sign_in.py $(PROVIDER) target/screenshots
	python3 -B tests/browser/other_origin.py
	python3 -B tests/proxies/proxies.py
	python3 -B tests/proxies/replicas.py

# Grafana's component library, and what bundles it, stay in target/picture.
PICTURE := target/picture

.PHONY: picture
picture: cmake promtool redis chromium $(PICTURE)/ready ## draw the dashboard with Grafana's components, for docs/pictures (about 15 minutes)
	cargo build --locked --bins
	python3 -B tests/operators/picture/picture.py record
	python3 -B tests/operators/picture/picture.py draw
	cp $(PICTURE)/overview.png docs/pictures/dashboard.png

$(PICTURE)/ready: tests/operators/picture/package.json tests/operators/picture/package-lock.json
	$(install-locked)

.PHONY: install-npm
install-npm:
	$(call install,npm,it fetches packages for Node)

.PHONY: real-servers
real-servers: cmake $(SERVERS)/ready ## check counts against inference servers that run here (the first time minutes of set-up)
	cargo build --locked
	PATH="$(CURDIR)/target/debug:$$PATH" $(SERVERS)/bin/python -B tests/servers/real_servers.py

.PHONY: soak
soak: cmake nextest postgresql redis faketime ## run the tests at their full figures
	KEYMETER_SOAK=1000 PROPTEST_CASES=20000 cargo nextest run --locked --workspace --cargo-profile soak --lib --bins --tests --no-fail-fast

# A build that knows which of its code runs: one that counts is put under load, and its counts shape the next. The profile stays:
# remove it to count anew. Debian's LLVM reads what programs of a later rustc count. For a target that is named, since what is
# built for the build itself is not to count.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
PGO_PROFILE := target/pgo/keymeter.profdata
SHAPED = target/pgo/shaped/$(HOST)/release/keymeter
PROFDATA = $(firstword $(wildcard $(shell rustc --print sysroot)/lib/rustlib/$(HOST)/bin/llvm-profdata) llvm-profdata-19)

.PHONY: pgo
pgo: cmake $(PGO_PROFILE) ## build the release shaped by a profile of it under load, in target/pgo (40 minutes; with a profile 15)
	rm -rf target/pgo/shaped
	RUSTFLAGS="-Cprofile-use=$(CURDIR)/$(PGO_PROFILE)" \
	cargo build --locked --release --bin keymeter --target $(HOST) --target-dir target/pgo/shaped
	@echo $(SHAPED)

$(PGO_PROFILE): | llvm
	cargo build --locked --profile bare --no-default-features --bench proxy
	RUSTFLAGS="-Cprofile-generate=$(CURDIR)/target/pgo/counts" \
	cargo build --locked --release --bin keymeter --target $(HOST) --target-dir target/pgo/counting
	rm -rf target/pgo/counts
	load=$$(ls -t target/bare/deps/proxy-* | grep -v '\.d$$' | head -1) && \
	$$load measure target/pgo/counting/$(HOST)/release/keymeter $$load train
	$(PROFDATA) merge -o $@.new target/pgo/counts
	mv $@.new $@

.PHONY: llvm
llvm:
	@if ! command -v $(PROFDATA) >/dev/null; then $(MAKE) --no-print-directory install-llvm; fi

.PHONY: install-llvm
install-llvm:
	$(call install,llvm-19,it reads how often code ran)

# What people install: a package for Debian; archives of a binary for glibc and of a static one, with completions and manual
# pages; what they are made of; the profile that shaped them; checksums. The same programs are packed into the same bytes.
DIST := target/dist
MACHINE := $(shell uname -m)
STATIC := $(MACHINE)-unknown-linux-musl

.PHONY: dist
dist: cmake musl cyclonedx pgo ## build the release, and pack it into target/dist: for Debian, static, with checksums
	CC_$(subst -,_,$(STATIC))=musl-gcc cargo build --locked --release --bin keymeter --target $(STATIC)
	rm -rf $(DIST) && mkdir -p $(DIST)
	conf/deploy/package.sh $(SHAPED) $(DIST)/keymeter.deb
	version=$$(dpkg-deb --field $(DIST)/keymeter.deb Version) && architecture=$$(dpkg --print-architecture) && \
	mv $(DIST)/keymeter.deb $(DIST)/keymeter_$${version}_$$architecture.deb && \
	conf/deploy/archive.sh $(SHAPED) $(DIST)/keymeter-$$version-$(MACHINE)-linux-gnu.tar.gz && \
	conf/deploy/archive.sh target/$(STATIC)/release/keymeter $(DIST)/keymeter-$$version-$(MACHINE)-linux-musl.tar.gz && \
	gzip -n9 <$(PGO_PROFILE) >$(DIST)/keymeter-$$version-$(MACHINE).profdata.gz && \
	conf/deploy/sbom.sh $(DIST)/keymeter-$$version.cdx.json
	cd $(DIST) && sha256sum keymeter* >SHA256SUMS && cat SHA256SUMS

.PHONY: musl
musl:
	@if ! command -v musl-gcc >/dev/null; then $(MAKE) --no-print-directory install-musl; fi
	@if ! [ -d "$$(rustc --print target-libdir --target $(STATIC))" ]; then rustup target add $(STATIC); fi

.PHONY: install-musl
install-musl:
	$(call install,musl-tools,the static binary is built with it)

.PHONY: cyclonedx
cyclonedx:
	@cargo cyclonedx --version >/dev/null 2>&1 || cargo install --locked cargo-cyclonedx

.PHONY: bench
bench: cmake valgrind ## measure admission, metering and limits, in time and in instructions
	cargo bench --locked

# The recordings stay in target/: nothing of them is part of the project.
RECORDINGS := target/recordings

# PGO=1: what `make pgo` has built before, in place of the release.
MEASURED = $(if $(filter 1,$(PGO)),$(SHAPED),target/release/keymeter)

# Two builds: keymeter's own profile, and Pingora as it comes, with the system's allocator and no further settings.
.PHONY: bench-proxy
bench-proxy: cmake valgrind strace nginx haproxy ## compare with bare Pingora, nginx, HAProxy: CPU, instructions, memory, latency (about 20 minutes)
	cargo build --locked --release --bins --bench proxy
	cargo build --locked --profile bare --no-default-features --bench proxy
	@alike=$$(ls -t target/release/deps/proxy-* | grep -v '\.d$$' | head -1); \
	bare=$$(ls -t target/bare/deps/proxy-* | grep -v '\.d$$' | head -1); \
	$$alike measure $(MEASURED) $$bare $(CASES)

.PHONY: strace
strace:
	@if ! command -v strace >/dev/null; then $(MAKE) --no-print-directory install-strace; fi

.PHONY: install-strace
install-strace:
	$(call install,strace,it counts calls of the system)

.PHONY: nginx
nginx:
	@if ! command -v nginx >/dev/null; then $(MAKE) --no-print-directory install-nginx; fi

.PHONY: install-nginx
install-nginx:
	$(call install,nginx-light,it is compared with)

.PHONY: haproxy
haproxy:
	@if ! command -v haproxy >/dev/null && [ ! -x /usr/sbin/haproxy ]; then $(MAKE) --no-print-directory install-haproxy; fi

.PHONY: install-haproxy
install-haproxy:
	$(call install,haproxy,the gateway is tested behind it)

.PHONY: estimates
estimates: cmake $(RECORDINGS)/exchanges.ndjson ## measure how far estimates are off, on recordings of real exchanges
	cargo run --quiet --locked --example estimates -- $(RECORDINGS)/exchanges.ndjson

$(RECORDINGS)/exchanges.ndjson: tests/estimates/recordings.txt tests/estimates/exchanges.py
	@python3 -c 'import venv, ensurepip' 2>/dev/null || $(MAKE) --no-print-directory install-python
	python3 -m venv $(RECORDINGS)/python
	$(RECORDINGS)/python/bin/pip install --quiet pyyaml==6.0.3
	rm -rf $(RECORDINGS)/packages
	$(RECORDINGS)/python/bin/pip download --quiet --no-deps --require-hashes --dest $(RECORDINGS)/packages \
		--no-binary "$$(sed -n 's/==.*//p' tests/estimates/recordings.txt | paste -sd,)" \
		--requirement tests/estimates/recordings.txt
	$(RECORDINGS)/python/bin/python tests/estimates/exchanges.py $(RECORDINGS)/packages/* >$@.new
	mv $@.new $@

# Nothing of ours is `unsafe`, so a sanitizer would find nothing: without one stable Rust builds the targets. What is
# found on the way is kept in target/fuzz; fuzz/corpus has what shows the way to code that the fixtures do not reach.
FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: cmake c++ cargo-fuzz ## run each fuzz target for FUZZ_SECONDS (60)
	cargo fuzz build --sanitizer none
	@set -e; for target in $$(cargo fuzz list); do \
		echo "fuzzing $$target for $(FUZZ_SECONDS) s"; \
		mkdir -p target/fuzz/$$target fuzz/corpus/$$target; \
		cargo fuzz run --sanitizer none $$target target/fuzz/$$target fuzz/corpus/$$target tests/fixtures -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=60 -verbosity=0 -print_final_stats=1; \
	done

.PHONY: check
check: cmake deny codespell ## formatting, lints, documentation, dependencies (OFFLINE=1: without the advisory database)
	cargo fmt --all --check
	python3 -B tests/docs/links.py
	codespell --ignore-words-list crate *.md docs/*.md conf/*.yaml conf/prometheus/*.yml
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --workspace --lib --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items
	@! cargo tree --locked --package keymeter --no-default-features --edges normal --prefix none | \
	grep -E '^(axum|maud|mimalloc|opentelemetry|redis|sqlx|tonic|utoipa)[a-z_-]* ' || \
	{ echo "the plugin alone is built with what only the program needs" >&2; exit 1; }
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --manifest-path fuzz/Cargo.toml --target-dir target --locked --no-default-features -- -D warnings
	cargo deny --locked check bans licenses sources
	@cargo deny --locked check advisories 2>target/advisories.log || \
	if ! grep -q 'failed to fetch advisory database\|unable to fetch' target/advisories.log; then \
		cat target/advisories.log >&2; exit 1; \
	elif [ "$(OFFLINE)" = 1 ]; then \
		echo "OFFLINE=1: the advisory database is out of reach, and known vulnerabilities were not looked up"; \
	else \
		cat target/advisories.log >&2; \
		echo "the advisory database is out of reach: known vulnerabilities were not looked up; mend the connection, or say OFFLINE=1" >&2; \
		exit 1; \
	fi

.PHONY: docs
docs: cmake ## write what the program says of its configuration: conf/*.schema.json, docs/configuration.md
	cargo build --locked
	target/debug/keymeter schema >conf/keymeter.schema.json
	target/debug/keymeter schema --keys >conf/keys.schema.json
	target/debug/keymeter schema --reference >docs/configuration.md

.PHONY: cmake
cmake:
	@if ! command -v cmake >/dev/null; then $(MAKE) --no-print-directory install-cmake; fi

.PHONY: install-cmake
install-cmake:
	$(call install,cmake,Pingora's compression is built with it)

# The server's programs only: nothing listens by itself. Tests start their own.
.PHONY: postgresql
postgresql:
	@if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then $(MAKE) --no-print-directory install-postgresql; fi

.PHONY: install-postgresql
install-postgresql:
	@if command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || [ -n "$(SUDO)" ]; }; then \
		$(SUDO) mkdir -p /etc/postgresql-common && \
		{ [ -e /etc/postgresql-common/createcluster.conf ] || \
		echo 'create_main_cluster = false' | $(SUDO) tee /etc/postgresql-common/createcluster.conf >/dev/null; }; fi
	$(call install,postgresql,the control plane is tested over it)

# The same holds of it. Debian's package starts a server where there is an init system: it disturbs nobody.
.PHONY: redis
redis:
	@if ! command -v redis-server >/dev/null; then $(MAKE) --no-print-directory install-redis; fi

.PHONY: install-redis
install-redis:
	$(call install,redis-server,limits over several gateways are tested with it)

.PHONY: faketime
faketime:
	@if ! command -v faketime >/dev/null; then $(MAKE) --no-print-directory install-faketime; fi

.PHONY: install-faketime
install-faketime:
	$(call install,faketime,whole processes are tested at the turn of a month)

.PHONY: c++
c++:
	@if ! command -v c++ >/dev/null; then $(MAKE) --no-print-directory install-c++; fi

.PHONY: install-c++
install-c++:
	$(call install,g++,libFuzzer is built with it)

.PHONY: valgrind
valgrind:
	@if ! command -v valgrind >/dev/null; then $(MAKE) --no-print-directory install-valgrind; fi

.PHONY: install-valgrind
install-valgrind:
	$(call install,valgrind,it counts instructions)

.PHONY: chromium
chromium:
	@if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then \
		$(MAKE) --no-print-directory install-chromium; fi

.PHONY: install-chromium
install-chromium:
	$(call install,chromium chromium-driver,pages are driven in it)

.PHONY: codespell
codespell:
	@if ! command -v codespell >/dev/null; then $(MAKE) --no-print-directory install-codespell; fi

.PHONY: install-codespell
install-codespell:
	$(call install,codespell,the documentation is spelled by it)

.PHONY: promtool
promtool:
	@if ! command -v promtool >/dev/null; then $(MAKE) --no-print-directory install-promtool; fi

.PHONY: install-promtool
install-promtool:
	$(call install,prometheus,promtool checks our metrics and Prometheus scrapes them)

.PHONY: nextest
nextest:
	@cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest

.PHONY: deny
deny:
	@cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny

.PHONY: cargo-fuzz
cargo-fuzz:
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz

# The clients for Python, in a virtual environment of their own.
.PHONY: clients
clients: $(VENV)/ready

$(VENV)/ready: tests/clients/smoke/requirements.txt tests/clients/requirements.txt
	@python3 -c 'import venv, ensurepip' 2>/dev/null || $(MAKE) --no-print-directory install-python
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement $<
	touch $@

# What renders a chart, and Kubernetes' schemas.
$(CHART_TOOLS)/ready: tests/deploy/requirements.txt
	@python3 -c 'import venv, ensurepip' 2>/dev/null || $(MAKE) --no-print-directory install-python
	python3 -m venv $(CHART_TOOLS)
	$(CHART_TOOLS)/bin/pip install --quiet --requirement $<
	touch $@

# Those for Node.
.PHONY: clients-node
clients-node: $(NODE_CLIENTS)/ready

$(NODE_CLIENTS)/ready: tests/clients/smoke/node/package.json tests/clients/smoke/node/package-lock.json
	$(install-locked)

# The issuer by which people sign in to the page in a browser.
.PHONY: provider
provider: $(PROVIDER)/ready

$(PROVIDER)/ready: tests/browser/provider/package.json tests/browser/provider/package-lock.json
	$(install-locked)

# Inference servers. llama-cpp-python is compiled, for any processor, so that what is cached of it runs elsewhere too.
$(SERVERS)/ready: tests/servers/requirements.txt tests/clients/requirements.txt
	@python3 -c 'import venv, ensurepip' 2>/dev/null || $(MAKE) --no-print-directory install-python
	@command -v c++ >/dev/null || $(MAKE) --no-print-directory install-compiler
	python3 -m venv $(SERVERS)
	CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF" $(SERVERS)/bin/pip install --quiet --requirement $<
	touch $@

.PHONY: install-compiler
install-compiler:
	$(call install,g++,llama-cpp-python is built with it)

.PHONY: install-python
install-python:
	$(call install,python3-venv,the official clients run in it)
