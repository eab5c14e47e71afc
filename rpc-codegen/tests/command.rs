//! The command, and the library as a build script calls it, where no `protoc` can be found.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("command").join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn without_protoc(program: impl AsRef<Path>, directory: &Path) -> Command {
    let mut command = Command::new(program.as_ref());
    command.current_dir(directory).env("PROTOC", "/nonexistent").env("PATH", "");
    command
}

fn run(directory: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    shown(without_protoc(env!("CARGO_BIN_EXE_rpc-codegen"), directory).args(args).output().unwrap())
}

fn shown(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

const STREAMING: &str = "syntax = \"proto3\";\npackage p;\nmessage A {}\nservice S {\n  rpc One(A) returns (A);\n  rpc Many(A) returns (stream A);\n}\n";

#[test]
fn the_command_needs_no_protoc() {
    let directory = directory("no_protoc");
    fs::write(directory.join("s.proto"), STREAMING).unwrap();
    let (code, out, err) = run(&directory, &["gen", "s.proto"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("pub trait S:") && out.contains("fn one("), "{out}");
    // Streaming methods are left out, said so here and in the documentation.
    assert_eq!(err, "warning: s.proto:6: S.Many: streaming is not supported yet\n");
    assert!(!out.contains("many("), "{out}");
    assert_eq!(out.matches("/// Left out: `Many`; streaming is not supported yet.").count(), 2, "{out}");
}

#[test]
fn the_command_writes_and_checks() {
    let directory = directory("check");
    fs::write(directory.join("a.proto"), "syntax = \"proto3\"; message A {}").unwrap();
    let check = ["gen", "--check", "--out=a.rs", "a.proto"];
    assert_eq!(
        run(&directory, &check),
        (Some(1), String::new(), "error: a.rs is not up to date; run the same command without --check\n".to_owned())
    );
    assert_eq!(run(&directory, &["gen", "-o", "a.rs", "a.proto"]), (Some(0), String::new(), String::new()));
    assert_eq!(run(&directory, &check), (Some(0), String::new(), String::new()));
    assert!(fs::read_to_string(directory.join("a.rs")).unwrap().contains("pub struct A {}"));
}

#[test]
#[rustfmt::skip]
fn the_command_says_what_is_wrong() {
    let directory = directory("wrong");
    fs::write(directory.join("bad.proto"), "message A {\n  int32\n}\n").unwrap();
    let check = |args: &[&str], code: i32, expected: &str| {
        let (was, _, err) = run(&directory, args);
        assert_eq!((was, err.lines().next().unwrap_or("")), (Some(code), expected), "{args:?}");
    };
    check(&["gen", "bad.proto"],                    1, "error: bad.proto:3:1: expected an identifier, but found '}'");
    check(&["gen"],                                 2, "error: no .proto file was given");
    check(&["gen", "-I"],                           2, "error: `-I` needs a directory");
    check(&["gen", "--what", "a.proto"],            2, "error: `--what` is not an option");
    check(&["gen", "--check", "a.proto"],           2, "error: `--check` needs the file to compare with: add `--out FILE`");
    check(&[],                                      2, "error: a command is missing: `gen`");
    check(&["generate"],                            2, "error: `generate` is not a command; the one there is is `gen`");
    check(&["--help"],                              0, "");
    assert!(run(&directory, &["gen", "--help"]).1.contains("Usage: rpc-codegen gen"));
}

/// Not a test by itself: the test below runs it as Cargo would run a `build.rs`.
#[test]
fn build_script() {
    if env::var_os("OUT_DIR").is_none() || env::var_os("AS_BUILD_SCRIPT").is_none() {
        return;
    }
    rpc_codegen::compile("idl/s.proto").unwrap();
    println!("second: {}", rpc_codegen::compile(["idl/s.proto"]).unwrap_err());
}

#[test]
fn a_build_script_needs_no_protoc_and_tells_cargo() {
    let directory = directory("build_script");
    fs::create_dir_all(directory.join("idl")).unwrap();
    fs::write(directory.join("idl/s.proto"), STREAMING.replace("package p;", "package p; import \"t.proto\";"))
        .unwrap();
    fs::write(directory.join("idl/t.proto"), "message T {}").unwrap();
    let mut script = without_protoc(env::current_exe().unwrap(), &directory);
    script
        .args(["--exact", "build_script", "--nocapture"])
        .env("OUT_DIR", directory.join("out"))
        .env("AS_BUILD_SCRIPT", "1");
    let (code, out, err) = shown(script.output().unwrap());
    assert_eq!(code, Some(0), "{out}{err}");
    let directives: Vec<&str> =
        out.lines().filter_map(|line| line.split_once("cargo:").map(|(_, directive)| directive)).collect();
    assert_eq!(
        directives,
        [
            "rerun-if-changed=idl/s.proto",
            "rerun-if-changed=idl/t.proto",
            "warning=idl/s.proto:6: S.Many: streaming is not supported yet"
        ]
    );
    assert!(out.contains("second: ") && out.contains("call rpc_codegen::compile once"), "{out}");
    assert!(fs::read_to_string(directory.join("out/rpc_idl.rs")).unwrap().contains("pub trait S:"));
}
