package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const rest = " S 1 2 3 0 -1 4194304 99 0 1 0 150 25 7 8 20 0 11 0 134437 3133440 394 18446744073709551615 1 1 0"
	for _, name := range []string{"bench", "a b", "odd) R 9 (name"} {
		got, err := parseStat([]byte("8526 ("+name+")"+rest+"\n"), 4096)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if want := (usage{cpu: 1750 * time.Millisecond, rss: 394 * 4096}); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	for line, want := range map[string]string{
		"":                                 "no command name",
		"8526 (bench) S 1 2":               "3 fields",
		"1 (b)" + strings.Repeat(" x", 30): "field 14",
	} {
		if _, err := parseStat([]byte(line), 4096); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parseStat(%q) = %v, want %q", line, err, want)
		}
	}
}

func TestProcessUsageOfThisProcessGrows(t *testing.T) {
	before, err := processUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// The kernel counts in ticks of 10 ms, and a busy machine may give us none for long.
	for end := time.Now().Add(time.Minute); ; {
		after, err := processUsage(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if after.cpu > before.cpu && after.rss > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("before %+v, after a minute %+v", before, after)
		}
	}
}
