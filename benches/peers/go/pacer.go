package main

import (
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The thread that hands out the times sleeps at least this long.
const nap = 50 * time.Microsecond

// Hands out the times at which calls are due: the open loop.
type pacer struct {
	due chan time.Time
	// When the first call that counts can be due, and the first that does not any more, in nanoseconds since the start.
	from, to atomic.Int64
	start    time.Time
}

func startPacer(rate float64) *pacer {
	p := &pacer{due: make(chan time.Time, 1<<20), start: time.Now()}
	go p.handOut(rate)
	return p
}

func (p *pacer) handOut(rate float64) {
	// Go's own sleep may be a millisecond too long.
	runtime.LockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	for count := 0; p.to.Load() == 0; {
		at := func() time.Time { return p.start.Add(time.Duration(float64(count) / rate * float64(time.Second))) }
		rest := unix.NsecToTimespec(int64(max(time.Until(at()), nap)))
		unix.Nanosleep(&rest, nil)
		for now := time.Now(); !at().After(now); count++ {
			p.due <- at()
		}
	}
	close(p.due)
}

// Calls that fall due from now on count.
func (p *pacer) count() { p.from.Store(int64(time.Since(p.start))) }

// No more calls fall due; those that are due are still made.
func (p *pacer) stop() { p.to.Store(int64(time.Since(p.start))) }

// Whether a call that was due then counts.
func (p *pacer) counted(due time.Time) bool {
	at, from, to := int64(due.Sub(p.start)), p.from.Load(), p.to.Load()
	return from != 0 && from <= at && (to == 0 || at < to)
}
