//! Turns `.proto` files into messages, server traits and typed clients for `rpc-core`, at build time and without `protoc`.
//!
//! ```no_run
//! // build.rs
//! fn main() -> rpc_codegen::Result<()> {
//!     rpc_codegen::compile("idl/hello.proto")
//! }
//! ```
//!
//! The code is put into one file, which `rpc_core::include_idl!()` includes. Its modules are the protobuf packages:
//! with `mod idl { rpc_core::include_idl!(); }`, `package shop.v1` is `idl::shop::v1`; a file without a package is `idl` itself.
//!
//! * A service `Greeter` is a trait `Greeter`, a `GreeterServer` that serves it, and a `GreeterClient` that calls it.
//! * Messages are prost's, `bytes` fields are `Bytes`; both come from `rpc_core`, a user needs no `prost`.
//!   `google.protobuf` is not generated: it is `rpc_core::codegen::prost_types`, `Empty` is `()`, `StringValue` a `String` and so on.
//! * Names become Rust's: `SayHello` is `say_hello`, `Type` is `r#type`. A method `New`, `Connect` or `Clone` gets an
//!   underscore at its end, because every client has those. On the wire the names are those of the IDL.
//! * Comments become documentation, escaped such that `cargo doc` does not warn and no example runs as a test.
//! * Streaming methods are left out, with a warning and a line in the documentation.
//!
//! ```text
//!  files ──► descriptor ──► lower ──► model ──► emit ──► write ──► rpc_idl.rs
//!            protox, linked  checks   messages: prost-build
//! ```
//!
//! Only the first and the last step touch files. Nothing here knows what a connection is.
#![forbid(unsafe_code)]

mod descriptor;
mod doc;
mod emit;
mod error;
mod lower;
mod messages;
mod model;
mod naming;
mod write;

use std::env;
use std::path::{Path, PathBuf};

pub use error::{Error, Result};

/// The file in `OUT_DIR` that [`compile`] writes and `rpc_core::include_idl!()` reads.
pub const OUT_FILE: &str = "rpc_idl.rs";

/// Generates code for `files` into `$OUT_DIR/rpc_idl.rs`: all that most build scripts need.
///
/// `files` is one path or a list of them, relative to the package. An import is looked up beside each of the files and then in the
/// current directory; [`Builder::include`] adds directories. Imported files give messages, not services.
/// Cargo runs the build script again when one of the files, or one that they import, changes.
///
/// # Errors
///
/// When a file cannot be read, parsed or linked, when two names of the IDL become the same in Rust, when `OUT_DIR` is
/// not set, and when it is called twice in one build script. Errors in a file start with `file:line:column`.
pub fn compile(files: impl Files) -> Result<()> {
    Builder::new().compile(files)
}

/// [`compile`] with settings.
///
/// ```no_run
/// # fn main() -> rpc_codegen::Result<()> {
/// rpc_codegen::Builder::new().include("third_party").compile(["idl/shop.proto", "idl/stock.proto"])
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    includes: Vec<PathBuf>,
    out_file: Option<PathBuf>,
}

impl Builder {
    /// The settings of [`compile`].
    pub fn new() -> Self {
        Builder::default()
    }

    /// Looks imports up in `directory`, too: before the defaults, and after those named earlier.
    pub fn include(mut self, directory: impl AsRef<Path>) -> Self {
        self.includes.push(directory.as_ref().to_owned());
        self
    }

    /// Writes to `file`, for code that is checked in. Default `$OUT_DIR/rpc_idl.rs`.
    pub fn out_file(mut self, file: impl AsRef<Path>) -> Self {
        self.out_file = Some(file.as_ref().to_owned());
        self
    }

    /// Generates and writes the code, and tells Cargo on standard output what to watch and what was left out.
    ///
    /// A file that is right already is not touched.
    ///
    /// # Errors
    ///
    /// Those of [`compile`].
    pub fn compile(self, files: impl Files) -> Result<()> {
        let out_file = match &self.out_file {
            Some(file) => file.clone(),
            None => match env::var_os("OUT_DIR") {
                Some(directory) => Path::new(&directory).join(OUT_FILE),
                None => {
                    return Err(Error::new(
                        "OUT_DIR is not set: compile is for build.rs; elsewhere set Builder::out_file or run `rpc-codegen gen`",
                    ));
                }
            },
        };
        let generated = self.generate(files)?;
        write::write(&out_file, &generated.code)?;
        for file in &generated.files {
            println!("cargo:rerun-if-changed={}", file.display());
        }
        for warning in &generated.warnings {
            println!("cargo:warning={warning}");
        }
        Ok(())
    }

    /// Generates the code and writes nothing.
    ///
    /// # Errors
    ///
    /// Those of [`compile`] that are about the IDL.
    pub fn generate(&self, files: impl Files) -> Result<Generated> {
        let descriptors = descriptor::load(&files.paths(), &self.includes)?;
        let (mut root, left_out) = lower::lower(&descriptors)?;
        messages::add(descriptors.files, &mut root)?;
        let file = emit::file(&root).map_err(|error| {
            Error::new(format!("the generated code is not Rust ({error}); this is a fault of rpc-codegen, please report it with the .proto files"))
        })?;
        let warnings = left_out
            .iter()
            .map(|left_out| format!("{}: {}: streaming is not supported yet", left_out.place.line(), left_out.method));
        Ok(Generated { code: write::format(&file), warnings: warnings.collect(), files: descriptors.read })
    }
}

/// What [`Builder::generate`] returns.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Generated {
    /// The Rust code: items, for a module of their own.
    pub code: String,
    /// What was left out, each as `file:line: Service.Method: why`.
    pub warnings: Vec<String>,
    /// All files that were read, imports among them.
    pub files: Vec<PathBuf>,
}

/// One path or several: what [`compile`] takes.
pub trait Files {
    /// The paths, in order.
    fn paths(&self) -> Vec<PathBuf>;
}

macro_rules! one_file {
    ($($path:ty),*) => {$(
        impl Files for $path {
            fn paths(&self) -> Vec<PathBuf> {
                vec![PathBuf::from(self)]
            }
        }
    )*};
}

one_file!(&str, &String, String, &Path, &PathBuf, PathBuf);

impl<P: AsRef<Path>> Files for Vec<P> {
    fn paths(&self) -> Vec<PathBuf> {
        self.as_slice().paths()
    }
}

impl<P: AsRef<Path>, const N: usize> Files for [P; N] {
    fn paths(&self) -> Vec<PathBuf> {
        self.as_slice().paths()
    }
}

impl<P: AsRef<Path>> Files for &[P] {
    fn paths(&self) -> Vec<PathBuf> {
        self.iter().map(|path| path.as_ref().to_owned()).collect()
    }
}

impl<P: AsRef<Path>> Files for &Vec<P> {
    fn paths(&self) -> Vec<PathBuf> {
        self.as_slice().paths()
    }
}

impl<P: AsRef<Path>, const N: usize> Files for &[P; N] {
    fn paths(&self) -> Vec<PathBuf> {
        self.as_slice().paths()
    }
}
