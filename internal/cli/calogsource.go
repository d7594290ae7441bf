package cli

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/ledger"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Of Citadel's pods, as manifests/base has them.
const (
	citadelSelector  = "app=citadel," + mesh.ManagedByLabel + "=" + mesh.ManagedBy
	citadelContainer = "citadel"
)

// logSources are where a command reads the issuance log: files, or else Citadel's pods.
type logSources struct {
	*access
	files     []string
	pod       string
	published string
	key       string
	partial   bool
}

func newLogSources(env Env, f *pflag.FlagSet) *logSources {
	s := &logSources{}
	f.StringArrayVarP(&s.files, "filename", "f", nil, "file of a log or of a container's output, directory of them, or -; again for\nthe file that comes next. None: Citadel's pods")
	f.StringVar(&s.pod, "pod", "", "the one of Citadel's pods to read")
	f.StringVar(&s.published, "published", "", "file with ConfigMap "+mesh.IssuanceLogConfigMap+", or a checkpoint of it, that\nthe log is held to. Of pods without it: the cluster's")
	f.StringVar(&s.key, "key", "", "file with the public key that checkpoints must be signed with (PEM)")
	f.BoolVar(&s.partial, "partial", false, "accept a log whose beginning is not there. Of pods, it never needs to be")
	s.access = newAccess(env, f)
	return s
}

// logFound is what a log says, and what there is to say of it. A part of it is for
// programs: fields stay.
type logFound struct {
	ledger.Report
	Included []located `json:"included,omitempty"` // the leaf that was asked for
}

// located is a record and where it stands.
type located struct {
	ledger.Position
	Replica string `json:"replica,omitempty"` // whose log it is
	ledger.Record
}

// read reads all that there is. It calls see for each record, in any order of replicas.
func (s *logSources) read(c *cobra.Command, see func(located)) (ledger.Report, error) {
	o, err := s.options()
	if err != nil {
		return ledger.Report{}, err
	}
	records := 0
	o.See = func(r ledger.Record, at ledger.Position) {
		records++
		see(located{Position: at, Record: r})
	}
	var empty []ledger.Break
	count := func(name string, err error) error {
		if records == 0 && err == nil {
			at := ledger.Position{File: name}
			empty = append(empty, ledger.Break{Position: at, Kind: ledger.Missing, Why: "no record of an issuance log is in it"})
		}
		records = 0
		return err
	}
	var v *ledger.Verifier
	if len(s.files) > 0 {
		v, err = s.readFiles(c, o, count)
	} else {
		v, err = s.readPods(c.Context(), o, count)
	}
	if err != nil {
		return ledger.Report{}, err
	}
	report := v.Report()
	report.Breaks = append(report.Breaks, empty...)
	return report, nil
}

// options reads what the log is to be held to.
func (s *logSources) options() (o ledger.VerifyOptions, err error) {
	o.Partial = s.partial
	if s.key != "" {
		text, err := os.ReadFile(s.key)
		if err != nil {
			return o, err
		}
		block, _ := pem.Decode(text)
		if block == nil || block.Type != "PUBLIC KEY" {
			return o, fmt.Errorf("%s: no PEM block of type PUBLIC KEY", s.key)
		}
		o.Keys = [][]byte{block.Bytes}
	}
	if s.published != "" {
		text, err := os.ReadFile(s.published)
		if err != nil {
			return o, err
		}
		if o.Published, err = parsePublished(text); err != nil {
			return o, fmt.Errorf("%s: %w", s.published, err)
		}
	}
	return o, nil
}

// parsePublished reads checkpoints: the ConfigMap, or one of its values.
func parsePublished(text []byte) ([]ledger.Checkpoint, error) {
	var m struct {
		Kind string
		Data map[string]string
	}
	if err := yaml.Unmarshal(text, &m); err != nil {
		return nil, err
	}
	if m.Kind == "" {
		c, err := ledger.ParseCheckpoint(text)
		return []ledger.Checkpoint{c}, err
	}
	return checkpoints(m.Data)
}

