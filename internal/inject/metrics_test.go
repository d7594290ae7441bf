package inject

import "testing"

// TestTrioIsRead the same way each time, though a map has no order: the proper spelling
// first, also where it is empty, then the others by name.
func TestTrioIsRead(t *testing.T) {
	for _, c := range []struct {
		annotations map[string]string
		port        string
	}{
		{map[string]string{"prometheus.io/port": "1", "prometheus-io/port": "2", "prometheus.io-port": "3"}, "1"},
		{map[string]string{"prometheus.io_port": "4", "prometheus-io/port": "2", "prometheus.io-port": "3"}, "2"},
		{map[string]string{"prometheus.io/port": "", "prometheus-io/port": "2"}, ""},
	} {
		for range 20 {
			if s, _ := trio(c.annotations); s.Port != c.port {
				t.Fatalf("%v: port %q, want %q", c.annotations, s.Port, c.port)
			}
		}
	}
}
