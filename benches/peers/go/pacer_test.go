package main

import (
	"sync/atomic"
	"testing"
	"time"
)

// One loop that stalls once, in a measurement that ends before the stall does: every call that was due counts, from then.
func TestAStallCountsForEachCallThatFallsDueMeanwhile(t *testing.T) {
	const stall = 200 * time.Millisecond
	var stalled atomic.Bool
	call := func(bool) error {
		if !stalled.Swap(true) {
			time.Sleep(stall)
		}
		return nil
	}
	stage := &stage{failed: make(chan error, 1), pacer: startPacer(1000)}
	stage.pacer.count()
	ended := make(chan struct{})
	go func() {
		stage.loop(0, call)
		close(ended)
	}()
	time.Sleep(stall / 2)
	stage.pacer.stop()
	<-ended
	if calls := stage.histogram.count(); calls < 90 {
		t.Errorf("%d of 100 calls", calls)
	}
	if p10 := stage.histogram.at(0.1); p10 < 90_000 {
		t.Errorf("a tenth waited for %v µs only, and not for half of the stall", p10)
	}
}
