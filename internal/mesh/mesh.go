// Package mesh holds the words that Garrison shares with its users and with
// other people's programs: names of objects, ports, paths, labels and
// annotations. Each is spelled here and nowhere else.
//
// It decides nothing and imports nothing but the identity package. Start reading
// at [Annotations], the vocabulary that users write on their pods, then names.go
// for the objects that Garrison owns in a cluster.
package mesh
