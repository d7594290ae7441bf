# One line for each target; `make` lists them.
#
#   CLUSTER=name   which of the lab's clusters (default: cluster)
#   NODES=2        with two nodes
#   KUBECONFIG=…   a cluster of your own instead of the lab's
#   REGISTRY=…     where its nodes pull Garrison's images from

CLUSTER ?= cluster
NODES   ?= 1
TAG     := $(shell git describe --tags --always --dirty 2>/dev/null)
GO      := hack/go
BIN     := build/bin
export CLUSTER NODES REGISTRY

# The lab's kubeconfig, unless the user's own cluster was asked for.
LAB := $(if $(KUBECONFIG),,$(CURDIR)/build/$(CLUSTER)/kubeconfig)

.PHONY: help demo test test-long build images push manifests up down install uninstall bench check clean deps tools

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## do everything from nothing, and show the main job before your eyes
	@hack/demo

test: tools ## every test that fits: unit, real API server, end to end on a real cluster
	@hack/test

test-long: tools ## fuzzing, storms, kill tests, long waits
	@hack/test --long

build: ## the binaries, into build/bin
	$(GO) build -trimpath -ldflags "-s -w -X main.version=$(TAG)" -o $(BIN)/ ./cmd/...

images: tools ## the OCI images, into the user's cache folder
	@$(BIN)/images build --tag $(TAG)

push: images ## the images, to REGISTRY=…
	@test -n "$(REGISTRY)" || { echo "make push: REGISTRY=… says where to" >&2; exit 1; }
	@$(BIN)/images push --tag $(TAG) --registry $(REGISTRY)

manifests: tools ## what install applies, into build/manifests
	@$(BIN)/manifests --tag $(TAG) $(if $(REGISTRY),--registry $(REGISTRY))

up: tools ## a real Kubernetes on this machine
	@$(BIN)/cluster build
	@$(BIN)/cluster up

down: tools ## end it, and leave nothing behind
	@$(BIN)/cluster down

install: manifests ## Garrison, into the cluster
	@$(if $(LAB),$(BIN)/cluster load)
	@KUBECONFIG=$(or $(KUBECONFIG),$(LAB)) hack/install

uninstall: ## Garrison, out of the cluster
	@KUBECONFIG=$(or $(KUBECONFIG),$(LAB)) hack/uninstall

bench: tools ## the figures, each beside its goal; some need the lab's cluster, or yours
	@KUBECONFIG=$(or $(KUBECONFIG),$(wildcard $(LAB))) $(GO) run ./test/bench

check: deps ## every gate but the tests
	@hack/check

clean: down ## remove what was built here; the cache folder stays
	rm -rf build

deps:
	@hack/deps

tools: deps
	@$(GO) -C hack build -o ../$(BIN)/ ./cluster ./images ./manifests github.com/fullstorydev/grpcurl/cmd/grpcurl
