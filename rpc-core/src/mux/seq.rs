//! The id of a call on its connection: a slot and a version, in TTHeader's 32-bit sequence number.

/// Slots a connection can have: 17 bits.
pub(crate) const MAX_SLOTS: usize = 1 << SLOT_BITS;

const SLOT_BITS: u32 = 17;
const VERSIONS: u32 = 1 << (32 - SLOT_BITS);

/// ```text
///   31            17 16             0
///   │ version, 1…  │ slot           │     0 is reserved by the protocol: a version is never 0
/// ```
///
/// A version alone does not survive wrap-around; `Pending` therefore keeps an abandoned slot occupied, and reuses free slots first
/// in, first out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SeqId(u32);

impl SeqId {
    pub(crate) fn new(slot: usize, version: u32) -> SeqId {
        debug_assert!(slot < MAX_SLOTS && (1..VERSIONS).contains(&version));
        SeqId(version << SLOT_BITS | slot as u32)
    }

    pub(crate) fn from_wire(seq: i32) -> SeqId {
        SeqId(seq as u32)
    }

    pub(crate) fn to_wire(self) -> i32 {
        self.0 as i32
    }

    pub(crate) fn slot(self) -> usize {
        (self.0 & (MAX_SLOTS as u32 - 1)) as usize
    }

    pub(crate) fn version(self) -> u32 {
        self.0 >> SLOT_BITS
    }

    /// The version after this one; it skips 0.
    pub(crate) fn next_version(version: u32) -> u32 {
        if version + 1 == VERSIONS { 1 } else { version + 1 }
    }

    /// What stands in a slot that never had a call: its first version follows it.
    pub(crate) fn before_first() -> u32 {
        #[cfg(feature = "testing")]
        return near_wrap::BEFORE_FIRST.get();
        #[cfg(not(feature = "testing"))]
        0
    }
}

/// Lets a test begin where ids come round.
#[cfg(feature = "testing")]
mod near_wrap {
    use std::cell::Cell;

    thread_local! {
        pub(super) static BEFORE_FIRST: Cell<u32> = const { Cell::new(0) };
    }

    /// From now on the ids of this thread's new connections come round after that many uses of a slot.
    pub fn wrap_ids_after(uses: u32) {
        BEFORE_FIRST.set(super::VERSIONS - 1 - uses.min(super::VERSIONS - 2));
    }
}

#[cfg(feature = "testing")]
pub use near_wrap::wrap_ids_after;

#[cfg(test)]
mod tests {
    use super::*;

    /// T10: ids at the wrap skip 0.
    #[test]
    fn versions_wrap_and_ids_are_never_zero() {
        let mut version = VERSIONS - 2;
        for expected in [VERSIONS - 1, 1, 2] {
            version = SeqId::next_version(version);
            assert_eq!(version, expected);
            assert_ne!(SeqId::new(0, version).to_wire(), 0);
        }
        let id = SeqId::new(MAX_SLOTS - 1, VERSIONS - 1);
        assert_eq!(id.to_wire(), -1);
        assert_eq!(SeqId::from_wire(-1), id);
        assert_eq!((id.slot(), id.version()), (MAX_SLOTS - 1, VERSIONS - 1));
    }
}
