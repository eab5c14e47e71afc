//! What the programs say to bad input: one line that names the thing, its value and the remedy; an exit code; never a panic.

use std::net::TcpListener;
use std::process::Output;
use std::time::Duration;

use rpc_core::{Context, Result, Server};
use testee::idl::demo::{EchoRequest, EchoResponse, EchoService, EchoServiceServer};
use testee::output_of;

fn run(bin: &str, args: &[&str]) -> Output {
    output_of(bin, args, Duration::from_secs(10))
}

/// Runs the testee and checks what it says.
fn check(args: &[&str], due: &[&str]) {
    let output = run(env!("CARGO_BIN_EXE_testee"), args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code().is_some_and(|code| code != 0),
        "{args:?} must fail with an exit code: {:?}",
        output.status
    );
    assert!(!said.contains("panicked"), "{args:?}: {said}");
    for part in due {
        assert!(said.contains(part), "{args:?}: no {part:?} in {said}");
    }
}

#[test]
fn the_testee_explains_bad_input() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = &*format!("tcp://{}", taken.local_addr().expect("bound"));
    let missing = "/nonexistent/dir/file";
    #[rustfmt::skip]
    let table: &[(&[&str], &[&str])] = &[
        (&["server", "--listen", "tcp//x"],                   &["url", "tcp//x", "tcp://"]),
        (&["server", "--listen", "http://127.0.0.1:1"],       &["http://127.0.0.1:1", "tcp://"]),
        (&["server", "--listen", "tcp://127.0.0.1"],          &["tcp://127.0.0.1", "port"]),
        (&["server", "--listen", "tcp://127.0.0.1:99999"],    &["99999", "port"]),
        (&["server", "--listen", "unix:"],                    &["unix:"]),
        (&["server", "--listen", "unix:/nonexistent/dir/s"],  &["unix:/nonexistent/dir/s"]),
        (&["server", "--listen", taken],                      &[taken, "in use"]),
        (&["server", "--set", "max_fraem_size=1"],            &["max_fraem_size", "no such limit", "max_frame_size"]),
        (&["server", "--set", "max_frame_size=lots"],         &["max_frame_size", "lots", "not a number"]),
        (&["server", "--set", "max_frame_size=0"],            &["max_frame_size", "0"]),
        (&["server", "--set", "frame_progress=2"],            &["frame_progress", "unit"]),
        (&["server", "--set", "max_frame_size"],              &["NAME=VALUE"]),
        (&["server", "--reactors", "0"],                      &["--reactors", "0"]),
        (&["server", "--workers", "many"],                    &["--workers", "many"]),
        (&["server", "--exec-log", missing],                  &["--exec-log", missing, "writable"]),
        (&["server", "--lisen", "x"],                         &["--lisen", "--listen"]),
        (&["client"],                                         &["--connect"]),
        (&["client", "--connect", "nowhere"],                 &["nowhere", "tcp://"]),
        (&["client", "--connect", "tcp://host.invalid:1"],    &["host.invalid"]),
        (&["client", "--connect", taken, "--method", "Ehco"], &["Ehco", "echo"]),
        (&["client", "--connect", taken, "--set", "x=1"],     &["x", "no such limit"]),
        (&["client", "--connect", taken, "--log", missing],   &["--log", missing, "writable"]),
        (&["client", "--connect", taken, "--calls", "0"],     &["--calls", "0"]),
        (&["client", "--connect", taken, "--method", "relay"], &["--via"]),
        (&[],                                                 &["Usage", "server", "client"]),
    ];
    for (args, due) in table {
        check(args, due);
    }
}

