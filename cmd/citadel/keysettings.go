package main

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// keySettings say what signs.
type keySettings struct {
	mode            ca.Mode
	kind            ca.KeyKind
	domainChosen    bool
	intermediate    bool
	intermediateTTL time.Duration
	constrain       bool
	dir             string            // of a plugged-in CA, with ..data as kubelets have it or without
	files           map[string]string // of a plugged-in CA, by the name that Istio gives them
}

// register adds the flags, and returns what reads them when they are parsed.
func (k *keySettings) register(f *pflag.FlagSet) func() []error {
	var mode, kind string
	files := map[string]*string{}
	f.StringVar(&mode, "ca", ca.Auto.String(),
		"what signs: self-signed, plugged (Secret cacerts or files), or auto, which is plugged where there is or was one")
	f.StringVar(&k.dir, "ca-dir", "", "directory of a plugged-in CA, with the files that Secret cacerts has")
	for _, c := range []struct{ flag, name string }{
		{"signing-cert", mesh.CACertKey}, {"signing-key", mesh.CAKeyKey}, {"cert-chain", mesh.CertChain}, {"root-cert", mesh.RootKey},
	} {
		files[c.name] = f.String(c.flag, "", "file of a plugged-in CA: "+c.name)
	}
	f.StringVar(&kind, "ca-key", ca.KeyKind{}.String(),
		"kind of keys that are made for the CA: p256, p384, rsa2048 or rsa4096")
	f.BoolVar(&k.intermediate, "intermediate", true,
		"sign with a certificate below the self-signed root, so that the root's key can be taken away")
	f.DurationVar(&k.intermediateTTL, "intermediate-ttl", ca.DefaultIntermediateTTL,
		"lifetime of that certificate; it is renewed with a third left")
	f.BoolVar(&k.constrain, "intermediate-name-constraint", false,
		"let it sign only for URIs of the trust domain; ztunnel refuses all certificates then")
	return func() (errs []error) {
		var err error
		if k.mode, err = ca.ParseMode(mode); err != nil {
			errs = append(errs, fmt.Errorf("ca %w", err))
		}
		if k.kind, err = ca.ParseKeyKind(kind); err != nil {
			errs = append(errs, fmt.Errorf("ca-key %w", err))
		}
		k.domainChosen = f.Changed("trust-domain")
		k.files = map[string]string{}
		for name, file := range files {
			if *file != "" {
				k.files[name] = *file
			}
		}
		switch {
		case len(k.files) > 0 && k.dir != "":
			errs = append(errs, errors.New("ca-dir: excludes signing-cert, signing-key, cert-chain and root-cert"))
		case len(k.files) > 0 && len(k.files) < len(files):
			errs = append(errs, errors.New("signing-cert, signing-key, cert-chain and root-cert: all of them or none"))
		}
		if k.mode == ca.SelfSigned && k.fromFiles() {
			errs = append(errs, errors.New("ca self-signed: excludes the files of a plugged-in one"))
		}
		return errs
	}
}

// fromFiles reports whether a plugged-in CA is in files, not in the Secret.
func (k *keySettings) fromFiles() bool { return k.dir != "" || len(k.files) > 0 }

// dirs returns the directories to watch.
func (k *keySettings) dirs() []string {
	if k.dir != "" {
		return []string{k.dir}
	}
	dirs := map[string]bool{}
	for _, file := range k.files {
		dirs[filepath.Dir(file)] = true
	}
	return slices.Sorted(maps.Keys(dirs))
}
