package main

import (
	"fmt"

	"peers/kitex_gen/echo"
)

// A payload for each loop, each a window of one buffer, one byte further than its neighbour's.
func payloads(length, of int) [][]byte {
	state := uint64(0x9e3779b97f4a7c15)
	noise := make([]byte, length+of)
	for i := range noise {
		state = state*6364136223846793005 + 1442695040888963407
		noise[i] = byte(state >> 56)
	}
	windows := make([][]byte, of)
	for i := range windows {
		windows[i] = noise[i : i+length : i+length]
	}
	return windows
}

// A message for each loop, of about that many bytes: those of `benches/driver`.
func messages(length, of int) []*echo.Mixed {
	const line, rest = 44, 60
	all := make([]*echo.Mixed, of)
	for i := range all {
		message := &echo.Mixed{
			Id:        fmt.Sprintf("order-%08d", i),
			CreatedMs: 1_700_000_000_000 + int64(i),
			Labels:    map[string]string{"region": "north", "tier": "gold"},
			Paid:      i%2 == 0,
		}
		for n := range max((length-rest)/line, 1) {
			message.Items = append(message.Items, &echo.Item{
				Sku:      fmt.Sprintf("SKU-%06d", n),
				Quantity: uint32(n) + 1,
				Price:    9.95 + float64(n),
				Tags:     []string{"new", "fragile"},
			})
		}
		all[i] = message
	}
	return all
}
