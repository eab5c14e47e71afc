//! Whole generated files against what is committed in `golden/expected`, which the crate `golden` compiles.

use std::path::Path;
use std::{env, fs};

use rpc_codegen::Builder;

/// The name of the expected file, and the `.proto` files it comes from.
#[rustfmt::skip]
const SETS: &[(&str, &[&str])] = &[
    ("hello",      &["../idl/hello.proto"]),
    ("testee",     &["../idl/testee.proto"]),
    ("everything", &["tests/golden/idl/everything.proto"]),
    ("names",      &["tests/golden/idl/names.proto", "tests/golden/idl/generic.proto"]),
    ("root",       &["tests/golden/idl/root.proto"]),
    ("shared",     &["tests/golden/idl/shared.proto", "tests/golden/idl/shared_order.proto"]),
    ("legacy",     &["tests/golden/idl/legacy.proto"]),
];

#[test]
fn generated_code_is_as_committed() {
    let update = env::var_os("UPDATE_GOLDEN").is_some_and(|value| value != "0");
    let mut differing = Vec::new();
    for (name, files) in SETS {
        let path = format!("tests/golden/expected/{name}.rs");
        let generated = Builder::new().generate(files.to_vec()).unwrap().code;
        if fs::read_to_string(&path).is_ok_and(|expected| expected == generated) {
            continue;
        }
        match update {
            true => fs::write(&path, generated).unwrap(),
            false => differing.push(format!("rpc-codegen/{path}: {}", first_difference(Path::new(&path), &generated))),
        }
    }
    assert!(
        differing.is_empty(),
        "{}\nIf that is meant: UPDATE_GOLDEN=1 cargo test -p rpc-codegen, and look at the diff before committing it.",
        differing.join("\n")
    );
}

#[test]
fn order_of_files_does_not_matter() {
    let one =
        Builder::new().generate(["tests/golden/idl/shared.proto", "tests/golden/idl/shared_order.proto"]).unwrap();
    let other =
        Builder::new().generate(["tests/golden/idl/shared_order.proto", "tests/golden/idl/shared.proto"]).unwrap();
    assert_eq!(one.code, other.code);
}

fn first_difference(expected: &Path, generated: &str) -> String {
    let Ok(expected) = fs::read_to_string(expected) else {
        return "is missing".to_owned();
    };
    let line =
        expected.lines().zip(generated.lines()).take_while(|(expected, generated)| expected == generated).count();
    let show = |text: &str| text.lines().nth(line).unwrap_or("(end)").trim().to_owned();
    format!("line {} is now `{}`, was `{}`", line + 1, show(generated), show(&expected))
}
