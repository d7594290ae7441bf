package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
)

// What the figures of these pods are compared for must be in their patches.
func TestOtherPodsGetWhatTheyAskFor(t *testing.T) {
	h, err := injectorHandler(discard())
	if err != nil {
		t.Fatal(err)
	}
	all, err := otherReviews()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		c, err := newHandled(h, r)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // what is reused must be as it was
			answer, err := c.call()
			if err != nil {
				t.Fatalf("pod %s: %v", r.name, err)
			}
			patch, err := readPatch(answer)
			if err != nil {
				t.Fatalf("pod %s: %v", r.name, err)
			}
			asked := slices.Contains([]string{"overlay", "own-proxy"}, r.name)
			if got := bytes.Contains(patch, []byte(`"LOG_LEVEL"`)); got != asked {
				t.Errorf("pod %s: LOG_LEVEL in the patch %t: %s", r.name, got, patch)
			}
		}
	}
}

func TestInjectedPodIsLeftAsItIs(t *testing.T) {
	h, err := injectorHandler(discard())
	if err != nil {
		t.Fatal(err)
	}
	mix, err := reviews()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range mix {
		again, err := injectedReview(h, r)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(again.pod, []byte(`"istio-proxy"`)) {
			t.Errorf("pod %s: asked again without the sidecar: %s", r.name, again.pod)
		}
		c, err := newHandled(h, again)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.expect(false)(); err != nil {
			t.Errorf("pod %s: %v", r.name, err)
		}
		if c.expect(true)() == nil {
			t.Errorf("pod %s: an answer without a patch passes for one", r.name)
		}
	}
}

func TestWhatIsMissingIsSaid(t *testing.T) {
	b := bench{plan: plan{lab: "no such command"}}
	for _, section := range []string{"command", "apiserver"} {
		err := b.all(context.Background(), section)
		if _, ok := errors.AsType[missing](err); !ok {
			t.Errorf("%s: %v, want what is missing", section, err)
		}
	}
}
