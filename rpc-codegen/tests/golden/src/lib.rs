//! Generated code, compiled.
