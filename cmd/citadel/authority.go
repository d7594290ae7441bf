package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// startTimeout is how long the Secrets of the CA may take to be there. After that the
// process ends with the reason, before the startup probe would end it without one.
const startTimeout = 45 * time.Second

// keyring finds what signs, hands it to the authority, and goes on doing so.
type keyring struct {
	api       *cluster.API
	settings  settings
	log       *slog.Logger
	authority *ca.Authority
	due       chan struct{} // something changed that the leader should look at

	mu       sync.Mutex // one change at a time
	material ca.Material
	said     string   // the error that was logged last
	after    []func() // called when the authority signs with something else
}

// openKeyring reads what signs, or makes it where there is nothing. Of two replicas
// that start together one wins, and both sign with what it made.
func openKeyring(ctx context.Context, api *cluster.API, s settings, log *slog.Logger) (*keyring, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	k := &keyring{api: api, settings: s, log: log, due: make(chan struct{}, 1)}
	m := ca.Material{Mode: s.keys.mode, Direct: !s.keys.intermediate, DomainChosen: s.keys.domainChosen}
	var err error
	if m.Intermediate, err = api.ReadSecret(ctx, s.caNamespace, mesh.IntermediateSecret); err != nil {
		return nil, err
	}
	if m.Plugged, err = k.readPlugged(ctx); err != nil {
		return nil, err
	}
	trusted, err := api.ReadConfigMap(ctx, s.namespace, mesh.RootConfigMap)
	if err != nil {
		return nil, err
	}
	if trusted != nil {
		m.Trusted = []byte(trusted.Data[mesh.RootKey])
	}
	if !m.UsesPlugged() {
		if err := k.makeSelfSigned(ctx, &m); err != nil {
			return nil, err
		}
	}
	if k.authority, err = ca.Start(m, s.authority, time.Now()); err != nil {
		return nil, err
	}
	m.Trusted = nil
	k.material = m
	return k, nil
}

// makeSelfSigned sees to it that there are a root and an intermediate. A root that is
// gone while its intermediate is there comes back without its key: another one would
// be unknown to every workload.
func (k *keyring) makeSelfSigned(ctx context.Context, m *ca.Material) (err error) {
	s := k.settings
	m.Root, err = k.api.CreateOrRead(ctx, s.caNamespace, mesh.CASecret, func() (*corev1.Secret, error) {
		if restored := ca.RestoreRoot(m.Intermediate); restored != nil && !m.Direct {
			k.log.Warn("CA Secret was gone; made it anew without the root key, which nothing here knows", "secret", mesh.CASecret)
			return restored, nil
		}
		return ca.NewRoot(ca.RootOptions{
			TrustDomain: s.authority.TrustDomain,
			Namespace:   s.caNamespace,
			TTL:         s.rootTTL,
			Key:         s.keys.kind,
		}, time.Now())
	})
	if err != nil || m.Direct {
		return err
	}
	m.Intermediate, err = k.api.EnsureSecret(ctx, s.caNamespace, mesh.IntermediateSecret, k.desire(m.Root))
	return err
}

// desire returns what the Secret of the intermediate below a root should become.
func (k *keyring) desire(root *corev1.Secret) func(*corev1.Secret) (*corev1.Secret, error) {
	return func(found *corev1.Secret) (*corev1.Secret, error) {
		return ca.DesiredIntermediate(root, found, ca.IntermediateOptions{
			TrustDomain: k.settings.authority.TrustDomain,
			TTL:         k.settings.keys.intermediateTTL,
			Key:         k.settings.keys.kind,
			Constrain:   k.settings.keys.constrain,
		}, time.Now())
	}
}

// follow is a part: it takes over what changes in Secrets and files.
func (k *keyring) follow(ctx context.Context) error {
	s := k.settings
	parts := serve.Parts{
		mesh.CASecret: k.api.WatchSecret(s.caNamespace, mesh.CASecret, func(found *corev1.Secret) {
			k.update(func(m *ca.Material) { m.Root = found })
			k.poke()
		}),
		mesh.IntermediateSecret: k.api.WatchSecret(s.caNamespace, mesh.IntermediateSecret, func(found *corev1.Secret) {
			k.update(func(m *ca.Material) { m.Intermediate = found })
			k.poke()
		}),
	}
	switch {
	case s.keys.fromFiles():
		parts["files"] = serve.Files{Dirs: s.keys.dirs(), Log: k.log, Changed: func() {
			k.update(func(m *ca.Material) { m.Plugged = s.keys.read() })
		}}.Run
	case s.keys.mode != ca.SelfSigned:
		parts[mesh.PluggedSecret] = k.api.WatchSecret(s.namespace, mesh.PluggedSecret, func(found *corev1.Secret) {
			k.update(func(m *ca.Material) { m.Plugged = pluggedIn(found) })
		})
	}
	return serve.All(ctx, parts)
}

// update changes what was found. What cannot sign changes nothing but the log, the
// metrics and the notes.
func (k *keyring) update(change func(*ca.Material)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change(&k.material)
	changed, err := k.authority.Replace(k.material, time.Now())
	switch {
	case err == nil:
		k.said = ""
	case err.Error() != k.said:
		k.said = err.Error()
		k.log.Error("CA was not replaced; signing goes on with the one before", "err", err)
	}
	if changed {
		status := k.authority.Status()
		k.log.Warn("replaced the signing certificate", "source", status.Source, "from", status.From,
			"fingerprint", status.Certificates[0].Fingerprint, "ends", status.Ends)
		for _, tell := range k.after {
			tell()
		}
		k.poke()
	}
}

