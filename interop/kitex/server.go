package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bytedance/gopkg/cloud/metainfo"
	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/client/callopt"
	"github.com/cloudwego/kitex/pkg/kerrors"
	"github.com/cloudwego/kitex/pkg/limit"
	"github.com/cloudwego/kitex/pkg/remote/codec"
	"github.com/cloudwego/kitex/pkg/transmeta"
	"github.com/cloudwego/kitex/server"

	"interop/kitex_gen/testee"
	"interop/kitex_gen/testee/second"
	service "interop/kitex_gen/testee/testee"
)

// Words of --options, and what they are at a Kitex server.
var serverOptions = map[string][]server.Option{
	"default":  nil,
	"mux":      {server.WithMuxTransport()},
	"handlers": {server.WithMetaHandler(transmeta.ServerTTHeaderHandler), server.WithEnableContextTimeout(true)},
	"crc":      {server.WithCodec(codec.NewDefaultCodecWithConfig(codec.CodecConfig{CRC32Check: true}))},
	"limited":  {server.WithLimit(&limit.Option{MaxConnections: 1000, MaxQPS: 1})},
	"few":      {server.WithLimit(&limit.Option{MaxConnections: 2, MaxQPS: 1_000_000})},
}

func serve(args []string) error {
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	at := flags.String("listen", "tcp://127.0.0.1:0", "tcp://HOST:PORT")
	words := flags.String("options", "default", "what the server is told: default, mux, handlers, crc, limited, few; several with commas")
	exitWait := flags.Duration("exit-wait", 5*time.Second, "how long it waits for calls when it is stopped")
	_ = flags.Parse(args)

	listener, err := net.Listen("tcp", strings.TrimPrefix(*at, "tcp://"))
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	ended := make(chan error, 1)
	go func() {
		<-stop
		ended <- nil
	}()
	options := []server.Option{
		server.WithListener(listener),
		server.WithExitWaitTime(*exitWait),
		server.WithExitSignal(func() <-chan error { return ended }),
	}
	for _, word := range strings.Split(*words, ",") {
		more, known := serverOptions[word]
		if !known {
			return fmt.Errorf("--options %s: there is no such word", word)
		}
		options = append(options, more...)
	}
	kitex := server.NewServer(options...)
	if err := service.RegisterService(kitex, &handler{}, server.WithFallbackService()); err != nil {
		return err
	}
	if err := second.RegisterService(kitex, &other{}); err != nil {
		return err
	}
	fmt.Printf("LISTENING tcp://%s\n", listener.Addr())
	return kitex.Run()
}

// The service.
type handler struct{}

func (*handler) Echo(_ context.Context, blob *testee.Blob) (*testee.Blob, error) { return blob, nil }

func (*handler) EchoMixed(_ context.Context, mixed *testee.Mixed) (*testee.Mixed, error) {
	return mixed, nil
}

func (*handler) Sleep(ctx context.Context, span *testee.Millis) (*testee.Empty, error) {
	select {
	case <-time.After(time.Duration(span.Ms) * time.Millisecond):
		return &testee.Empty{}, nil
	case <-ctx.Done():
		time.Sleep(500 * time.Millisecond) // so that the caller's own deadline comes first, on a busy machine, too
		return nil, ctx.Err()
	}
}

func (h *handler) Spin(ctx context.Context, span *testee.Millis) (*testee.Empty, error) {
	return h.Sleep(ctx, span)
}

func (*handler) Panic(context.Context, *testee.Millis) (*testee.Empty, error) {
	panic("on purpose")
}

func (*handler) Fail(_ context.Context, fault *testee.Fault) (*testee.Empty, error) {
	if fault.Business {
		return nil, kerrors.NewBizStatusErrorWithExtra(fault.Code, fault.Message, fault.Extra)
	}
	return nil, errors.New(fault.Message)
}

func (*handler) Give(_ context.Context, size *testee.Size) (*testee.Blob, error) {
	return &testee.Blob{Payload: give(uint64(size.Bytes), int(size.Bytes))}, nil
}

func (*handler) Count(_ context.Context, tree *testee.Tree) (*testee.Size, error) {
	return &testee.Size{Bytes: branches(tree)}, nil
}

func branches(tree *testee.Tree) uint32 {
	sum := uint32(len(tree.Branches))
	for _, branch := range tree.Branches {
		sum += branches(branch)
	}
	return sum
}

func (*handler) Sink(_ context.Context, blob *testee.Blob) (*testee.Size, error) {
	return &testee.Size{Bytes: uint32(len(blob.Payload))}, nil
}

func (*handler) Once(context.Context, *testee.Nonce) (*testee.Empty, error) {
	return &testee.Empty{}, nil
}

func (h *handler) Relay(ctx context.Context, hop *testee.Hop) (*testee.Empty, error) {
	_, err := h.Beside(ctx, hop)
	return &testee.Empty{}, err
}

func (*handler) Stats(context.Context, *testee.Empty) (*testee.Report, error) {
	return &testee.Report{}, nil
}

func (*handler) Beside(ctx context.Context, hop *testee.Hop) (*testee.Heard, error) {
	metainfo.SendBackwardValue(ctx, "SERVED_BY", "kitex")
	time.Sleep(time.Duration(hop.Ms) * time.Millisecond) // what the caller asks for
	left := time.Duration(0)
	if at, limited := ctx.Deadline(); limited {
		left = time.Until(at)
	}
	if hop.Url == "" {
		return &testee.Heard{
			Persistent: metainfo.GetAllPersistentValues(ctx),
			Transient:  metainfo.GetAllValues(ctx),
			LeftMs:     uint32(left.Milliseconds()),
		}, nil
	}
	next := &testee.Hop{Ms: hop.Ms}
	if len(hop.Via) > 0 {
		next.Url, next.Via = hop.Via[0], hop.Via[1:]
	}
	kitex, err := dial(hop.Url)
	if err != nil {
		return nil, err
	}
	// Kitex tells the next server the configured timeout: what is left has to be configured, call by call.
	return kitex.Beside(ctx, next, callopt.WithRPCTimeout(left))
}

// The other service on the port.
type other struct{}

func (*other) Measure(_ context.Context, blob *testee.Blob) (*testee.Size, error) {
	return &testee.Size{Bytes: uint32(len(blob.Payload))}, nil
}

func (*other) Stats(context.Context, *testee.Empty) (*testee.Report, error) {
	return &testee.Report{Json: `{"service":"Second"}`}, nil
}

var dialed sync.Map

// A client for the next hop, made once.
func dial(url string) (service.Client, error) {
	if known, ok := dialed.Load(url); ok {
		return known.(service.Client), nil
	}
	made, err := service.NewClient("testee", client.WithHostPorts(strings.TrimPrefix(url, "tcp://")),
		client.WithMetaHandler(transmeta.ClientTTHeaderHandler), client.WithMuxConnection(1), client.WithConnectTimeout(time.Second))
	if err != nil {
		return nil, err
	}
	known, _ := dialed.LoadOrStore(url, made)
	return known.(service.Client), nil
}