/// The testee's own errors are one line; those of its options have a usage line, too.
#[test]
fn an_error_is_one_line() {
    for args in [["server", "--listen", "tcp//x"], ["server", "--set", "nope=1"], ["client", "--connect", "nowhere"]] {
        let output = run(env!("CARGO_BIN_EXE_testee"), &args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((said.lines().count(), output.status.code()), (1, Some(1)), "{args:?}: {said}");
        assert!(said.starts_with("testee: "), "{said}");
    }
}

/// A server that is not there: one line, no call sent, exit code 1 with `--strict`; each call still has its outcome.
#[test]
fn calling_nobody_is_reported_not_hung() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let url = format!("tcp://{free}");
    let output = run(env!("CARGO_BIN_EXE_testee"), &["client", "--connect", &url, "--calls", "100", "--strict"]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    for part in ["\"Unavailable\":100", "\"missing\":0", "\"unsent\":100"] {
        assert!(out.contains(part), "no {part} in {out}");
    }
    assert!(err.contains("refused") && err.contains("not sent") && err.contains(&url), "{err}");
}

#[test]
fn help_names_every_knob() {
    for (command, knobs) in [
        ("server", &["--listen", "--reactors", "--workers", "--exec-log", "--set", "LISTENING", "--verbose"][..]),
        (
            "client",
            &[
                "--connect",
                "--calls",
                "--in-flight",
                "--connections",
                "--method",
                "--timeout",
                "--log",
                "--seed",
                "--ping-pong",
            ],
        ),
    ] {
        let output = run(env!("CARGO_BIN_EXE_testee"), &[command, "--help"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success());
        for knob in knobs {
            assert!(text.contains(knob), "no {knob} in {text}");
        }
    }
}

/// The two small examples: they work together, and fail politely alone.
#[test]
fn the_small_server_and_client() {
    let (server, client) = (env!("CARGO_BIN_EXE_server"), env!("CARGO_BIN_EXE_client"));
    let output = run(server, &["tcp//x"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("tcp//x") && said.lines().count() == 1, "{said}");

    let url = format!("unix:{}", testee::scratch("sock").display());
    let output = run(client, &["Rust", &url]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("is the server running"), "{said}");

    let mut child = std::process::Command::new(server)
        .arg(&url)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the server starts");
    let path = std::path::Path::new(url.trim_start_matches("unix:"));
    let listens = testee::eventually(Duration::from_secs(10), || path.exists());
    let (good, bad) = (run(client, &["Rust", &url]), run(client, &["", &url]));
    let _ = child.kill();
    let _ = child.wait();
    let _ = std::fs::remove_file(path);
    assert!(listens);
    assert_eq!(String::from_utf8_lossy(&good.stdout), "Hello, Rust!\n");
    assert!(String::from_utf8_lossy(&bad.stderr).contains("a name, please (422)"));
}

struct Echo;

impl EchoService for Echo {
    async fn echo(&self, _: &Context, req: EchoRequest) -> Result<EchoResponse> {
        Ok(EchoResponse { message: req.message })
    }
}

/// What a program can get wrong before it binds.
#[test]
fn wrong_settings_are_errors_of_bind() {
    let check = |outcome: Result<rpc_core::ServerHandle>, due: &[&str]| {
        let error = outcome.expect_err("it is wrong").to_string();
        for part in due {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
    };
    let service = || EchoServiceServer::new(Echo);
    let at = "tcp://127.0.0.1:0";
    check(Server::builder().add(service()).add(service()).bind(at), &["EchoService", "duplicate", "port of its own"]);
    check(Server::builder().add(service().blocking(["Ecoh"])).bind(at), &["blocking", "Ecoh", "Echo"]);
    check(Server::builder().set("max_inflght", "1").add(service()).bind(at), &["max_inflght", "no such limit"]);
    check(Server::builder().add(service()).bind("127.0.0.1:0"), &["127.0.0.1:0", "tcp://"]);
    check(Server::builder().add(service()).bind_all([] as [&str; 0]), &["url", "at least one"]);
    let taken = Server::builder().reactors(1).add(service()).bind(at).expect("a free port");
    let url = taken.url().to_string();
    check(Server::builder().reactors(1).add(service()).bind(&url), &[&url, "in use"]);
}