func checkpoints(data map[string]string) ([]ledger.Checkpoint, error) {
	var all []ledger.Checkpoint
	for key, value := range data {
		c, err := ledger.ParseCheckpoint([]byte(value))
		if err == nil && c.Replica != key {
			err = fmt.Errorf("it is of replica %q", c.Replica)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		all = append(all, c)
	}
	return all, nil
}

func (s *logSources) readFiles(c *cobra.Command, o ledger.VerifyOptions, count func(string, error) error) (*ledger.Verifier, error) {
	v, err := ledger.NewVerifier(o)
	if err != nil {
		return nil, err
	}
	for _, name := range s.files {
		if name == "-" {
			if err := count(name, v.Read(name, c.InOrStdin())); err != nil {
				return nil, err
			}
			continue
		}
		names, err := logFiles(name)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			f, err := os.Open(name)
			if err != nil {
				return nil, err
			}
			err = errors.Join(count(name, v.Read(name, f)), f.Close())
			if err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// logFiles returns a file, or those of a directory in the order of their names, which
// for the files of one replica is that of their records.
func logFiles(name string) ([]string, error) {
	info, err := os.Stat(name)
	if err != nil || !info.IsDir() {
		return []string{name}, err
	}
	names, err := filepath.Glob(filepath.Join(name, "*"+ledger.FileSuffix))
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("%s: no file %s in it", name, "*"+ledger.FileSuffix)
	}
	return names, err
}

// readPods reads what the kubelet still has of the output of Citadel's pods. The
// checkpoints are read first: a log that is read later must reach them.
func (s *logSources) readPods(ctx context.Context, o ledger.VerifyOptions, count func(string, error) error) (*ledger.Verifier, error) {
	client, err := s.client()
	if err != nil {
		if clientcmd.IsEmptyConfig(errors.Unwrap(err)) {
			err = errors.New("no cluster is configured: --kubeconfig, KUBECONFIG or ~/.kube/config names one, or -f a file")
		}
		return nil, err
	}
	namespace := s.overrides.Context.Namespace
	if namespace == "" {
		namespace = mesh.SystemNamespace
	}
	o.Partial = true // the kubelet keeps the end of it
	if s.published == "" {
		m, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, mesh.IssuanceLogConfigMap, metav1.GetOptions{})
		if err == nil {
			o.Published, err = checkpoints(m.Data)
		}
		if err != nil {
			return nil, fmt.Errorf("configmap %s/%s: %w", namespace, mesh.IssuanceLogConfigMap, err)
		}
	}
	v, err := ledger.NewVerifier(o)
	if err != nil {
		return nil, err
	}
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: citadelSelector})
	if err != nil {
		return nil, fmt.Errorf("pods: %w", err)
	}
	if s.pod != "" {
		pods.Items = slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.Name != s.pod })
	}
	if len(pods.Items) == 0 {
		return nil, fmt.Errorf("no such pod of Citadel in namespace %s", namespace)
	}
	for i := range pods.Items {
		if err := readPod(ctx, client, &pods.Items[i], v, count); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// readPod reads the container's output, and before it that of the container that it
// took the place of: the newest checkpoint may still be of that one.
func readPod(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, v *ledger.Verifier, count func(string, error) error) error {
	read := func(name string, previous bool) error {
		o := &corev1.PodLogOptions{Container: citadelContainer, Previous: previous}
		out, err := client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, o).Stream(ctx)
		if err != nil {
			return fmt.Errorf("log of %s: %w", name, err)
		}
		return errors.Join(v.Read(name, out), out.Close())
	}
	name := "pod/" + pod.Name
	for _, status := range pod.Status.ContainerStatuses {
		if status.Name != citadelContainer || status.RestartCount == 0 {
			continue
		}
		if err := read(name+" (previous)", true); err != nil && !apierrors.IsBadRequest(err) && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return count(name, read(name, false))
}
