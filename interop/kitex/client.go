package main

import (
	"errors"
	"flag"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/pkg/connpool"
	"github.com/cloudwego/kitex/pkg/remote/codec"
	"github.com/cloudwego/kitex/pkg/transmeta"
	"github.com/cloudwego/kitex/transport"

	service "interop/kitex_gen/testee/testee"
)

// Words of --options, and what they are at a Kitex client.
var clientOptions = map[string][]client.Option{
	"default":  nil,
	"ttheader": {client.WithTransportProtocol(transport.TTHeader)},
	"framed":   {client.WithTransportProtocol(transport.Framed)},
	"handlers": {client.WithMetaHandler(transmeta.ClientTTHeaderHandler)},
	"mux-1":    {client.WithMuxConnection(1)},
	"mux-4":    {client.WithMuxConnection(4)},
	"short":    {client.WithShortConnection()},
	"pool": {client.WithLongConnection(connpool.IdleConfig{
		MaxIdlePerAddress: 100, MaxIdleGlobal: 1000, MaxIdleTimeout: time.Minute})},
	"crc":     {client.WithCodec(codec.NewDefaultCodecWithConfig(codec.CodecConfig{CRC32Check: true}))},
	"timeout": {client.WithRPCTimeout(300 * time.Millisecond)},
}

// What a play is given.
type stage struct {
	kitex    service.Client
	options  []client.Option
	url      string
	via      []string
	calls    int
	inFlight int
	named    bool   // the client names the service
	busy     string // a file that is made when there is a load
}

func play(args []string) error {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	url := flags.String("connect", "", "the server: tcp://HOST:PORT")
	words := flags.String("options", "default", "what the client is told: "+names(clientOptions)+"; several with commas")
	name := flags.String("play", "mixture", "what it does: "+names(plays))
	via := flags.String("via", "", "servers that a chain passes after the first, with commas")
	calls := flags.Int("calls", 1000, "calls of a mixture, in all")
	inFlight := flags.Int("in-flight", 16, "calls at a time")
	busy := flags.String("busy", "", "a file that endless makes when it has had 5,000 replies")
	_ = flags.Parse(args)

	what, known := plays[*name]
	if !known {
		return fmt.Errorf("--play %s: there is %s", *name, names(plays))
	}
	if *url == "" {
		return errors.New("--connect is missing: the server's URL")
	}
	options := []client.Option{
		client.WithHostPorts(strings.TrimPrefix(*url, "tcp://")),
		client.WithConnectTimeout(5 * time.Second),
	}
	for _, word := range strings.Split(*words, ",") {
		more, known := clientOptions[word]
		if !known {
			return fmt.Errorf("--options %s: there is %s", word, names(clientOptions))
		}
		options = append(options, more...)
	}
	kitex, err := service.NewClient("testee.Testee", options...)
	if err != nil {
		return err
	}
	on := &stage{kitex: kitex, options: options, url: *url, calls: *calls, inFlight: *inFlight, busy: *busy}
	on.named = strings.Contains(*words, "handlers")
	if *via != "" {
		on.via = strings.Split(*via, ",")
	}
	counted, err := what(on)
	if err != nil {
		return err
	}
	fmt.Println(counted)
	return nil
}

func names[T any](of map[string]T) string {
	var all []string
	for name := range of {
		all = append(all, name)
	}
	sort.Strings(all)
	return strings.Join(all, ", ")
}
