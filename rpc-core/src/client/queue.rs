//! Calls of a connection that have an id, and wait for their turn on the wire.

use rpc_transport::LinkBuffer;

use crate::mux::{SeqId, Spec, Ticket, TicketQueue};

/// Calls that an empty queue keeps room for: 70 KiB.
const KEPT: usize = 256;

/// Oldest first. A call that ends before its turn leaves at once: its memory is free, it takes no other's place, and what has its id later
/// finds no request of it here.
#[derive(Default)]
pub(super) struct Queue {
    calls: TicketQueue<Queued>,
    bytes: usize,
}

/// A call that waits for its turn.
pub(super) struct Queued {
    pub(super) seq: SeqId,
    pub(super) spec: Spec,
    pub(super) body: LinkBuffer,
}

impl Queue {
    /// What the next call gets.
    pub(super) fn next_ticket(&self) -> Ticket {
        self.calls.next_ticket()
    }

    /// Adds a call at the end, under [`next_ticket`](Queue::next_ticket).
    pub(super) fn push(&mut self, call: Queued) {
        self.bytes += call.body.len();
        self.calls.push(call);
    }

    /// Takes the oldest call.
    pub(super) fn pop(&mut self) -> Option<Queued> {
        let call = self.calls.pop()?;
        self.left(&call);
        Some(call)
    }

    /// Takes a call wherever it is; `None` if it has left.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Queued> {
        let call = self.calls.remove(ticket)?;
        self.left(&call);
        Some(call)
    }

    fn left(&mut self, call: &Queued) {
        self.bytes -= call.body.len();
        if self.calls.is_empty() {
            self.calls.shrink_to(KEPT); // or a burst's would stay
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// How many calls wait.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// The length of their messages, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Every call, with its ticket.
    #[cfg(feature = "testing")]
    pub(super) fn iter(&self) -> impl Iterator<Item = (Ticket, &Queued)> {
        self.calls.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::BufMut;

    use super::*;
    use crate::codegen::MethodDescriptor;

    static METHOD: MethodDescriptor = MethodDescriptor::new("test", "Queue", "Wait");

    /// A call whose message has `slot` bytes.
    fn call(slot: usize) -> Queued {
        let spec = Spec { method: &METHOD, extra: Vec::new(), timeout: Duration::ZERO, deadline: Instant::now() };
        let mut body = LinkBuffer::new();
        body.put_bytes(0, slot);
        Queued { seq: SeqId::new(slot, 1), spec, body }
    }

    #[test]
    fn bytes_leave_with_their_calls() {
        let mut queue = Queue::default();
        let tickets: Vec<_> = (0..5)
            .map(|slot| {
                let ticket = queue.next_ticket();
                queue.push(call(slot));
                ticket
            })
            .collect();
        assert_eq!((queue.len(), queue.bytes()), (5, 10));
        let slot = |call: Option<Queued>| call.map(|call| call.seq.slot());
        assert_eq!(slot(queue.remove(tickets[3])), Some(3));
        assert_eq!(slot(queue.remove(tickets[3])), None, "once");
        assert_eq!((queue.len(), queue.bytes()), (4, 7));
        assert_eq!([(); 4].map(|()| slot(queue.pop())), [0, 1, 2, 4].map(Some));
        assert_eq!((queue.is_empty(), queue.len(), queue.bytes()), (true, 0, 0));
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let mut queue = Queue::default();
        for by_turn in [true, false] {
            let burst: Vec<_> = (0..10 * KEPT)
                .map(|_| {
                    let ticket = queue.next_ticket();
                    queue.push(call(1));
                    ticket
                })
                .collect();
            let leave = |ticket| if by_turn { queue.pop() } else { queue.remove(ticket) };
            assert!(burst.into_iter().rev().map(leave).all(|call| call.is_some()));
            assert!(queue.calls.capacity() <= 2 * KEPT, "{} places", queue.calls.capacity());
        }
    }
}
