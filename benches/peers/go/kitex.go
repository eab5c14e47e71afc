// Kitex: Protobuf over TTHeader, by its own generator (prutal) and netpoll. Settings: multiplexed, with the given connections, or its pool of
// long connections, as large as there are calls in flight; no time limits, no tracing.
package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/pkg/connpool"
	"github.com/cloudwego/kitex/pkg/klog"
	"github.com/cloudwego/kitex/pkg/transmeta"
	"github.com/cloudwego/kitex/server"
	"github.com/cloudwego/kitex/transport"

	"peers/kitex_gen/echo"
	"peers/kitex_gen/echo/testee"
)

// A thousand connections at once take longer than the 50 ms of its default.
const connectTimeout = 5 * time.Second

// What a server is told of with --header.
const callTimeout = 20 * time.Second

type service struct{}

func (*service) Echo(_ context.Context, request *echo.Blob) (*echo.Blob, error) { return request, nil }

func (*service) EchoMixed(_ context.Context, request *echo.Mixed) (*echo.Mixed, error) {
	return request, nil
}

func serveKitex(multiplexed bool) func(string) (string, error) {
	return func(url string) (string, error) {
		listener, url, err := listen(url)
		if err != nil {
			return "", err
		}
		klog.SetLevel(klog.LevelError)
		options := []server.Option{server.WithListener(listener), server.WithExitWaitTime(0)}
		if multiplexed {
			options = append(options, server.WithMuxTransport())
		}
		kitex := testee.NewServer(&service{}, options...)
		go func() {
			if err := kitex.Run(); err != nil {
				klog.Errorf("serving: %v", err)
				os.Exit(1)
			}
		}()
		return url, nil
	}
}

func connectKitex(multiplexed bool) func(*run, string) ([]call, error) {
	return func(run *run, url string) ([]call, error) {
		klog.SetLevel(klog.LevelError)
		_, address := address(url)
		options := []client.Option{client.WithHostPorts(address), client.WithConnectTimeout(connectTimeout)}
		if run.header {
			options = append(options, client.WithMetaHandler(transmeta.ClientTTHeaderHandler), client.WithRPCTimeout(callTimeout))
		}
		if multiplexed {
			options = append(options, client.WithMuxConnection(run.connections))
		} else {
			pool := connpool.IdleConfig{
				MaxIdlePerAddress: run.inFlight,
				MaxIdleGlobal:     run.inFlight,
				MaxIdleTimeout:    time.Minute,
			}
			options = append(options, client.WithTransportProtocol(transport.TTHeader), client.WithLongConnection(pool))
		}
		kitex, err := testee.NewClient("testee", options...)
		if err != nil {
			return nil, err
		}
		if run.method == "mixed" {
			return mixedCalls(kitex, messages(run.payload, run.inFlight)), nil
		}
		return echoCalls(kitex, payloads(run.payload, run.inFlight)), nil
	}
}

func echoCalls(kitex testee.Client, payloads [][]byte) []call {
	var calls []call
	for _, payload := range payloads {
		calls = append(calls, func(sample bool) error {
			reply, err := kitex.Echo(context.Background(), &echo.Blob{Payload: payload})
			if err != nil {
				return err
			}
			if len(reply.Payload) != len(payload) || sample && !bytes.Equal(reply.Payload, payload) {
				return errWrong
			}
			return nil
		})
	}
	return calls
}

func mixedCalls(kitex testee.Client, messages []*echo.Mixed) []call {
	var calls []call
	for _, message := range messages {
		calls = append(calls, func(sample bool) error {
			reply, err := kitex.EchoMixed(context.Background(), message)
			if err != nil {
				return err
			}
			if reply.Id != message.Id || len(reply.Items) != len(message.Items) {
				return errWrong
			}
			if sample && !reflect.DeepEqual(reply, message) {
				return errWrong
			}
			return nil
		})
	}
	return calls
}

// What a URL means to package net.
func address(url string) (network, address string) {
	if path, ok := strings.CutPrefix(url, "unix:"); ok {
		return "unix", path
	}
	return "tcp", strings.TrimPrefix(url, "tcp://")
}

// Listens; returns the URL with the port.
func listen(url string) (net.Listener, string, error) {
	network, at := address(url)
	listener, err := net.Listen(network, at)
	if err != nil {
		return nil, "", err
	}
	if network == "tcp" {
		url = "tcp://" + listener.Addr().String()
	}
	return listener, url, nil
}
