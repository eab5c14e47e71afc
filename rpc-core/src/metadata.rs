//! [`Metadata`]: the pairs that travel beside a message.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// Pairs of bytes; a key occurs once, and the last value given to it wins.
///
/// Empty metadata owns no memory. A clone shares the pairs until one of the two is changed. Lookup is a scan: a call carries a handful.
#[derive(Clone, Default)]
pub struct Metadata {
    pairs: Option<Arc<Vec<(Bytes, Bytes)>>>,
}

impl Metadata {
    /// No pairs; does not allocate.
    pub const fn new() -> Metadata {
        Metadata { pairs: None }
    }

    /// Sets `key` to `value` and returns the value it had. A pair with an empty key or an empty value does not travel.
    pub fn insert(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Option<Bytes> {
        let (key, value) = (key.into(), value.into());
        let pairs = Arc::make_mut(self.pairs.get_or_insert_default());
        match pairs.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => Some(std::mem::replace(known, value)),
            None => {
                pairs.push((key, value));
                None
            }
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<&[u8]> {
        let key = key.as_ref();
        self.pairs().iter().find(|(known, _)| known == key).map(|(_, value)| value.as_ref())
    }

    /// The value of `key` as text; `None` when there is none or it is not UTF-8.
    pub fn text(&self, key: impl AsRef<[u8]>) -> Option<&str> {
        std::str::from_utf8(self.get(key)?).ok()
    }

    /// Removes `key` and returns its value.
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> Option<Bytes> {
        let at = self.pairs().iter().position(|(known, _)| known == key.as_ref())?;
        let pairs = Arc::make_mut(self.pairs.as_mut()?);
        Some(pairs.remove(at).1)
    }

    /// All pairs, in the order their keys first came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.pairs().iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs().len()
    }

    /// Whether there is no pair.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pairs().is_empty()
    }

    /// Removes all pairs; other clones keep theirs.
    pub fn clear(&mut self) {
        self.pairs = None;
    }

    #[inline]
    pub(crate) fn pairs(&self) -> &[(Bytes, Bytes)] {
        self.pairs.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Bytes of memory that the list of pairs has, without what the pairs refer to.
    pub(crate) fn list_memory(&self) -> usize {
        self.pairs.as_ref().map_or(0, |pairs| pairs.capacity() * size_of::<(Bytes, Bytes)>())
    }

    /// Makes metadata of pairs in which keys may repeat, in time linear in their number.
    pub(crate) fn from_repeating(mut pairs: Vec<(Bytes, Bytes)>) -> Metadata {
        if pairs.is_empty() {
            return Metadata::new();
        }
        let mut seen = HashSet::with_capacity(pairs.len());
        pairs.reverse(); // the last value of a key is now the first
        pairs.retain(|(key, _)| seen.insert(key.clone()));
        pairs.reverse();
        Metadata { pairs: Some(Arc::new(pairs)) }
    }
}

/// The same pairs, in whatever order.
impl PartialEq for Metadata {
    fn eq(&self, other: &Metadata) -> bool {
        self.len() == other.len() && self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl Eq for Metadata {}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_map().entries(self.iter().map(|(key, value)| (text(key), text(value)))).finish()
    }
}

impl<K: Into<Bytes>, V: Into<Bytes>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Metadata {
        Metadata::from_repeating(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl<K: Into<Bytes>, V: Into<Bytes>> Extend<(K, V)> for Metadata {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        for (key, value) in pairs {
            self.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_wins() {
        let mut metadata = Metadata::new();
        assert!(metadata.is_empty() && metadata.get("k").is_none());
        assert_eq!(metadata.insert("k", "1"), None);
        assert_eq!(metadata.insert("k", "2").as_deref(), Some(&b"1"[..]));
        metadata.insert("raw", vec![0xff]);
        assert_eq!((metadata.text("k"), metadata.text("raw"), metadata.len()), (Some("2"), None, 2));
        let repeating: Metadata = [("a", "1"), ("b", "2"), ("a", "3")].into_iter().collect();
        assert_eq!(repeating, [("a", "3"), ("b", "2")].into_iter().collect());
    }

    #[test]
    fn a_clone_is_shared_until_it_changes() {
        let mut one: Metadata = [("a", "1")].into_iter().collect();
        let two = one.clone();
        assert_eq!(one.get("a").unwrap().as_ptr(), two.get("a").unwrap().as_ptr());
        assert_eq!(one.remove("a").as_deref(), Some(&b"1"[..]));
        assert_eq!((one.len(), two.len()), (0, 1));
        assert_eq!(one.remove("a"), None);
    }
}
