//! IDL text: code or an error with its place, never a panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rpc_codegen::Builder;

use crate::{meter, reach};

/// What an error says that is not the input's.
const FAULT: &str = "this is a fault of rpc-codegen";

/// The generator: any text of a `.proto` file becomes Rust that parses, or an error that says where and why.
pub fn idl(data: &[u8]) {
    let path = file();
    fs::write(path, data).expect("a file in the directory for temporary ones");
    let generated = meter::generating(data.len(), || Builder::new().generate(path));
    reach::note("rpc-codegen/src/lib.rs", "generate", &generated);
    match generated {
        Ok(generated) => {
            assert!(generated.code.starts_with("// @generated"));
            assert_eq!(generated.files.first().map(PathBuf::as_path), Some(path));
        }
        Err(error) => {
            assert!(!error.message().is_empty());
            // The words may be the input's own, which an error quotes: the fuzzer finds them in the comparison.
            let said = |text: &str| text.contains(FAULT);
            assert!(!said(error.message()) || said(&String::from_utf8_lossy(data)), "{error}");
            assert!(error.file().is_some(), "no file: {error}");
            let (line, column) = error.position().unwrap_or_else(|| panic!("no position: {error}"));
            let text = String::from_utf8_lossy(data);
            let lines = text.split('\n').count();
            assert!((1..=lines).contains(&line), "line {line} of {lines}: {error}");
            let there = text.split('\n').nth(line - 1).unwrap_or_default();
            let columns = there.chars().count() + 1;
            assert!((1..=columns).contains(&column), "column {column} of {columns}: {error}");
        }
    }
}

/// A file of this thread, written again for each input.
fn file() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    thread_local! {
        static FILE: &'static Path = {
            let directory = DIRECTORY.get_or_init(|| {
                let directory = std::env::temp_dir().join(format!("rpc-fuzz-idl-{}", std::process::id()));
                fs::create_dir_all(&directory).expect("a directory for temporary files");
                directory
            });
            let name = format!("{:?}.proto", std::thread::current().id()).replace(['(', ')'], "");
            Box::leak(directory.join(name).into_boxed_path())
        };
    }
    FILE.with(|file| *file)
}