// then has tell called whenever the authority signs with something else.
func (k *keyring) then(tell func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.after = append(k.after, tell)
}

// poke has the leader look whether something is due.
func (k *keyring) poke() {
	select {
	case k.due <- struct{}{}:
	default:
	}
}

// again lets got look a second time at what it got last, whenever the authority signs
// with something else: what it could not verify before, it may now.
func (k *keyring) again(got func(*corev1.Secret)) func(*corev1.Secret) {
	var mu sync.Mutex
	var last *corev1.Secret
	k.mu.Lock()
	defer k.mu.Unlock()
	k.after = append(k.after, func() {
		mu.Lock()
		defer mu.Unlock()
		if last != nil {
			got(last)
		}
	})
	return func(found *corev1.Secret) {
		mu.Lock()
		defer mu.Unlock()
		last = found
		got(found)
	}
}

// tend is the leader's part: the intermediate is renewed in time, and whoever reads
// the log is told what is needed for it.
func (k *keyring) tend(ctx context.Context) error {
	var told string
	var toldAt time.Time
	for {
		if err := k.renew(ctx); err != nil && ctx.Err() == nil {
			k.log.ErrorContext(ctx, "intermediate was not renewed", "err", err)
		}
		now := time.Now()
		notices, urgent := k.authority.Status().Notices(now)
		if text := strings.Join(notices, "; "); text != "" && (text != told || now.Sub(toldAt) > 24*time.Hour) {
			told, toldAt = text, now
			level := slog.LevelWarn
			if urgent {
				level = slog.LevelError
			}
			k.log.Log(ctx, level, "CA needs attention", "notice", text)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(untilTended(k.authority.Status(), time.Now())):
		case <-k.due:
		}
	}
}

// untilTended returns how long until tend looks again: an hour; less where the intermediate is
// due before that; where it is overdue, a tenth of what it has left, at least a second.
func untilTended(s ca.Status, now time.Time) time.Duration {
	wait := time.Hour
	if s.Renewal.IsZero() {
		return wait
	}
	if due := s.Renewal.Sub(now); due >= 0 {
		return min(wait, due+time.Second)
	}
	if !s.Ends.After(now) { // a new root or its key brings it back, and tells
		return wait
	}
	return max(time.Second, min(wait, s.Ends.Sub(now)/10))
}

// renew writes the Secret of the intermediate where that is due. The root is read
// again: the watch may be late, and an intermediate below a root that was just
// deleted would bring it back.
func (k *keyring) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	want := func(*corev1.Secret) (*corev1.Secret, error) { return nil, nil }
	if k.authority.Status().Source == mesh.CASelfSigned && k.settings.keys.intermediate {
		root, err := k.api.ReadSecret(ctx, k.settings.caNamespace, mesh.CASecret)
		if err != nil || root == nil {
			return err
		}
		want = k.desire(root)
	}
	_, err := k.api.EnsureSecret(ctx, k.settings.caNamespace, mesh.IntermediateSecret, func(found *corev1.Secret) (*corev1.Secret, error) {
		wanted, err := want(found)
		if err != nil {
			return nil, err
		}
		if wanted == nil {
			return k.authority.Remember(found), nil
		}
		if noted := k.authority.Remember(wanted); noted != nil {
			wanted = noted
		}
		return wanted, nil
	})
	return err
}

// notices are the notes of readiness.
func (k *keyring) notices() []string {
	notices, _ := k.authority.Status().Notices(time.Now())
	return notices
}

// readPlugged returns the CA that was plugged in, nil where none was.
func (k *keyring) readPlugged(ctx context.Context) (*ca.PluggedFiles, error) {
	if k.settings.keys.fromFiles() {
		return k.settings.keys.read(), nil
	}
	if k.settings.keys.mode == ca.SelfSigned {
		return nil, nil
	}
	found, err := k.api.ReadSecret(ctx, k.settings.namespace, mesh.PluggedSecret)
	return pluggedIn(found), err
}

func pluggedIn(secret *corev1.Secret) *ca.PluggedFiles {
	if secret == nil {
		return nil
	}
	return &ca.PluggedFiles{From: fmt.Sprintf("secret %s/%s", secret.Namespace, secret.Name), Files: secret.Data}
}

// maxFile bounds one file of a plugged-in CA, in bytes; longer ones are cut, and then
// do not parse.
const maxFile = 1 << 20

// read returns what there is of the files; what is missing or unreadable is told by
// the checks that follow. Of a Kubernetes volume it reads one state, not two halves.
func (k *keySettings) read() *ca.PluggedFiles {
	names, from := k.files, "files "+strings.Join(k.dirs(), ", ")
	if k.dir != "" {
		from = "directory " + k.dir
		dir := k.dir
		if data, err := filepath.EvalSymlinks(filepath.Join(dir, "..data")); err == nil {
			dir = data
		}
		names = map[string]string{}
		for _, name := range ca.PluggedFileNames() {
			names[name] = filepath.Join(dir, name)
		}
	}
	found := &ca.PluggedFiles{From: from, Files: map[string][]byte{}}
	for name, file := range names {
		text, err := readFile(file)
		switch {
		case err == nil:
			found.Files[name] = text
		case !errors.Is(err, fs.ErrNotExist) || len(k.files) > 0:
			found.Unread = append(found.Unread, err.Error())
		}
	}
	slices.Sort(found.Unread)
	return found
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, err
	}
	if text == nil {
		text = []byte{}
	}
	return text, nil
}
