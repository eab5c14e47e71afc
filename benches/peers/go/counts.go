package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// What one side has used.
type counts struct {
	CPUUs  int64 `json:"cpu_us"`
	RSSKiB int64 `json:"rss_kib"`
	// System calls, which nobody counts here.
	Calls *struct{} `json:"calls"`
}

func countsNow() (counts, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return counts{}, err
	}
	used := (usage.Utime.Nano() + usage.Stime.Nano()) / 1000
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return counts{}, err
	}
	var rss int64
	if _, after, found := strings.Cut(string(status), "VmRSS:"); found {
		fmt.Sscan(after, &rss)
	}
	return counts{CPUUs: used, RSSKiB: rss}, nil
}

// What was added since then; memory as it is.
func (c counts) since(then counts) counts {
	return counts{CPUUs: c.CPUUs - then.CPUUs, RSSKiB: c.RSSKiB}
}
