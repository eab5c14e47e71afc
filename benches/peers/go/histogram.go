package main

import (
	"math/bits"
	"sync/atomic"
)

// Times in nanoseconds, each known to a thousandth.
type histogram struct {
	buckets [56 * half]atomic.Uint64
}

// From twice this on, values share a bucket with their neighbours.
const half = 1024

func (h *histogram) record(nanos int64) {
	value := uint64(max(nanos, 0))
	shift := max(bits.Len64(value)-bits.Len64(2*half-1), 0)
	h.buckets[uint64(shift)*half+value>>shift].Add(1)
}

func (h *histogram) count() uint64 {
	var count uint64
	for i := range h.buckets {
		count += h.buckets[i].Load()
	}
	return count
}

// The largest value of the bucket that this share of all values is at or below, in microseconds.
func (h *histogram) at(quantile float64) float64 {
	wanted := uint64(quantile*float64(h.count()) + 0.5)
	var seen, last uint64
	for i := range h.buckets {
		in := h.buckets[i].Load()
		if in == 0 {
			continue
		}
		seen += in
		index, shift := uint64(i), uint64(0)
		if index >= 2*half {
			shift = index/half - 1
		}
		last = (index-shift*half+1)<<shift - 1
		if seen >= max(wanted, 1) {
			break
		}
	}
	return float64(last) / 1000
}
