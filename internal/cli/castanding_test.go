package cli

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestLookAtReplicas(t *testing.T) {
	pod := func(name string, ready corev1.ConditionStatus, change func(*corev1.Pod)) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PodStatus{
			Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready, Message: "probe"}},
		}}
		if change != nil {
			change(&p)
		}
		return p
	}
	leaving := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
	ended := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	for name, c := range map[string]struct {
		pods []corev1.Pod
		whys []string
		todo []string
	}{
		"all is well":          {[]corev1.Pod{pod("a", corev1.ConditionTrue, nil)}, []string{""}, nil},
		"two are not ready":    {[]corev1.Pod{pod("b", corev1.ConditionFalse, nil), pod("a", corev1.ConditionFalse, nil)}, []string{"probe", "probe"}, []string{"not ready: a, b"}},
		"one makes room":       {[]corev1.Pod{pod("a", corev1.ConditionTrue, nil), pod("b", corev1.ConditionFalse, leaving)}, []string{"", "terminating"}, nil},
		"only such":            {[]corev1.Pod{pod("a", corev1.ConditionTrue, leaving)}, []string{""}, []string{"no pod of Citadel runs"}},
		"one ended":            {[]corev1.Pod{pod("a", corev1.ConditionFalse, ended)}, nil, []string{"no pod of Citadel runs"}},
		"there is none at all": {nil, nil, []string{"no pod of Citadel runs"}},
	} {
		t.Run(name, func(t *testing.T) {
			var s caStanding
			s.look(c.pods)
			var whys []string
			for _, r := range s.Replicas {
				whys = append(whys, r.Why)
			}
			if diff := cmp.Diff(c.whys, whys); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.todo, s.Attention); diff != "" {
				t.Error(diff)
			}
		})
	}
}
