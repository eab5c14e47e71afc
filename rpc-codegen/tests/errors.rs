//! What is wrong in an IDL, and what the error says about it.

use std::fs;
use std::path::{Path, PathBuf};

use rpc_codegen::Builder;

/// A directory of this test's own.
fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("errors").join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Generates from `x.proto` with this text; `⏎` in `idl` ends a line, `‹dir›` in the outcome stands for the directory.
fn outcome(directory: &Path, idl: &str) -> String {
    let file = directory.join("x.proto");
    fs::write(&file, idl.replace('⏎', "\n")).unwrap();
    match Builder::new().generate(&file) {
        Ok(_) => "no error".to_owned(),
        Err(error) => error
            .to_string()
            .replace(&format!("{}/", directory.display()), "")
            .replace(&directory.display().to_string(), "‹dir›"),
    }
}

#[test]
#[rustfmt::skip]
fn errors_name_the_place_the_thing_and_the_remedy() {
    let directory = directory("table");
    let check = |idl: &str, expected: &str| assert_eq!(outcome(&directory, idl), expected, "\nfrom {idl}");
    let body = |text: &str| format!("syntax = \"proto3\";⏎package p;⏎message A {{}}⏎{text}");
    let check_body = |text: &str, expected: &str| check(&body(text), expected);

    // The language.
    check_body("message B { int32 }",                   "x.proto:4:19: expected an identifier, but found '}'");
    check_body("message B {",                           "x.proto:4:12: expected a message field, oneof, reserved range, enum, message, option or '}', but reached end of file; a `}` or `;` may be missing further up");
    check_body("package q;",                            "x.proto:4:1: multiple package names specified; keep one `package` line");
    check("syntax = \"proto4\";",                       "x.proto:1:10: unknown syntax 'proto4'; write \"proto3\" or \"proto2\"");
    check("// New.⏎edition = \"2023\";⏎package p;",     "x.proto:2:1: edition \"2023\" is not supported; write `syntax = \"proto3\";` instead");

    // Lines and columns are those of an editor: a carriage return alone ends no line, a character is one column.
    check_body("// a\rb⏎message B { int32 }",            "x.proto:5:19: expected an identifier, but found '}'");
    check_body("// a\r⏎message B { int32 }\r",           "x.proto:5:19: expected an identifier, but found '}'");
    check_body("message B { /* é€ */ int32 }",           "x.proto:4:28: expected an identifier, but found '}'");
    check_body("/* é\r */ message B { C c = 1; }",       "x.proto:4:22: name 'C' is not defined; check its spelling, or import the file that defines it");

    // Names that mean nothing, or two things.
    check_body("message B { C c = 1; }",                "x.proto:4:13: name 'C' is not defined; check its spelling, or import the file that defines it");
    check_body("import \"no/y.proto\";",                "x.proto:4:1: import \"no/y.proto\" was not found in ‹dir›, .; name its directory with Builder::include or -I");
    check_body("import \"x.proto\";",                   "x.proto:4:1: import \"x.proto\" closes a circle: x.proto → x.proto; move what both need into a file of its own");
    check_body("service S {}⏎service S {}",             "x.proto:5:9: name 'p.S' is defined twice; rename or remove one of the two");
    check_body("message A {}",                          "x.proto:4:9: name 'p.A' is defined twice; rename or remove one of the two");
    check_body("service S { rpc F(A) returns (A);⏎rpc F(A) returns (A); }",
                                                        "x.proto:5:5: name 'p.S.F' is defined twice; rename or remove one of the two");
    check_body("enum E { N = 0; } service S { rpc F(E) returns (A); }",
                                                        "x.proto:4:37: 'p.E' is not a message type");

    // Names that are the same in Rust.
    check_body("message SClient {}⏎service S {}",       "x.proto:5:9: the client of service `p.S` and message `p.SClient` (x.proto:4:9) are both `SClient` in Rust; rename one of the two");
    check_body("service S {}⏎service SServer {}",       "x.proto:5:9: service `p.SServer` and the server of service `p.S` (x.proto:4:9) are both `SServer` in Rust; rename one of the two");
    check_body("service s {}⏎service S {}",             "x.proto:5:9: service `p.S` and service `p.s` (x.proto:4:9) are both `S` in Rust; rename one of the two");
    check_body("message foo_bar {}⏎message FooBar {}",  "x.proto:5:9: message `p.FooBar` and message `p.foo_bar` (x.proto:4:9) are both `FooBar` in Rust; rename one of the two");
    check_body("service S { rpc GetA(A) returns (A);⏎rpc get_a(A) returns (A); }",
                                                        "x.proto:5:5: method `p.S.get_a` and method `p.S.GetA` (x.proto:4:17) are both `get_a` in Rust; rename one of the two");
    check_body("service S { rpc New(A) returns (A);⏎rpc new_(A) returns (A); }",
                                                        "x.proto:5:5: method `p.S.new_` and method `p.S.New` (x.proto:4:17) are both `new_` in Rust; rename one of the two");
    check_body("enum E { A_B = 0; AB = 1; a_b = 2; }",  "x.proto:4:27: value `p.E.a_b` and value `p.E.A_B` (x.proto:4:10) are both `AB` in Rust; rename one of the two");
    check_body("message B { oneof v { A a = 1; } A V = 2; }",
                                                        "x.proto:4:19: oneof `p.B.v` and field `p.B.V` (x.proto:4:36) are both `v` in Rust; rename one of the two");
    check_body("message _ {}",                          "x.proto:4:9: message `p._` has no letter or digit in its name; Rust needs one, rename it");

    // What is no error.
    check_body("service S { rpc New(A) returns (A); rpc Clone(A) returns (A); rpc Connect(A) returns (A); }", "no error");
    check("",                                           "no error");
}

