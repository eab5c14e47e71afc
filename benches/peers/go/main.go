// Go's RPC under a driver that does what `benches/driver` does in Rust: the same command line, loops, payloads, checks and reports.
//
//	go-peers names
//	go-peers transports
//	go-peers --peer kitex-mux --payload 32 --in-flight 100
//
// The settings of each peer stand at the top of its file. GOMAXPROCS and the garbage collector are left as they are by default.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
)

// A peer is what is measured.
type peer struct {
	// Listens, and answers with what it is sent; returns the URL.
	serve func(url string) (string, error)
	// Connects. The functions it returns make calls, one for each loop.
	connect func(run *run, url string) ([]call, error)
	// The methods it has, for `names`; nothing if it has all.
	only string
}

// A call sends, waits for the reply and checks it: its looks, and to the last byte if it is a sample.
type call func(sample bool) error

var peers = map[string]peer{
	"kitex-mux":   {serve: serveKitex(true), connect: connectKitex(true)},
	"kitex-pool":  {serve: serveKitex(false), connect: connectKitex(false)},
	"netpoll-mux": {serve: serveNetpoll, connect: connectNetpoll, only: "echo"},
}

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "go-peers:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	if len(args) > 0 && args[0] == "names" {
		var names []string
		for name, peer := range peers {
			names = append(names, name+" "+peer.only)
		}
		return printSorted(names)
	}
	if len(args) > 0 && args[0] == "transports" {
		return printSorted(slices.Collect(maps.Keys(transports)))
	}
	if len(args) > 0 && args[0] == "server" {
		return serve(args[1:])
	}
	return measure(args)
}

func known(name string) (peer, error) {
	peer, ok := peers[name]
	if !ok {
		return peer, fmt.Errorf("no peer %q", name)
	}
	return peer, nil
}

func printSorted(names []string) error {
	slices.Sort(names)
	out := bufio.NewWriter(os.Stdout)
	for _, name := range names {
		fmt.Fprintln(out, name)
	}
	return out.Flush()
}

func serve(args []string) error {
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	transport := flags.String("transport", "tcp", "tcp or unix")
	core := flags.Int("core", -1, "the one core it may use")
	name := flags.String("peer", "", "who serves")
	speaks := flags.String("speaks", "echo", "what a transport speaks: echo or http")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := pin(*core); err != nil {
		return err
	}
	url := "tcp://127.0.0.1:0"
	if serve := transports[*name]; serve != nil {
		url, err := serve(url, *speaks == "http")
		if err != nil {
			return err
		}
		return answer(url)
	}
	peer, err := known(*name)
	if err != nil {
		return err
	}
	if *transport == "unix" {
		url = fmt.Sprintf("unix:%s/bench-%d.sock", os.TempDir(), os.Getpid())
	}
	if url, err = peer.serve(url); err != nil {
		return err
	}
	return answer(url)
}
