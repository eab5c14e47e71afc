//! A queue that anything in it may leave before its turn.

use std::collections::VecDeque;

/// Gaps that are borne whatever the length.
const FEW: usize = 64;

/// Oldest first. What leaves early leaves at once; its gap stays until gaps are half of the places. So leaving costs a search, and no
/// allocation.
#[derive(Debug)]
pub(crate) struct TicketQueue<T> {
    /// By ticket, in their order.
    places: VecDeque<(Ticket, Option<T>)>,
    next: Ticket,
    len: usize,
}

/// Names what waits in a queue; there is none twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// How far a [`walk`](TicketQueue::walk) has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Walk {
    place: usize,
    seen: usize,
}

impl<T> Default for TicketQueue<T> {
    fn default() -> Self {
        TicketQueue { places: VecDeque::new(), next: Ticket::default(), len: 0 }
    }
}

impl<T> TicketQueue<T> {
    /// What comes next gets this.
    pub(crate) fn next_ticket(&self) -> Ticket {
        self.next
    }

    /// Adds `it` at the end, under [`next_ticket`](TicketQueue::next_ticket).
    pub(crate) fn push(&mut self, it: T) {
        self.places.push_back((self.next, Some(it)));
        self.next.0 += 1;
        self.len += 1;
    }

    /// Takes the oldest.
    pub(crate) fn pop(&mut self) -> Option<T> {
        while let Some((_, place)) = self.places.pop_front() {
            if place.is_some() {
                self.left();
                return place;
            }
        }
        None
    }

    /// What comes next on a walk from the oldest to the youngest. Nothing leaves before the end of the walk, when the queue is
    /// [cleared](TicketQueue::clear).
    #[inline]
    pub(crate) fn walk(&mut self, walk: &mut Walk) -> Option<&mut T> {
        while self.places.get(walk.place)?.1.is_none() {
            walk.place += 1;
        }
        (walk.place, walk.seen) = (walk.place + 1, walk.seen + 1);
        self.places[walk.place - 1].1.as_mut()
    }

    /// Whether a walk has come to the end.
    pub(crate) fn is_walked(&self, walk: &Walk) -> bool {
        walk.seen == self.len
    }

    /// Drops all that waits. Its tickets do not come again.
    pub(crate) fn clear(&mut self) {
        self.places.clear();
        self.len = 0;
    }

    /// Takes what has this ticket, wherever it is; `None` if it has left.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let at = self.places.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()?;
        let it = self.places[at].1.take()?;
        self.left();
        Some(it)
    }

    fn left(&mut self) {
        self.len -= 1;
        if self.len == 0 {
            self.places.clear();
        } else if self.places.len() > 2 * self.len + FEW {
            self.places.retain(|(_, place)| place.is_some());
        }
    }

    /// This empty queue's tickets go on where those of `other` end.
    pub(crate) fn go_on_after(&mut self, other: &TicketQueue<T>) {
        debug_assert!(self.is_empty());
        self.next = other.next;
    }

    /// How many places it has memory for.
    pub(crate) fn capacity(&self) -> usize {
        self.places.capacity()
    }

    /// Gives memory back for all but so many places, and those that are used.
    pub(crate) fn shrink_to(&mut self, places: usize) {
        self.places.shrink_to(places);
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All that waits, with its tickets.
    #[cfg(feature = "testing")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ticket, &T)> {
        self.places.iter().filter_map(|(ticket, it)| Some((*ticket, it.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push<T>(queue: &mut TicketQueue<T>, it: T) -> Ticket {
        let ticket = queue.next_ticket();
        queue.push(it);
        ticket
    }

    #[test]
    fn they_leave_by_turn_or_before_it() {
        let mut queue = TicketQueue::default();
        let tickets: Vec<_> = (0..5).map(|n| push(&mut queue, n)).collect();
        assert_eq!(queue.remove(tickets[3]), Some(3));
        assert_eq!(queue.remove(tickets[3]), None, "once");
        assert_eq!([queue.pop(), queue.pop()], [Some(0), Some(1)]);
        assert_eq!(queue.remove(tickets[0]), None, "its turn has come");
        queue.push(7);
        assert_eq!([queue.pop(), queue.pop(), queue.pop(), queue.pop()], [Some(2), Some(4), Some(7), None]);
        assert!(queue.is_empty());
        assert!(!tickets.contains(&queue.next_ticket()), "no ticket comes twice, not even from an empty queue");
    }

    #[test]
    fn a_queue_goes_on_after_another() {
        let (mut queue, mut next) = (TicketQueue::default(), TicketQueue::default());
        let first = push(&mut queue, 1);
        next.go_on_after(&queue);
        let second = push(&mut next, 2);
        assert_eq!((next.remove(first), queue.remove(second)), (None, None), "each waits in the other one");
        assert_eq!((queue.remove(first), next.remove(second)), (Some(1), Some(2)));
    }

    /// A queue that does not move, with one that stays and others that give up, stays as small as what waits in it: whether each gives
    /// up before the next one comes, or a few later.
    #[test]
    fn gaps_do_not_add_up() {
        for later in [0, 1, 10] {
            let mut queue = TicketQueue::default();
            let stays = push(&mut queue, 9);
            let mut waiting = VecDeque::new();
            for n in 0..10_000 {
                waiting.push_back(push(&mut queue, n));
                if waiting.len() > later {
                    assert!(queue.remove(waiting.pop_front().unwrap()).is_some());
                }
                let places = queue.places.len();
                assert!(places <= 2 * queue.len() + FEW, "{places} places for {}", queue.len());
            }
            assert_eq!(queue.remove(stays), Some(9), "it has kept its place");
        }
    }
}
