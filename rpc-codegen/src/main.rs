//! `rpc-codegen gen`: the build script's work as a command, for those who check generated code in.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

use rpc_codegen::Builder;

const HELP: &str = "\
Turns .proto files into messages, server traits and typed clients for rpc-core. Needs no protoc.

Usage: rpc-codegen gen [OPTIONS] FILE.proto...

Options:
  -I, --include DIR  Look imports up in DIR, too; may be repeated. Beside the files and in
                     the current directory they are always found.
  -o, --out FILE     Write the code to FILE. Default: standard output.
      --check        Write nothing; fail if FILE of --out is not what would be written.
  -h, --help         Show this.
  -V, --version      Show the version.

Include the file as a module of its own: mod idl { include!(\"rpc_idl.rs\"); }
Errors are shown as file:line:column. The exit code is 0, 1 when the code could not be
generated or differs, or 2 when the command line is wrong.
";

fn main() -> ExitCode {
    let task = match parse(env::args().skip(1)) {
        Ok(task) => task,
        Err(message) => {
            eprintln!("error: {message}\nTry `rpc-codegen --help`.");
            return ExitCode::from(2);
        }
    };
    let outcome = match task {
        Task::Show(text) => {
            print!("{text}");
            Ok(())
        }
        Task::Generate(generate) => generate.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

enum Task {
    Show(&'static str),
    Generate(Generate),
}

#[derive(Default)]
struct Generate {
    files: Vec<PathBuf>,
    includes: Vec<PathBuf>,
    out: Option<PathBuf>,
    check: bool,
}

fn parse(args: impl Iterator<Item = String>) -> Result<Task, String> {
    let mut args = args.peekable();
    match args.next().as_deref() {
        None => return Err("a command is missing: `gen`".to_owned()),
        Some("-h" | "--help" | "help") => return Ok(Task::Show(HELP)),
        Some("-V" | "--version") => {
            return Ok(Task::Show(concat!("rpc-codegen ", env!("CARGO_PKG_VERSION"), "\n")));
        }
        Some("gen") => {}
        Some(other) => {
            return Err(format!("`{other}` is not a command; the one there is is `gen`"));
        }
    }
    let mut generate = Generate::default();
    while let Some(arg) = args.next() {
        let (flag, mut value) = match arg.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
            _ if arg.starts_with("-I") && arg.len() > 2 => ("-I".to_owned(), Some(arg[2..].to_owned())),
            _ => (arg, None),
        };
        let mut path = |what: &str| match value.take().or_else(|| args.next()) {
            Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
            _ => Err(format!("`{flag}` needs {what}")),
        };
        match flag.as_str() {
            "-h" | "--help" => return Ok(Task::Show(HELP)),
            "-I" | "--include" => generate.includes.push(path("a directory")?),
            "-o" | "--out" => generate.out = Some(path("a file")?),
            "--check" => generate.check = true,
            unknown if unknown.starts_with('-') => {
                return Err(format!("`{unknown}` is not an option"));
            }
            file => generate.files.push(PathBuf::from(file)),
        }
    }
    if generate.files.is_empty() {
        return Err("no .proto file was given".to_owned());
    }
    if generate.check && generate.out.is_none() {
        return Err("`--check` needs the file to compare with: add `--out FILE`".to_owned());
    }
    Ok(Task::Generate(generate))
}

impl Generate {
    fn run(self) -> Result<(), String> {
        let builder = self.includes.iter().fold(Builder::new(), |builder, directory| builder.include(directory));
        let generated = builder.generate(&self.files).map_err(|error| error.to_string())?;
        for warning in &generated.warnings {
            eprintln!("warning: {warning}");
        }
        let Some(out) = &self.out else {
            print!("{}", generated.code);
            return Ok(());
        };
        let name = out.display();
        let old = fs::read_to_string(out);
        match old.is_ok_and(|old| old == generated.code) {
            true => Ok(()),
            false if self.check => Err(format!("{name} is not up to date; run the same command without --check")),
            false => fs::write(out, &generated.code).map_err(|error| format!("{name} cannot be written: {error}")),
        }
    }
}
