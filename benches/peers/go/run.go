package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A loop compares every so many replies byte for byte.
const sample = 64

// How long calls may take to come to their end after the measurement.
const linger = 10 * time.Second

var errWrong = errors.New("a reply is not what was sent")

// One measurement's command line.
type run struct {
	peer, transport, method        string
	server                         string
	payload, inFlight, connections int
	seconds, warmUp, rate          float64
	pin, json, header              bool
}

func parse(args []string) (*run, error) {
	var run run
	flags := flag.NewFlagSet("go-peers", flag.ContinueOnError)
	flags.StringVar(&run.peer, "peer", "kitex-mux", "who is measured")
	flags.StringVar(&run.transport, "transport", "tcp", "tcp or unix")
	flags.StringVar(&run.method, "method", "echo", "echo or mixed")
	flags.IntVar(&run.payload, "payload", 32, "bytes of the payload; for mixed about the size of the message")
	flags.IntVar(&run.inFlight, "in-flight", 100, "calls under way at any time; with --rate at most")
	flags.IntVar(&run.connections, "connections", 1, "connections; calls take them in turn")
	flags.Float64Var(&run.seconds, "seconds", 2, "measured seconds")
	flags.Float64Var(&run.warmUp, "warm-up", 0.5, "seconds before them")
	flags.Float64Var(&run.rate, "rate", 0, "calls a second, due at fixed times")
	flags.BoolVar(&run.pin, "pin", false, "the server on core 0, the client on core 1")
	flags.StringVar(&run.server, "server", "", "a program, and what it is told, that serves instead of this one")
	flags.BoolVar(&run.header, "header", false, "Kitex's client names service, method and timeout in the header")
	flags.BoolVar(&run.json, "json", false, "prints one line of JSON")
	return &run, flags.Parse(args)
}

type latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

type report struct {
	Case    string  `json:"case"`
	Calls   uint64  `json:"calls"`
	Seconds float64 `json:"seconds"`
	Latency latency `json:"latency"`
	Client  counts  `json:"client"`
	Server  counts  `json:"server"`
}

// What the loops of a measurement share.
type stage struct {
	histogram histogram
	pacer     *pacer // in an open loop
	counting  atomic.Bool
	stopped   atomic.Bool
	failed    chan error
}

// Makes calls until the measurement ends, one after the other.
func (s *stage) loop(index int, call call) {
	started := time.Now()
	for done := index; !s.stopped.Load() || s.pacer != nil; done++ {
		if s.pacer != nil {
			due, more := <-s.pacer.due
			if !more {
				return
			}
			started = due
		}
		if err := call(done%sample == 0); err != nil {
			select {
			case s.failed <- err:
			default:
			}
			return
		}
		now := time.Now()
		if s.pacer == nil && s.counting.Load() || s.pacer != nil && s.pacer.counted(started) {
			s.histogram.record(int64(now.Sub(started)))
		}
		started = now
	}
}

// Lets time pass; ends early when a loop fails.
func (s *stage) pass(seconds float64) error {
	select {
	case err := <-s.failed:
		return err
	case <-time.After(time.Duration(seconds * float64(time.Second))):
		return nil
	}
}

func measure(args []string) error {
	run, err := parse(args)
	if err != nil {
		return err
	}
	if run.connections < 1 || run.inFlight < run.connections {
		return errors.New("each connection needs a call in flight, and there must be one")
	}
	peer, err := known(run.peer)
	if err != nil {
		return err
	}
	if run.pin {
		if err := pin(1); err != nil {
			return err
		}
	}
	server, err := startServer(run)
	if err != nil {
		return err
	}
	defer server.end()
	calls, err := peer.connect(run, server.url)
	if err != nil {
		return err
	}
	report, err := run.through(server, calls)
	if err != nil {
		return err
	}
	if run.json {
		return json.NewEncoder(os.Stdout).Encode(report)
	}
	rate := float64(report.Calls) / report.Seconds
	fmt.Printf("%s: %.0f calls/s, p50 %.1f µs, p99 %.1f µs, p99.9 %.1f µs\n",
		report.Case, rate, report.Latency.P50, report.Latency.P99, report.Latency.P999)
	return nil
}

func (r *run) through(server *serverProcess, calls []call) (*report, error) {
	stage := &stage{failed: make(chan error, 1)}
	if r.rate > 0 {
		stage.pacer = startPacer(r.rate)
	}
	var running sync.WaitGroup
	for index, call := range calls {
		running.Add(1)
		go func() {
			defer running.Done()
			stage.loop(index, call)
		}()
	}
	if err := stage.pass(r.warmUp); err != nil {
		return nil, err
	}
	both := func() ([2]counts, error) {
		client, err := countsNow()
		if err != nil {
			return [2]counts{}, err
		}
		server, err := server.counts()
		return [2]counts{client, server}, err
	}
	before, err := both()
	if err != nil {
		return nil, err
	}
	stage.counting.Store(true)
	if stage.pacer != nil {
		stage.pacer.count()
	}
	begun := time.Now()
	if err := stage.pass(r.seconds); err != nil {
		return nil, err
	}
	seconds := time.Since(begun).Seconds()
	stage.counting.Store(false)
	stage.stopped.Store(true)
	if stage.pacer != nil {
		stage.pacer.stop()
	}
	after, err := both()
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(linger):
		return nil, errors.New("some calls did not come to their end")
	}
	select {
	case err := <-stage.failed:
		return nil, err
	default:
	}
	h := &stage.histogram
	return &report{
		Case:    fmt.Sprintf("%s_%db_x%d_in_flight %s", r.method, r.payload, r.inFlight, r.peer),
		Calls:   h.count(),
		Seconds: seconds,
		Latency: latency{P50: h.at(0.5), P99: h.at(0.99), P999: h.at(0.999), Max: h.at(1)},
		Client:  after[0].since(before[0]),
		Server:  after[1].since(before[1]),
	}, nil
}
