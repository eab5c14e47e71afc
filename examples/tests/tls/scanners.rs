//! Those who look for weaknesses find none: `sslscan` and `testssl` (packages `sslscan`, `testssl.sh`) at the example.

use std::fs;
use std::process::{Command, Stdio};

use testee::scratch;

use crate::findings::{of_sslscan, of_testssl};
use crate::{Server, certify};

/// What a scanner writes into its file, of a server with a key of its own. `arguments` have `FILE` and `PORT` in them.
fn scan(programs: &[&str], arguments: &str, judge: fn(&str) -> Vec<String>) {
    let available = |program: &&str| Command::new(program).arg("--version").output().is_ok();
    let (Some(program), true) = (programs.iter().find(|program| available(program)), available(&"openssl")) else {
        return println!("a scan by {} is left out: it is not installed, or openssl is not", programs[0]);
    };
    let directory = scratch("scan");
    fs::create_dir_all(&directory).unwrap();
    certify(&directory);
    let server = Server::start(&directory);
    let (_, port) = server.address.rsplit_once(':').unwrap();
    let mut command = Command::new(program);
    command.args(arguments.replace("PORT", port).replace("FILE", "report").split(' ')).current_dir(&directory);
    let output = command.stdin(Stdio::null()).output().unwrap();
    // Its status says how much it has found, or nothing at all.
    let report = fs::read_to_string(directory.join("report"));
    let report = report.unwrap_or_else(|e| panic!("{program}: {e}: {}", String::from_utf8_lossy(&output.stdout)));
    let weak = judge(&report);
    assert!(weak.is_empty(), "{program}: {weak:#?}");
    println!("{program} finds nothing weak in {} lines", report.lines().count());
    drop(server);
    _ = fs::remove_dir_all(&directory);
}

#[test]
fn sslscan_finds_nothing_weak() {
    scan(&["sslscan"], "--no-colour --xml=FILE localhost:PORT", of_sslscan);
}

/// Protocols, ciphers and whatever has a name: not the certificate, which is for a day. It asks nobody for the host's name.
#[test]
fn testssl_finds_nothing_weak() {
    let arguments = "--quiet --color 0 --warnings batch -n none --csvfile FILE -p -s -P -U 127.0.0.1:PORT";
    scan(&["testssl", "testssl.sh"], arguments, of_testssl);
}
