# SPDX-License-Identifier: Apache-2.0

# sudo drops the part of PATH where Go usually is.
export PATH := $(PATH):/usr/local/go/bin
SHELL := /bin/bash

# The commit goes into the binary, where git can tell it (it cannot in a
# tarball, nor for root in someone else's clone).
VCS := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo true || echo false)

FILES := git ls-files --cached --others --exclude-standard --

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help deps build image generate fmt check lint test test-unit test-root test-bulk peers diff bench bench-cluster bench-control-plane kernel-test demo cluster cluster-down experiment takeover-cluster helm-cluster conformance clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: deps build ## Show Beeline at work between two nodes made of namespaces (root; under two minutes)
	./beeline demo

test: ## Run all tests: test-unit, test-root, peers and diff (root)
	@start=$$SECONDS; \
	$(MAKE) --no-print-directory --keep-going test-unit test-root peers diff; status=$$?; \
	echo "All tests: $$((SECONDS - start)) s"; exit $$status

test-unit: deps ## Run the tests that need no root, most of them under the race detector
	hack/test unit
	hack/test image
	hack/test cluster

test-root: deps ## Run the tests in namespaces with real programs (root)
	hack/test root

test-bulk: deps ## Send a gigabyte through each path of the packet programs, byte for byte (root; minutes)
	hack/test bulk

peers: deps ## Run Beeline and the real kube-proxy side by side and compare what clients meet (root)
	hack/test peers

diff: deps ## Compare Beeline with kube-proxy's own code on random Services
	hack/test diff

bench: ## Measure what a Service costs a client, and a packet, beside the last committed figures (root)
	go run ./test/bench
	go run ./test/bench-packet

bench-cluster: deps-cluster ## Measure Beeline beside kube-proxy on a real cluster (root; a quarter of an hour; BENCH='--services 1,1000')
	hack/cluster bench $(BENCH)

bench-control-plane: deps-cluster ## Measure starts and changes of up to 30,000 Services beside kube-proxy (root; half an hour; BENCH='--services 1,1000')
	hack/cluster bench-control-plane $(BENCH)

kernel-test: ## Run the tests that load real programs on Linux 6.1, in an emulated machine (half an hour or more)
	hack/kernel-test

experiment: deps-cluster ## See on a real cluster that Services need no kube-proxy (root; first time 15 minutes, then one)
	hack/cluster experiment

takeover-cluster: deps-cluster ## Take a real cluster over from kube-proxy and give it back, under load (root; five minutes)
	hack/cluster takeover $(TAKEOVER)

helm-cluster: deps-cluster ## Install, upgrade and uninstall the chart with Helm on a real cluster, under load (root; a minute)
	hack/cluster helm

conformance: deps-cluster ## Run the official [sig-network] tests on Beeline and kube-proxy, or what is missing of them (root; hours)
	hack/cluster conformance --proxy beeline $(CONFORMANCE)
	hack/cluster conformance --proxy kube-proxy-nftables $(CONFORMANCE)
	hack/cluster conformance --proxy beeline --cni vxlan --classes P $(CONFORMANCE)
	hack/cluster conformance --proxy kube-proxy-nftables --cni vxlan --classes P $(CONFORMANCE)
	hack/cluster conformance-page

cluster: deps-cluster ## Start a real cluster with Beeline and leave it running (root; see test/cluster/README.md)
	hack/cluster up $(CLUSTER)

cluster-down: ## Remove that cluster
	hack/cluster down

build: ## Build ./beeline
	CGO_ENABLED=0 go build -trimpath -buildvcs=$(VCS) -o beeline ./cmd/beeline

IMAGE := ghcr.io/beeline-net/beeline:latest
image: ## Build the container image for amd64 and arm64 into dist/beeline.tar (IMAGE=name:tag; PUSH=1 pushes it)
	go -C image run ./cmd/beeline-image --tree "$(CURDIR)" --name "$(IMAGE)" --output "$(CURDIR)/dist/beeline.tar" $(if $(PUSH),--push)

generate: ## Rebuild the kernel programs, their Go types and the reference pages
	hack/install-deps generate
	go generate ./...

fmt: ## Format all code
	hack/install-deps generate
	gofmt -s -w $$($(FILES) '*.go')
	clang-format-19 -i $$($(FILES) '*.c' '*.h')

check: ## Check that code is formatted, generated files are fresh and modules are tidy
	hack/install-deps generate
	hack/check-format
	hack/check-generated
	hack/check-tidy

lint: ## Run go vet, golangci-lint (staticcheck is part of it) and shellcheck
	hack/install-deps lint
	hack/lint

deps: ## Install what tests and demo need and Debian has (root, if anything is missing)
	@hack/install-deps test

.PHONY: deps-cluster
deps-cluster:
	@hack/install-deps cluster

clean: ## Remove what was built
	rm -rf beeline dist
