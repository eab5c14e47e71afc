//! The example `tls` and those who know TLS better: `openssl s_client`, in both versions of the protocol, and scanners. Where a program is not
//! here its test is left out, and says so.

mod findings;
mod scanners;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use testee::scratch;

fn openssl(directory: &Path, line: &str) -> Command {
    let mut command = Command::new("openssl");
    command
        .args(line.split(' '))
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A certificate and its key, anew.
fn certify(directory: &Path) {
    let line = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 1 \
                -subj /CN=localhost -addext subjectAltName=DNS:localhost";
    let output = openssl(directory, line).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What a client hears who says these lines.
fn ask(directory: &Path, options: &str, lines: &str) -> (bool, String, String) {
    let mut client = openssl(directory, &format!("s_client -verify_return_error -quiet {options}"));
    let mut client = client.stdin(Stdio::piped()).spawn().unwrap();
    let mut say = client.stdin.take().unwrap();
    _ = say.write_all(lines.as_bytes()); // it may have refused to go on
    let output = client.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// The example, at a free port, with what `certify` has left in the directory. It is killed when this is dropped.
struct Server {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
    address: String,
}

impl Server {
    fn start(directory: &Path) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tls"));
        command.args(["cert.pem", "key.pem", "tls://127.0.0.1:0"]).current_dir(directory).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        let listening = said.next().unwrap().unwrap();
        let address = listening.strip_prefix("LISTENING tls://").unwrap().to_owned();
        Server { process, said, address }
    }

    fn line(&mut self) -> String {
        self.said.next().unwrap().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

#[test]
fn openssl_says_lines_and_hears_them() {
    if let Err(error) = Command::new("openssl").arg("version").output() {
        return println!("openssl is left out: {error}");
    }
    let directory = scratch("tls");
    fs::create_dir_all(&directory).unwrap();
    certify(&directory);
    let mut server = Server::start(&directory);
    let address = server.address.clone();
    for (version, name) in [("-tls1_2", "TLSv1_2"), ("-tls1_3", "TLSv1_3")] {
        let options = format!(
            "-connect {address} -CAfile cert.pem -servername localhost -verify_hostname localhost -alpn lines {version}"
        );
        let (good, heard, errors) = ask(&directory, &options, "hello\nquit\n");
        assert!(good && heard == "hello\r\nquit\r\n", "{heard:?} {errors}");
        let seen = server.line();
        for words in [name, "Some(\"lines\")", "Some(\"localhost\")"] {
            assert!(seen.contains(words), "{seen}");
        }
        assert!(server.line().ends_with("closed by this side: the client has asked for it"));
    }
    let [by_old, by_new] = ["old", "cert"].map(|name| format!("-connect {address} -CAfile {name}.pem"));
    // From the reload on there is another certificate: who knows the old one only does not go on.
    fs::copy(directory.join("cert.pem"), directory.join("old.pem")).unwrap();
    certify(&directory);
    let (good, heard, errors) = ask(&directory, &by_old, "reload\nquit\n");
    assert!(good && heard == "reload\r\nquit\r\n", "{heard:?} {errors}");
    let (good, heard, errors) = ask(&directory, &by_old, "quit\n");
    assert!(!good && heard.is_empty() && errors.contains("verify error"), "{heard:?} {errors}");
    assert!(ask(&directory, &by_new, "quit\n").0);
    drop(server);
    _ = fs::remove_dir_all(&directory);
}
