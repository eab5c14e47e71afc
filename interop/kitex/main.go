// A server and a client of idl/testee.proto by Kitex, for the cases that `cargo run -p interop` plays.
//
//	kitex-interop server --options mux,handlers
//	kitex-interop client --options mux-4 --connect tcp://127.0.0.1:7000 --play mixture --calls 100000
//
// The server prints `LISTENING <url>`, and ends gracefully on SIGTERM. The client prints what it counted, and exits with 1 if something
// is not as it has to be.
package main

import (
	"fmt"
	"os"

	"github.com/cloudwego/kitex/pkg/klog"
)

func main() {
	klog.SetLevel(klog.LevelFatal)
	commands := map[string]func([]string) error{"server": serve, "client": play}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "kitex-interop: say server or client; each has --help")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "kitex-interop:", err)
		os.Exit(1)
	}
}
