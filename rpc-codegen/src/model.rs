//! What the emitter sees: our own few nouns, never a type of protobuf.
//!
//! Everything here is checked: names are valid Rust, no two of a module are the same, types are paths as
//! written from the module they appear in.

use std::collections::BTreeMap;

/// A Rust module: one protobuf package, or a step on the way to one. The root is the generated file.
#[derive(Debug, Default)]
pub(crate) struct Module {
    pub(crate) docs: Vec<String>,
    /// Rust text of the messages and enums, from `prost-build`.
    pub(crate) messages: String,
    pub(crate) services: Vec<Service>,
    pub(crate) children: BTreeMap<String, Module>,
}

#[derive(Debug)]
pub(crate) struct Service {
    /// The trait; server and client add a word to it.
    pub(crate) name: String,
    /// As in the IDL and on the wire.
    pub(crate) idl_name: String,
    pub(crate) package: String,
    pub(crate) docs: Vec<String>,
    pub(crate) methods: Vec<Method>,
    /// IDL names of the streaming methods.
    pub(crate) left_out: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) name: String,
    /// As in the IDL and on the wire.
    pub(crate) idl_name: String,
    pub(crate) docs: Vec<String>,
    pub(crate) deprecated: bool,
    pub(crate) request: String,
    pub(crate) reply: String,
}

impl Module {
    /// The module at `path`, made if it is not there.
    pub(crate) fn at<'a>(&mut self, path: impl IntoIterator<Item = &'a str>) -> &mut Module {
        path.into_iter().fold(self, |module, name| module.children.entry(name.to_owned()).or_default())
    }
}
