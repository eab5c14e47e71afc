//! Calls of a connection that have an id, and wait for their turn on the wire.

use std::collections::VecDeque;

use rpc_transport::LinkBuffer;

use crate::mux::{SeqId, Spec};

/// Calls that an empty queue keeps room for: 70 KiB.
const KEPT: usize = 256;

/// Gaps that are borne whatever the length.
const FEW: usize = 64;

/// Oldest first. A call that ends before its turn leaves at once: its memory is free, it takes no other's place, and what has its id later
/// finds no request of it here. Its gap stays until gaps are half of the places: so leaving costs a search, and no allocation.
#[derive(Default)]
pub(super) struct Queue {
    /// By ticket, in their order.
    places: VecDeque<(Ticket, Option<Queued>)>,
    next: Ticket,
    len: usize,
    bytes: usize,
}

/// Names a call in the queue; there is none twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// A call that waits for its turn.
pub(super) struct Queued {
    pub(super) seq: SeqId,
    pub(super) spec: Spec,
    pub(super) body: LinkBuffer,
}

impl Queue {
    /// What the next call gets.
    pub(super) fn next_ticket(&self) -> Ticket {
        self.next
    }

    /// Adds a call at the end, under [`next_ticket`](Queue::next_ticket).
    pub(super) fn push(&mut self, call: Queued) {
        self.len += 1;
        self.bytes += call.body.len();
        self.places.push_back((self.next, Some(call)));
        self.next.0 += 1;
    }

    /// Takes the oldest call.
    pub(super) fn pop(&mut self) -> Option<Queued> {
        while let Some((_, place)) = self.places.pop_front() {
            if let Some(call) = place {
                self.left(&call);
                return Some(call);
            }
        }
        None
    }

    /// Takes a call wherever it is; `None` if it has left.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Queued> {
        let at = self.places.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()?;
        let call = self.places[at].1.take()?;
        self.left(&call);
        Some(call)
    }

    fn left(&mut self, call: &Queued) {
        self.len -= 1;
        self.bytes -= call.body.len();
        if self.len == 0 {
            self.places.clear();
            self.places.shrink_to(KEPT); // or a burst's would stay
        } else if self.places.len() > 2 * self.len + FEW {
            self.places.retain(|(_, call)| call.is_some());
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many calls wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The length of their messages, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Every call, with its ticket.
    #[cfg(feature = "testing")]
    pub(super) fn iter(&self) -> impl Iterator<Item = (Ticket, &Queued)> {
        self.places.iter().filter_map(|(ticket, call)| Some((*ticket, call.as_ref()?)))
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
    fn calls_leave_by_turn_or_when_they_end() {
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
        assert_eq!([slot(queue.pop()), slot(queue.pop())], [Some(0), Some(1)]);
        assert_eq!(slot(queue.remove(tickets[0])), None, "its turn has come");
        queue.push(call(7));
        assert_eq!([slot(queue.pop()), slot(queue.pop()), slot(queue.pop())], [Some(2), Some(4), Some(7)]);
        assert_eq!((queue.is_empty(), queue.len(), queue.bytes()), (true, 0, 0));
        assert!(!tickets.contains(&queue.next_ticket()), "no ticket comes twice, not even from an empty queue");
    }

    /// A queue that does not move, and whose calls all give up, stays as small as what waits in it.
    #[test]
    fn gaps_do_not_add_up() {
        let mut queue = Queue::default();
        queue.push(call(9));
        for n in 0..10_000 {
            let ticket = queue.next_ticket();
            queue.push(call(n % 9));
            assert!(queue.remove(ticket).is_some());
            assert!(queue.places.len() <= 2 * queue.len() + FEW, "{} places for a call", queue.places.len());
        }
        let of_a_burst: Vec<_> = (0..10 * KEPT)
            .map(|_| {
                let ticket = queue.next_ticket();
                queue.push(call(1));
                ticket
            })
            .collect();
        assert!(of_a_burst.into_iter().rev().all(|ticket| queue.remove(ticket).is_some()));
        assert_eq!(queue.bytes(), 9);
        assert_eq!(queue.pop().map(|call| call.seq.slot()), Some(9), "it has kept its place");
        assert!(queue.pop().is_none() && queue.places.capacity() <= 2 * KEPT);
    }
}
