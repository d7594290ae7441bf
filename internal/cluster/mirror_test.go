package cluster

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestMirror(t *testing.T) {
	m := mirror{byUID: map[string]*resident{}, byName: map[key]*resident{}, byNode: map[string]map[string]*resident{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	cart := &resident{namespace: "shop", name: "cart"}
	old, anew := cartPod(nil), cartPod(func(p *corev1.Pod) { p.UID = "p2" })
	must(m.Add(cartPod(func(p *corev1.Pod) { p.Spec.NodeName = "" })))
	if n := len(m.onNode("n1", cart)); n != 0 {
		t.Errorf("%d pods on a node before they are scheduled", n)
	}
	must(m.Update(old))
	must(m.Add(anew)) // the watch may tell of a successor first
	must(m.Delete(old))
	if m.pod("p1") != nil || m.pod("p2") == nil || m.account(key{Namespace: "shop", Name: "cart-1"}).uid != "p2" || len(m.onNode("n1", cart)) != 1 {
		t.Errorf("%+v", &m)
	}
	must(m.Replace([]any{old}, "5"))
	if m.pod("p2") != nil || m.len() != 1 || len(m.byNode) != 1 || m.byNode["n1"]["p1"] == nil {
		t.Errorf("%+v", &m)
	}
	must(m.Delete(old))
	must(m.Delete(old))
	if m.len()+len(m.byName)+len(m.byNode) != 0 {
		t.Errorf("%+v", &m)
	}
	if err := m.Add("text"); err == nil {
		t.Error("took a text")
	}
}

// What a hundred thousand pods take is reported; a pod as a whole would be near 20 KiB.
func BenchmarkMirror(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		m := mirror{byUID: map[string]*resident{}, byNode: map[string]map[string]*resident{}}
		const pods = 100_000
		for i := range pods {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("ns-", i%500), Name: fmt.Sprintf("workload-%d-5d4f8c7b9-abcde", i), UID: types.UID(fmt.Sprintf("0b0d6a0c-52d4-4b36-b4a5-%012d", i))},
				Spec:       corev1.PodSpec{ServiceAccountName: fmt.Sprint("account-", i%2000), NodeName: fmt.Sprint("node-", i%2000)},
			}
			if err := m.Add(pod); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/pods, "B/pod")
		runtime.KeepAlive(&m)
	}
}
