# Everything a user or a contributor runs. Every target is safe to run again and reads no standard input.
#
# The compiled files go to ./target, or to CARGO_TARGET_DIR when that is set; all targets share one build.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup build run test lint audit check-deploy bench fmt torture kafka kafka-stop clean-data

# One file or several, played by `make run`; empty: a simulated evening.
FILE ?=
# The evening that `make run` plays: seed, size (small, default, large) and pace (times real time, or max).
SEED ?= 1
PRESET ?= default
SPEED ?= 20
# Arguments of the bench.
ARGS ?=
# Rounds of kill -9 in `make torture`.
TORTURE ?= 500
# Nodes of `make kafka` when it is started for the first time; afterwards it is as it was made.
N ?=

help: ## This list
	@echo "Barrage: live-room numbers from IM callbacks"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  make run FILE=room.jsonl.gz   plays a recording instead of the simulated evening"
	@echo "  make run SPEED=max ONCE=1     as fast as it goes, and stops at the end"

setup: ## Installs what is missing to build (says what and why)
	@scripts/setup.sh

build: setup ## Builds the program
	@scripts/build.sh

run: build ## Starts Barrage, plays a live evening against it, shows the numbers
	@FILE='$(FILE)' SEED='$(SEED)' PRESET='$(PRESET)' SPEED='$(SPEED)' ONCE='$(ONCE)' DATA='$(DATA)' scripts/run.sh

test: setup ## Runs every test; the last line is `N passed, N failed`
	@scripts/test.sh

lint: setup ## Format, clippy, documentation, dependencies, scripts and deploy files; a warning is an error
	@scripts/lint.sh

audit: setup ## Licences, sources and duplicates of the dependencies (part of lint)
	@scripts/audit.sh

check-deploy: ## Checks image, compose, Kubernetes and alerts with the tools that are there; says what it skips
	@scripts/check-deploy.sh

bench: setup ## Measures; prints the machine, the commit and ratios to bare ceilings (ARGS=--quick)
	@scripts/bench.sh $(ARGS)

torture: setup ## The crash and Kafka fault tests with TORTURE=500 rounds
	@TORTURE='$(TORTURE)' scripts/test.sh --test crash --test kafka --test faults -- --nocapture

kafka: setup ## Starts a real Kafka on 127.0.0.1:9092, data in ./data/kafka (N=3: three nodes, min.insync.replicas 2)
	@deploy/kafka/kafka.sh start --dir ./data/kafka $(if $(N),--nodes $(N))

kafka-stop: ## Stops that Kafka and keeps its data
	@deploy/kafka/kafka.sh stop --dir ./data/kafka

fmt: setup ## Formats the code
	@cargo fmt --all

clean-data: ## Removes the data directories that `make run` made
	@rm -rf ./data/run-* && echo "removed ./data/run-*"
