// Servers without RPC: an echo, and plaintext HTTP, on netpoll and on gnet. Settings: as many event loops as cores (gnet: WithMulticore;
// netpoll: its default), TCP_NODELAY (both by default), no copy of what is passed on where the API allows. HTTP heads are only told apart.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/cloudwego/netpoll"
	"github.com/panjf2000/gnet/v2"
)

// Serves what is asked for, by its name; returns the URL.
var transports = map[string]func(url string, http bool) (string, error){
	"netpoll": transportNetpoll,
	"gnet":    transportGnet,
}

var (
	hello = []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!")
	end   = []byte("\r\n\r\n")
)

// How many bytes of the input are whole requests, and how many requests those are.
func heads(input []byte) (length, count int) {
	for {
		at := bytes.Index(input[length:], end)
		if at < 0 {
			return length, count
		}
		length += at + len(end)
		count++
	}
}

func transportNetpoll(url string, http bool) (string, error) {
	answer := func(_ context.Context, connection netpoll.Connection) error {
		reader, writer := connection.Reader(), connection.Writer()
		input, err := reader.Peek(reader.Len())
		if err != nil {
			return err
		}
		done := len(input)
		if http {
			var count int
			done, count = heads(input)
			for range count {
				writer.WriteBinary(hello)
			}
		} else if _, err := writer.WriteBinary(input); err != nil {
			return err
		}
		if err := writer.Flush(); err != nil { // it has left, or was copied
			return err
		}
		if err := reader.Skip(done); err != nil {
			return err
		}
		return reader.Release()
	}
	return serveEvents(url, answer)
}

type gnetServer struct {
	gnet.BuiltinEventEngine
	http bool
	boot chan gnet.Engine
}

func (s *gnetServer) OnBoot(engine gnet.Engine) gnet.Action {
	s.boot <- engine
	return gnet.None
}

func (s *gnetServer) OnTraffic(connection gnet.Conn) gnet.Action {
	if !s.http {
		input, err := connection.Next(-1)
		if err != nil {
			return gnet.Close
		}
		connection.Write(input)
		return gnet.None
	}
	input, err := connection.Peek(-1)
	if err != nil {
		return gnet.Close
	}
	done, count := heads(input)
	connection.Discard(done)
	if count == 1 {
		connection.Write(hello)
	} else if count > 1 {
		connection.Write(bytes.Repeat(hello, count))
	}
	return gnet.None
}

// gnet writes to standard output by itself, where who measures reads.
type quiet struct{}

func (quiet) Debugf(string, ...any)             {}
func (quiet) Infof(string, ...any)              {}
func (quiet) Warnf(format string, args ...any)  { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (quiet) Errorf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (quiet) Fatalf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func transportGnet(url string, http bool) (string, error) {
	// It does not tell which port it was given: one that was free a moment ago.
	listener, url, err := listen(url)
	if err != nil {
		return "", err
	}
	listener.Close()
	server := &gnetServer{http: http, boot: make(chan gnet.Engine, 1)}
	failed := make(chan error, 1)
	go func() {
		failed <- gnet.Run(server, url, gnet.WithMulticore(true), gnet.WithReuseAddr(true), gnet.WithTCPNoDelay(gnet.TCPNoDelay),
			gnet.WithLogger(quiet{}))
	}()
	select {
	case <-server.boot:
		return url, nil
	case err := <-failed:
		return "", fmt.Errorf("gnet at %s: %w", strings.TrimPrefix(url, "tcp://"), err)
	}
}
