package main

import (
	"encoding/binary"
	"math/bits"
)

// The payload that a testee gives: its number, a checksum, then bytes that depend on the number. See examples/support/payload.rs.
func give(number uint64, length int) []byte {
	const head = 16
	size := max(length, head)
	body := make([]byte, size+8)
	binary.LittleEndian.PutUint64(body, number)
	state := number
	for at := head; at < length; at += 8 {
		state = mix(state)
		binary.LittleEndian.PutUint64(body[at:], state)
	}
	binary.LittleEndian.PutUint64(body[8:], checksum(number, length, body[head:size]))
	return body[:length]
}

func mix(n uint64) uint64 {
	z := n + 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func checksum(number uint64, length int, body []byte) uint64 {
	sum := mix(number ^ bits.RotateLeft64(uint64(length), 32))
	words := len(body) / 8 * 8
	for _, b := range body[words:] {
		sum = (sum ^ uint64(b)) * 0x0100000001b3
	}
	for at := 0; at < words; at += 8 {
		sum = (bits.RotateLeft64(sum, 5) ^ binary.LittleEndian.Uint64(body[at:])) * 0x517cc1b727220a95
	}
	return sum
}
