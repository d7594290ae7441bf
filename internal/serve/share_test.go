package serve

import (
	"net"
	"testing"
)

// However many sources take as much as they can get, one that has nothing finds a place
// while they are fewer than the places.
func TestShareLaw(t *testing.T) {
	for _, c := range []struct{ most, room int }{{128, 1024}, {1024, 4096}, {1, 8}, {8, 8}, {1000, 10}} {
		for sources := range c.room {
			held, taken := make([]int, sources), 0
			for again := true; again; {
				again = false
				for i := range held {
					if taken < c.room && held[i] < share(c.most, c.room, taken) {
						held[i]++
						taken++
						again = true
					}
				}
			}
			if taken == c.room {
				t.Fatalf("%d sources leave nothing of %+v", sources, c)
			}
			if sources == 8 && c.room == 1024 && taken > c.room/2+sources {
				t.Errorf("8 sources hold %d of %d", taken, c.room)
			}
		}
	}
	if n := share(128, 1024, 1023); n != 1 {
		t.Errorf("the last place is for %d", n)
	}
}

func TestSourceOf(t *testing.T) {
	for addr, want := range map[string]string{
		"10.0.0.1": "10.0.0.1/32", "::ffff:10.0.0.1": "10.0.0.1/32",
		"2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%lo": "fe80::/64", "::1": "::/64",
	} {
		a, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(addr, "1"))
		if err != nil {
			t.Fatal(err)
		}
		if got := sourceOf(a).String(); got != want {
			t.Errorf("%s comes from %s, want %s", addr, got, want)
		}
	}
	if p := sourceOf(&net.UnixAddr{}); p.IsValid() {
		t.Errorf("a socket comes from %v", p)
	}
}
