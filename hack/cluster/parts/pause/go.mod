module github.com/garrison-mesh/garrison/hack/cluster/parts/pause

go 1.26.0
