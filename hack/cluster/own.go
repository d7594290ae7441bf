package main

// ownCluster is what to do where the lab cannot run.
const ownCluster = "With a cluster of your own instead: KUBECONFIG=… REGISTRY=… make demo,\n" +
	"where REGISTRY is a registry that you can push to and its nodes can pull from"