#[test]
fn unreadable_files_are_named() {
    let directory = directory("unreadable");
    let error = |path: &Path| Builder::new().generate(path).unwrap_err().to_string();

    let missing = error(&directory.join("missing.proto"));
    assert!(missing.contains("missing.proto: the file cannot be read: No such file"), "{missing}");
    let is_directory = error(&directory);
    assert!(is_directory.contains("the file cannot be read: Is a directory"), "{is_directory}");
    let latin = directory.join("latin.proto");
    fs::write(&latin, b"// one\n// caf\xe9\n").unwrap();
    assert!(error(&latin).contains("latin.proto:2:7: the file is not UTF-8 from here on"), "{}", error(&latin));
    let none: [&str; 0] = [];
    assert_eq!(Builder::new().generate(none).unwrap_err().to_string(), "no .proto file was given; name at least one");
}

#[test]
fn an_import_is_found_beside_the_file_and_below_an_include() {
    let directory = directory("imports");
    fs::create_dir_all(directory.join("idl/deep")).unwrap();
    fs::write(directory.join("idl/y.proto"), "message Y {}").unwrap();
    fs::write(directory.join("idl/x.proto"), "import 'y.proto'; message X { optional Y y = 1; }").unwrap();
    fs::write(directory.join("idl/z.proto"), "import 'idl/y.proto'; message Z { optional Y y = 1; }").unwrap();

    // One file under two names is still one file.
    let both = Builder::new()
        .include(&directory)
        .generate([directory.join("idl/x.proto"), directory.join("idl/z.proto")])
        .unwrap();
    assert_eq!(both.code.matches("pub struct").count(), 3, "{}", both.code);
    assert_eq!(both.files.len(), 3);
}

#[test]
fn a_second_call_for_the_same_file_is_an_error() {
    let directory = directory("twice");
    fs::write(directory.join("a.proto"), "message A {}").unwrap();
    let builder = Builder::new().out_file(directory.join("out.rs"));
    builder.clone().compile(directory.join("a.proto")).unwrap();
    let error = builder.compile(directory.join("a.proto")).unwrap_err().to_string();
    assert!(
        error.ends_with("call rpc_codegen::compile once, with all .proto files: compile([\"a.proto\", \"b.proto\"])"),
        "{error}"
    );
}
