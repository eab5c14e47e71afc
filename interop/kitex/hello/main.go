// A client in Go of the Rust server that `cargo run --bin server` starts.
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/pkg/kerrors"
	"github.com/cloudwego/kitex/pkg/transmeta"

	"interop/kitex_gen/hello"
	"interop/kitex_gen/hello/greeter"
)

func main() {
	greeter, err := greeter.NewClient("hello.Greeter",
		client.WithHostPorts("127.0.0.1:7000"),
		client.WithMuxConnection(1),                             // many calls at a time on one connection
		client.WithMetaHandler(transmeta.ClientTTHeaderHandler), // tells the timeout, and hears of business statuses
		client.WithRPCTimeout(time.Second))
	if err != nil {
		log.Fatal(err)
	}
	reply, err := greeter.SayHello(context.Background(), &hello.HelloRequest{Name: "Go"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(reply.Message)
	_, err = greeter.SayHello(context.Background(), &hello.HelloRequest{})
	if status, business := kerrors.FromBizStatusError(err); business {
		fmt.Println(status.BizStatusCode(), status.BizMessage(), status.BizExtra())
	}
}
