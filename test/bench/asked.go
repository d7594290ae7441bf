package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// askedSuffix ends the names of the webhooks that are compared.
const askedSuffix = ".bench.example.com"

// asked measures how long the API server itself waits for the command, and for the
// typed floor in turn: what is left between them is the injector's, all else is what
// any webhook costs.
func (b bench) asked(ctx context.Context, client *kubernetes.Clientset, command *server) (err error) {
	servers, stop, err := b.start(ctx, roleTyped)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	servers = append(servers, command)
	var names []string
	for _, s := range servers {
		if err := ask(ctx, client, s); err != nil {
			return fmt.Errorf("webhook %s: %w", s.role, err)
		}
		names = append(names, s.role)
	}
	before := make([]total, len(servers))
	for i, name := range names {
		if before[i], err = webhookWait(ctx, client, name+askedSuffix); err != nil {
			return err
		}
	}
	if _, err := inTurn(ctx, client, b.plan.creates, names); err != nil {
		return err
	}
	means := make([][]float64, len(servers))
	for i, name := range names {
		after, err := webhookWait(ctx, client, name+askedSuffix)
		if err != nil {
			return err
		}
		means[i] = []float64{before[i].mean(after)}
	}
	b.report(
		figure{name: "command.asked." + roleTyped + ".mean", values: means[0], unit: "ms"},
		figure{name: "command.asked.mean", values: means[1], unit: "ms", goal: waitGoal},
		figure{name: "command.asked.ratio", values: ratios(means[1], means[0]), unit: "x"},
	)
	return nil
}

// ask has the API server ask a server about the pods of a namespace that bears its
// role's name, and returns when it does.
func ask(ctx context.Context, client kubernetes.Interface, s *server) error {
	create := metav1.CreateOptions{}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.role, Labels: map[string]string{mesh.InjectionLabel: "enabled"}}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, ns, create); err != nil {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}} // no controller makes it here
	if _, err := client.CoreV1().ServiceAccounts(s.role).Create(ctx, account, create); err != nil {
		return err
	}
	url, none := "https://"+s.addr+mesh.InjectPath, admissionregistrationv1.SideEffectClassNone
	_, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: s.role},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name:         s.role + askedSuffix,
			ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: []byte(s.root)},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: s.role}},
			SideEffects:             &none,
			AdmissionReviewVersions: []string{"v1"},
		}},
	}, create)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		// Either server writes annotations, and nobody else does.
		pod, err := dryRun(ctx, client, s.role)
		if err == nil && len(pod.Annotations) > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("never asked: %w", errors.Join(err, ctx.Err()))
		case <-again.C:
		}
	}
}
