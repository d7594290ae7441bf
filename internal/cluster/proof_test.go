package cluster

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func TestProof(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	var p proof
	expect := func(want time.Time) {
		t.Helper()
		if got := p.proven(); !got.Equal(want) {
			t.Fatalf("proven %v, want %v", got, want)
		}
	}
	p.read(reading{"100", at(0)})
	expect(time.Time{}) // nothing listed
	p.saw("100")
	expect(at(0))
	p.read(reading{"100", at(5)}) // nothing happens in the cluster
	expect(at(5))
	p.read(reading{"107", at(10)}) // something does, of this kind or another
	expect(at(5))
	p.saw("106")
	expect(at(5))
	p.saw("1000") // by number, not as text
	expect(at(10))
	p.read(reading{"1003", at(15)})
	p.read(reading{"1010", at(20)})
	p.saw("1003")
	expect(at(15))
	for i := range 3 * maxReadings { // stuck
		p.read(reading{fmt.Sprint(2000 + i), at(30 + i)})
	}
	expect(at(15))
	if n := len(p.waiting); n > maxReadings {
		t.Errorf("%d readings are kept", n)
	}
	p.saw("3000")
	expect(at(30 + 3*maxReadings - 1))
	p.read(reading{"", at(200)})
	p.read(reading{"x", at(201)})
	expect(at(30 + 3*maxReadings - 1))
}

// What is proven is never more than what the watch has told of.
func TestProofLaw(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var p proof
		server, watch, clock := 100, 100, time.Unix(1000, 0)
		changed := map[int]time.Time{} // when the version after this one came to be
		for range 100 {
			clock = clock.Add(time.Second)
			switch r.IntN(3) {
			case 0:
				changed[server] = clock
				server++
			case 1:
				p.read(reading{fmt.Sprint(server), clock})
			case 2:
				watch += r.IntN(server - watch + 1)
				p.saw(fmt.Sprint(watch))
			}
			if missed, ok := changed[watch]; ok && p.proven().After(missed) {
				t.Fatalf("proven at %v with version %d, though %d came at %v", p.proven(), watch, watch+1, missed)
			}
		}
	}
}
