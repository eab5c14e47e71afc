package main

import "testing"

func TestTimesAreKnownToAThousandth(t *testing.T) {
	for _, nanos := range []int64{0, 1, 2047, 2048, 2049, 123_456, 9_999_999, 1 << 40} {
		var h histogram
		h.record(nanos)
		if got, want := h.at(0.5)*1000, float64(nanos); got < want || got > want*1.001+1e-6 {
			t.Errorf("%v for %v", got, want)
		}
	}
}

func TestQuantilesCountFromTheSmallest(t *testing.T) {
	var h histogram
	for nanos := range int64(1000) {
		h.record(nanos + 1)
	}
	for quantile, want := range map[float64]float64{0.5: 0.5, 0.99: 0.99, 0.999: 0.999, 1: 1} {
		if got := h.at(quantile); got != want {
			t.Errorf("%v at %v, and not %v", got, quantile, want)
		}
	}
}
