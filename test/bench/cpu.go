package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// tick is the unit of CPU time in /proc. Linux shows it as 100 Hz to every
// program, whatever the kernel's own clock (man 5 proc, USER_HZ).
const tick = 10 * time.Millisecond

// usage is what a process has used so far.
type usage struct {
	cpu time.Duration // user and system time of all its threads
	rss int           // resident bytes now
}

// processUsage reads the usage of a running process.
func processUsage(pid int) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	u, err := parseStat(stat, os.Getpagesize())
	if err != nil {
		return usage{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return u, nil
}

// ownCPU returns the CPU time of this process, to the microsecond.
func ownCPU() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// parseStat reads a line of /proc/<pid>/stat (man 5 proc_pid_stat). The name in
// its second field may hold spaces and brackets, so fields count from the last
// closing one.
func parseStat(line []byte, pageSize int) (usage, error) {
	const (
		utime = 14 - 3 // fields counted from the third, as the manual numbers them
		stime = 15 - 3
		rss   = 24 - 3
	)
	i := bytes.LastIndexByte(line, ')')
	if i < 0 {
		return usage{}, errors.New("no command name")
	}
	fields := bytes.Fields(line[i+1:])
	if len(fields) <= rss {
		return usage{}, fmt.Errorf("%d fields after the command name, want more than %d", len(fields), rss)
	}
	var n [3]int64
	for k, field := range []int{utime, stime, rss} {
		v, err := strconv.ParseInt(string(fields[field]), 10, 64)
		if err != nil {
			return usage{}, fmt.Errorf("field %d: %w", field+3, err)
		}
		n[k] = v
	}
	return usage{cpu: time.Duration(n[0]+n[1]) * tick, rss: int(n[2]) * pageSize}, nil
}
