//! The one error of this crate: a place in an IDL file, when there is one, and a sentence.

use std::fmt;

/// Why no code was generated. Shown as `file:line:column: sentence`, in `Display` and in `Debug` alike,
/// because a `build.rs` that returns it from `main` prints the latter.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    place: Option<Place>,
    message: String,
}

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A position in an IDL file; line and column count from 1 and are absent when only the file is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) position: Option<(usize, usize)>,
}

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Error { place: None, message: message.into() }
    }

    pub(crate) fn at(place: Place, message: impl Into<String>) -> Self {
        Error { place: Some(place), message: message.into() }
    }

    /// The IDL file at fault, as a path that can be opened from the directory the generator ran in.
    pub fn file(&self) -> Option<&str> {
        self.place.as_ref().map(|place| place.file.as_str())
    }

    /// Line and column in [`file`](Error::file), both counted from 1.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.place.as_ref()?.position
    }

    /// What is wrong and what to do about it, without the position.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl Place {
    pub(crate) fn file(file: impl Into<String>) -> Self {
        Place { file: file.into(), position: None }
    }

    pub(crate) fn in_source(file: &str, source: &str, offset: usize) -> Self {
        let before = &source[..offset];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        Place { file: file.to_owned(), position: Some((line, column)) }
    }

    /// The file and the line, for messages whose readers jump to lines.
    pub(crate) fn line(&self) -> String {
        match self.position {
            Some((line, _)) => format!("{}:{line}", self.file),
            None => self.file.clone(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some((line, column)) => write!(f, "{}:{line}:{column}", self.file),
            None => f.write_str(&self.file),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}
