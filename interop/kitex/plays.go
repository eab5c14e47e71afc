package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bytedance/gopkg/cloud/metainfo"
	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/client/callopt"
	"github.com/cloudwego/kitex/pkg/kerrors"
	"github.com/cloudwego/kitex/pkg/serviceinfo"

	"interop/kitex_gen/testee"
	"interop/kitex_gen/testee/second"
	service "interop/kitex_gen/testee/testee"
)

// What a client can be told to do; each returns what it counted.
var plays = map[string]func(*stage) (string, error){
	"mixture":  mixture,
	"sizes":    sizes,
	"errors":   failures,
	"business": business,
	"metainfo": pairs,
	"timeouts": timeouts,
	"oneway":   oneway,
	"unknown":  unknown,
	"chain":    chain,
	"endless":  endless,
	"services": services,
	"limited":  limited,
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// Lengths that a mixture has, each so often in a million.
var lengths = []struct{ often, from, to int }{
	{50_000, 0, 1},
	{700_000, 1, 300},
	{230_000, 300, 2 * kib},
	{19_900, 2 * kib, 80 * kib},
	{90, 256 * kib, mib},
	{10, mib, 8 * mib},
}

func length(random *rand.Rand) int {
	at := random.IntN(1_000_000)
	for _, class := range lengths {
		if at < class.often {
			return class.from + random.IntN(class.to-class.from)
		}
		at -= class.often
	}
	return 0
}

// All methods that answer at once, and some that take a while, with all lengths; every reply is compared with what it has to be.
func mixture(on *stage) (string, error) {
	var next, sent atomic.Int64
	var wait sync.WaitGroup
	failed := make(chan error, on.inFlight)
	for lane := range on.inFlight {
		wait.Add(1)
		go func() {
			defer wait.Done()
			random := rand.New(rand.NewPCG(1, uint64(lane)))
			source := make([]byte, 8*mib)
			for i := range source {
				source[i] = byte(random.Uint32())
			}
			for next.Add(1) <= int64(on.calls) {
				n, err := one(on.kitex, random, source)
				sent.Add(int64(n))
				if err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	wait.Wait()
	select {
	case err := <-failed:
		return "", err
	default:
		return fmt.Sprintf("%d calls, %d MiB, 0 differences", on.calls, sent.Load()/mib), nil
	}
}

// One call of a mixture; returns the bytes it sent.
func one(kitex service.Client, random *rand.Rand, source []byte) (int, error) {
	ctx := context.Background()
	n := length(random)
	at := random.IntN(len(source) - n + 1)
	payload := source[at : at+n]
	differs := func(method string, err error) error {
		if err != nil {
			return fmt.Errorf("%s of %d bytes: %w", method, n, err)
		}
		return fmt.Errorf("%s of %d bytes: another reply than is due", method, n)
	}
	switch random.IntN(8) {
	case 0:
		size, err := kitex.Sink(ctx, &testee.Blob{Payload: payload})
		if err != nil || size.Bytes != uint32(n) {
			return n, differs("Sink", err)
		}
	case 1:
		blob, err := kitex.Give(ctx, &testee.Size{Bytes: uint32(n)})
		if err != nil || !bytes.Equal(blob.Payload, give(uint64(n), n)) {
			return 0, differs("Give", err)
		}
	case 2:
		mixed := &testee.Mixed{Id: fmt.Sprint(random.Uint64()), CreatedMs: random.Int64(), Paid: true}
		for range random.IntN(10) {
			item := &testee.Item{Sku: fmt.Sprint(random.Uint64()), Quantity: random.Uint32(), Price: random.Float64()}
			mixed.Items = append(mixed.Items, item)
		}
		reply, err := kitex.EchoMixed(ctx, mixed)
		if err != nil || !sameMixed(reply, mixed) {
			return n, differs("EchoMixed", err)
		}
	case 3:
		if _, err := kitex.Sleep(ctx, &testee.Millis{Ms: uint32(random.IntN(3))}); err != nil {
			return 0, differs("Sleep", err)
		}
	default:
		blob, err := kitex.Echo(ctx, &testee.Blob{Payload: payload})
		if err != nil || !bytes.Equal(blob.Payload, payload) {
			return n, differs("Echo", err)
		}
	}
	return n, nil
}

func sameMixed(a, b *testee.Mixed) bool {
	if a.Id != b.Id || a.CreatedMs != b.CreatedMs || a.Paid != b.Paid || len(a.Items) != len(b.Items) {
		return false
	}
	for i := range a.Items {
		if a.Items[i].Sku != b.Items[i].Sku || a.Items[i].Quantity != b.Items[i].Quantity || a.Items[i].Price != b.Items[i].Price {
			return false
		}
	}
	return true
}

func sizes(on *stage) (string, error) {
	all := []int{0, 1, 2, 127, 128, 4095, 4096, 4097, 64 * kib, mib - 1, mib, mib + 1, 4 * mib, 8 * mib}
	for _, n := range all {
		payload := bytes.Repeat([]byte{byte(n), 7}, n/2+1)[:n]
		blob, err := on.kitex.Echo(context.Background(), &testee.Blob{Payload: payload})
		if err != nil || !bytes.Equal(blob.Payload, payload) {
			return "", fmt.Errorf("%d bytes: %w", n, errors.Join(err, errors.New("not what was sent")))
		}
	}
	return fmt.Sprintf("%d sizes up to %d MiB", len(all), all[len(all)-1]/mib), nil
}

// Errors of the handler reach the caller, and the connection goes on.
func failures(on *stage) (string, error) {
	for i := range 20 {
		said := fmt.Sprintf("it fails for the %dth time", i)
		_, err := on.kitex.Fail(context.Background(), &testee.Fault{Code: 13, Message: said})
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte(said)) {
			return "", fmt.Errorf("Fail: %v, not %q", err, said)
		}
		if _, business := kerrors.FromBizStatusError(err); business {
			return "", fmt.Errorf("Fail: %v is no error of the business", err)
		}
		_, err = on.kitex.Panic(context.Background(), &testee.Millis{Kind: "now"})
		if err == nil || !strings.Contains(err.Error(), "panic: the handler panicked") {
			return "", fmt.Errorf("Panic: %v", err)
		}
		if err := echoes(on.kitex); err != nil {
			return "", fmt.Errorf("after errors: %w", err)
		}
	}
	return "40 errors", nil
}

func echoes(kitex service.Client, options ...callopt.Option) error {
	payload := []byte("still there")
	blob, err := kitex.Echo(context.Background(), &testee.Blob{Payload: payload}, options...)
	if err == nil && !bytes.Equal(blob.Payload, payload) {
		err = errors.New("another reply than is due")
	}
	return err
}

// The same by a client that was changed, whose connections are its own.
func echoesBy(kitex client.Client) error {
	payload := []byte("still there")
	result := &service.EchoResult{}
	err := kitex.Call(context.Background(), "Echo", &service.EchoArgs{Req: &testee.Blob{Payload: payload}}, result)
	if err == nil && !bytes.Equal(result.Success.Payload, payload) {
		err = errors.New("another reply than is due")
	}
	return err
}

func business(on *stage) (string, error) {
	faults := []*testee.Fault{
		{Code: 404, Message: "not found", Business: true, Extra: map[string]string{"key": "a <b> & \"c\"", "ключ": "значение"}},
		{Code: -7, Message: "отрицательный", Business: true},
		{Code: 1, Message: "", Business: true, Extra: map[string]string{"only": "extra"}},
	}
	for _, fault := range faults {
		_, err := on.kitex.Fail(context.Background(), fault)
		status, business := kerrors.FromBizStatusError(err)
		if !business {
			return "", fmt.Errorf("%v: not of the business: %v", fault, err)
		}
		if status.BizStatusCode() != fault.Code || status.BizMessage() != fault.Message || !maps.Equal(status.BizExtra(), fault.Extra) {
			return "", fmt.Errorf("%v: came as %v %v", fault, status, status.BizExtra())
		}
	}
	return fmt.Sprintf("%d statuses", len(faults)), nil
}

// Pairs go to the server, and one comes back.
func pairs(on *stage) (string, error) {
	ctx := metainfo.WithPersistentValues(context.Background(), "TENANT", "a tenant", "LANG", "ü")
	ctx = metainfo.WithValues(ctx, "ONCE", "here only", "Case-Stays", "yes")
	ctx = metainfo.WithBackwardValues(ctx)
	heard, err := on.kitex.Beside(ctx, &testee.Hop{})
	if err != nil {
		return "", err
	}
	persistent := map[string]string{"TENANT": "a tenant", "LANG": "ü"}
	transient := map[string]string{"ONCE": "here only", "Case-Stays": "yes"}
	if !maps.Equal(heard.Persistent, persistent) || !maps.Equal(heard.Transient, transient) {
		return "", fmt.Errorf("heard %v and %v", heard.Persistent, heard.Transient)
	}
	if by, _ := metainfo.RecvBackwardValue(ctx, "SERVED_BY"); by != "testee" {
		return "", fmt.Errorf("nothing came back: %v", metainfo.RecvAllBackwardValues(ctx))
	}
	return "5 pairs", nil
}

// A call over its time ends in time, and later ones are not disturbed by its late reply.
func timeouts(on *stage) (string, error) {
	var wait sync.WaitGroup
	failed := make(chan error, 40)
	for range 20 {
		wait.Add(2)
		go func() {
			defer wait.Done()
			begun := time.Now()
			_, err := on.kitex.Sleep(context.Background(), &testee.Millis{Ms: 700})
			if took := time.Since(begun); !kerrors.IsTimeoutError(err) || took > 650*time.Millisecond {
				failed <- fmt.Errorf("after %v: %v", took, err)
			}
		}()
		go func() {
			defer wait.Done()
			if err := echoes(on.kitex, callopt.WithRPCTimeout(5*time.Second)); err != nil {
				failed <- err
			}
		}()
	}
	wait.Wait()
	time.Sleep(time.Second) // late replies come meanwhile
	for range 40 {
		if err := echoes(on.kitex); err != nil {
			failed <- fmt.Errorf("after the late replies: %w", err)
			break
		}
	}
	select {
	case err := <-failed:
		return "", err
	default:
		return "20 timeouts, 60 replies", nil
	}
}

// A client of the same service with a method more, or another one.
func changed(on *stage, name string, method serviceinfo.MethodInfo, of string) (client.Client, error) {
	info := *service.NewServiceInfo()
	info.Methods = maps.Clone(info.Methods)
	info.Methods[name] = method
	if of != "" {
		info.ServiceName = of
	}
	return client.NewClient(&info, append(on.options, client.WithDestService("testee.Testee"))...)
}

func onceInfo(oneWay bool) serviceinfo.MethodInfo {
	args := func() any { return &service.OnceArgs{} }
	result := func() any { return &service.OnceResult{} }
	return serviceinfo.NewMethodInfo(nil, args, result, oneWay)
}

// Messages that want no reply, and calls behind them.
func oneway(on *stage) (string, error) {
	kitex, err := changed(on, "Once", onceInfo(true), "")
	if err != nil {
		return "", err
	}
	for i := range 100 {
		args := &service.OnceArgs{Req: &testee.Nonce{Value: fmt.Sprintf("oneway-%d", i)}}
		if err := kitex.Call(context.Background(), "Once", args, nil); err != nil {
			return "", fmt.Errorf("oneway: %w", err)
		}
		if err := echoesBy(kitex); err != nil {
			return "", fmt.Errorf("behind a oneway message: %w", err)
		}
	}
	return "100 oneway messages", nil
}

// A method that the server has not, of its service or of another one: an error that says so. A method that it has is found where the client
// names no service, and refused where it names another one.
func unknown(on *stage) (string, error) {
	stranger, err := changed(on, "Once", onceInfo(false), "Nobody")
	if err != nil {
		return "", err
	}
	args := &service.OnceArgs{Req: &testee.Nonce{Value: "of nobody"}}
	err = stranger.Call(context.Background(), "Once", args, &service.OnceResult{})
	if refused := err != nil && strings.Contains(err.Error(), "unknown service Nobody, method Once"); refused != on.named {
		return "", fmt.Errorf("Once of another service: %w", err)
	}
	for _, of := range []string{"", "Nobody"} {
		due := "unknown method Nope (service Testee)"
		if !on.named {
			due = "unknown service , method Nope"
		} else if of != "" {
			due = "unknown service Nobody, method Nope"
		}
		kitex, err := changed(on, "Nope", onceInfo(false), of)
		if err != nil {
			return "", err
		}
		args := &service.OnceArgs{Req: &testee.Nonce{Value: "x"}}
		for range 10 {
			err := kitex.Call(context.Background(), "Nope", args, &service.OnceResult{})
			if err == nil {
				return "", errors.New("Nope: no error")
			}
			if !strings.Contains(err.Error(), due) {
				return "", fmt.Errorf("Nope: %w, not: %s", err, due)
			}
			if err := echoesBy(kitex); err != nil && !(of != "" && on.named) {
				return "", fmt.Errorf("after an unknown method: %w", err)
			}
		}
	}
	return "20 errors", nil
}

// More calls at a time than the server takes: some are served, the others hear which limit it is.
func limited(on *stage) (string, error) {
	var served, refused atomic.Int64
	var wait sync.WaitGroup
	failed := make(chan error, 64)
	for range 64 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			switch _, err := on.kitex.Sleep(context.Background(), &testee.Millis{Ms: 300}); {
			case err == nil:
				served.Add(1)
			case strings.Contains(err.Error(), "max_inflight"):
				refused.Add(1)
			default:
				failed <- err
			}
		}()
	}
	wait.Wait()
	select {
	case err := <-failed:
		return "", err
	default:
	}
	if served.Load() == 0 || refused.Load() == 0 {
		return "", fmt.Errorf("%d served and %d refused", served.Load(), refused.Load())
	}
	return fmt.Sprintf("%d of 64 refused", refused.Load()), echoes(on.kitex)
}

// Two services on one port, which share the name of a method: that of the service which the client names, or, where it names none, of the
// fallback.
func services(on *stage) (string, error) {
	other, err := second.NewClient("testee.Second", on.options...)
	if err != nil {
		return "", err
	}
	of := func(report *testee.Report, err error) (string, error) {
		if err == nil && report.Json == `{"service":"Second"}` {
			return "Second", nil
		}
		return "Testee", err
	}
	due := "Testee"
	if on.named {
		due = "Second"
	}
	for range 20 {
		size, err := other.Measure(context.Background(), &testee.Blob{Payload: make([]byte, 17)})
		if err != nil || size.Bytes != 17 {
			return "", fmt.Errorf("Measure of Second: %v %w", size, err)
		}
		if served, err := of(on.kitex.Stats(context.Background(), &testee.Empty{})); served != "Testee" || err != nil {
			return "", fmt.Errorf("Stats of Testee: %s %w", served, err)
		}
		if served, err := of(other.Stats(context.Background(), &testee.Empty{})); served != due || err != nil {
			return "", fmt.Errorf("Stats of Second is served by %s, not %s: %w", served, due, err)
		}
	}
	return "60 calls, those of a shared name to " + due, nil
}

// Through several servers: persistent pairs and what is left of the time reach the last one, transient pairs only the first.
func chain(on *stage) (string, error) {
	ctx := metainfo.WithPersistentValue(context.Background(), "TENANT", "a tenant")
	ctx = metainfo.WithValue(ctx, "ONCE", "the first only")
	ctx = metainfo.WithBackwardValues(ctx)
	const each = 200 // ms at each server
	hop := &testee.Hop{Url: on.via[0], Via: on.via[1:], Ms: each}
	heard, err := on.kitex.Beside(ctx, hop, callopt.WithRPCTimeout(3*time.Second))
	if err != nil {
		return "", err
	}
	if !reflect.DeepEqual(heard.Persistent, map[string]string{"TENANT": "a tenant"}) || len(heard.Transient) > 0 {
		return "", fmt.Errorf("the last one heard %v and %v", heard.Persistent, heard.Transient)
	}
	if by, _ := metainfo.RecvBackwardValue(ctx, "SERVED_BY"); by != "testee" {
		return "", fmt.Errorf("%q came back, not what the first one sent", by)
	}
	// Where one hop had counted anew there would be more.
	hops := 1 + len(on.via)
	if most := uint32(3000 - each*hops); heard.LeftMs == 0 || heard.LeftMs > most {
		return "", fmt.Errorf("the last one has %d ms, of %d at most", heard.LeftMs, most)
	}
	return fmt.Sprintf("%d hops of %d ms, %d ms left of 3000", hops, each, heard.LeftMs), nil
}

// Calls until the server has gone: what it has been told would be served is answered. Who is refused comes again a little later, as callers
// do. Prints how calls ended.
func endless(on *stage) (string, error) {
	var good, refused, gone, lost atomic.Int64
	var wait sync.WaitGroup
	first := make(chan error, on.inFlight)
	for range on.inFlight {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for {
				switch err := echoes(on.kitex, callopt.WithRPCTimeout(10*time.Second)); {
				case err == nil:
					if good.Add(1) == 5000 && os.WriteFile(on.busy, nil, 0o600) != nil {
						return
					}
				case strings.Contains(err.Error(), "shutting down"):
					refused.Add(1)
					time.Sleep(200 * time.Millisecond) // as a caller that backs off: the server waits for a pause
				case errors.Is(err, kerrors.ErrGetConnection):
					gone.Add(1)
					return // nobody listens any more
				default:
					lost.Add(1)
					first <- err
					return
				}
			}
		}()
	}
	wait.Wait()
	counted := fmt.Sprintf("%d answered, %d refused, %d had no connection, %d lost", good.Load(), refused.Load(), gone.Load(), lost.Load())
	select {
	case err := <-first:
		return counted + "; the first: " + err.Error(), nil
	default:
		return counted, nil
	}
}
