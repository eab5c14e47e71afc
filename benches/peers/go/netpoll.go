// netpoll, without RPC: frames of a length, an id and a payload. Settings: its mux queue on both sides, which gathers what is written at
// the same time; the server answers each frame where it is read; no copy of what is passed on.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	"github.com/cloudwego/netpoll"
	"github.com/cloudwego/netpoll/mux"
)

// Length of the rest, and id.
const head = 8

type queueKey struct{}

func serveNetpoll(url string) (string, error) {
	return serveEvents(url, answerFrames, netpoll.WithOnPrepare(func(connection netpoll.Connection) context.Context {
		return context.WithValue(context.Background(), queueKey{}, mux.NewShardQueue(mux.ShardSize, connection))
	}))
}

// Listens, and answers on event loops; returns the URL.
func serveEvents(url string, answer netpoll.OnRequest, options ...netpoll.Option) (string, error) {
	listener, url, err := listen(url)
	if err != nil {
		return "", err
	}
	events, err := netpoll.NewEventLoop(answer, options...)
	if err != nil {
		return "", err
	}
	converted, err := netpoll.ConvertListener(listener)
	if err != nil {
		return "", err
	}
	go events.Serve(converted)
	return url, nil
}

// Sends each frame back as it is.
func answerFrames(ctx context.Context, connection netpoll.Connection) error {
	queue := ctx.Value(queueKey{}).(*mux.ShardQueue)
	return eachFrame(connection.Reader(), func(frame netpoll.Reader, length int) error {
		bytes, err := frame.ReadBinary(length)
		if err != nil {
			return err
		}
		reply := netpoll.NewLinkBuffer(0)
		if err := reply.WriteDirect(bytes, 0); err != nil {
			return err
		}
		queue.Add(func() (netpoll.Writer, bool) { return reply, false })
		return nil
	})
}

// Hands over the frames that have arrived, and at least one; it waits for the rest of the first.
func eachFrame(reader netpoll.Reader, frame func(netpoll.Reader, int) error) error {
	for first := true; first || reader.Len() >= head; first = false {
		prefix, err := reader.Peek(4)
		if err != nil {
			return err
		}
		length := 4 + int(binary.BigEndian.Uint32(prefix))
		slice, err := reader.Slice(length)
		if err != nil {
			return err
		}
		if err := frame(slice, length); err != nil {
			return err
		}
		slice.Release()
	}
	return nil
}

// A connection, and who waits for replies on it.
type lane struct {
	queue   *mux.ShardQueue
	waiting []chan []byte
}

func connectNetpoll(run *run, url string) ([]call, error) {
	network, at := address(url)
	lanes := make([]*lane, run.connections)
	for i := range lanes {
		connection, err := netpoll.DialConnection(network, at, time.Second)
		if err != nil {
			return nil, err
		}
		lane := &lane{queue: mux.NewShardQueue(mux.ShardSize, connection)}
		for range run.inFlight {
			lane.waiting = append(lane.waiting, make(chan []byte, 1))
		}
		err = connection.SetOnRequest(func(_ context.Context, connection netpoll.Connection) error {
			return eachFrame(connection.Reader(), lane.deliver)
		})
		if err != nil {
			return nil, err
		}
		lanes[i] = lane
	}
	var calls []call
	for id, payload := range payloads(run.payload, run.inFlight) {
		lane := lanes[id%len(lanes)]
		calls = append(calls, func(sample bool) error {
			reply := lane.call(uint32(id), payload)
			if len(reply) != head+len(payload) || sample && !bytes.Equal(reply[head:], payload) {
				return errWrong
			}
			return nil
		})
	}
	return calls, nil
}

func (l *lane) deliver(frame netpoll.Reader, length int) error {
	bytes, err := frame.ReadBinary(length)
	if err != nil {
		return err
	}
	id := binary.BigEndian.Uint32(bytes[4:])
	if int(id) >= len(l.waiting) {
		return errWrong
	}
	l.waiting[id] <- bytes
	return nil
}

func (l *lane) call(id uint32, payload []byte) []byte {
	frame := netpoll.NewLinkBuffer(0)
	start, _ := frame.Malloc(head)
	binary.BigEndian.PutUint32(start, uint32(4+len(payload)))
	binary.BigEndian.PutUint32(start[4:], id)
	frame.WriteBinary(payload)
	l.queue.Add(func() (netpoll.Writer, bool) { return frame, false })
	return <-l.waiting[id]
}
