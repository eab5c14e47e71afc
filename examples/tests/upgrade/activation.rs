//! Sockets that systemd passes, or whoever speaks its protocol; and what it is told.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use testee::idl::testee::Blob;
use testee::{output_of, raw, scratch};

use crate::chain::{Chain, LIMIT};

/// The program with the socket as descriptor 3. The shell is replaced by it, and so `$$` is its process.
pub(crate) fn activated(program: &Path, args: &[&str], socket: impl Into<OwnedFd>) -> Command {
    let mut command = Command::new("sh");
    let script = r#"exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=${FOR:-$$} LISTEN_FDNAMES=web exec "$0" "$@""#;
    command.args(["-c", script]).arg(program).args(args).stdin(Stdio::from(socket.into()));
    command
}

/// By its name, by its number, by its address, as the only one there is; and after each an upgrade, to see that the next process has it, too.
#[test]
fn a_socket_that_is_passed_is_served() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("tcp://{}", socket.local_addr().expect("its address"));
    for asked in ["fd://web", "fd://3", &url, "fd://"] {
        let passed = socket.try_clone().expect("a descriptor");
        let mut chain = Chain::start_by(&[asked], &[], |program, args| activated(program, args, passed));
        assert_eq!(chain.url(), url, "{asked}");
        let client = chain.client();
        client.echo(Blob::default()).wait().expect("it serves");
        chain.upgrade();
        client.echo(Blob::default()).wait().expect("the next one does");
        chain.signal("TERM");
        chain.stopped();
        // The socket is still there: who connects now waits for the next server, as with systemd.
        let mut early = TcpStream::connect(chain.addr()).expect("it listens");
        early.set_read_timeout(Some(LIMIT)).expect("a timeout");
        std::io::Write::write_all(&mut early, &raw::request(1, "Echo", &raw::blob(b"early"))).expect("sent");
        let passed = socket.try_clone().expect("a descriptor");
        let _next = Chain::start_by(&["fd://web"], &[], |program, args| activated(program, args, passed));
        let reply = raw::read_frame(&mut early).expect("a frame").expect("a reply");
        assert_eq!(reply.blob(), Some(&b"early"[..]), "{asked}");
    }
}

/// Each row: what is passed, what is asked for, for which process, and what the server says.
#[test]
#[rustfmt::skip]
fn what_cannot_be_served_is_named() {
    let check = |socket: OwnedFd, asked: &str, pid: &str, expected: &str| {
        let program = Path::new(env!("CARGO_BIN_EXE_testee"));
        let command = activated(program, &["server", "--listen", asked], socket).env("FOR", pid).output();
        let said = String::from_utf8_lossy(&command.expect("it runs").stderr).into_owned();
        assert!(said.contains(expected), "{asked}: {said}");
    };
    let tcp = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let udp = || UdpSocket::bind("127.0.0.1:0").expect("a port");
    check(udp().into(), "fd://web", "",  "it is a socket of another kind than a stream");
    check(tcp().into(), "fd://api", "",  "no such socket was passed to this process; there are: web (3)");
    check(tcp().into(), "fd://web", "1", "no socket was passed to this process");
    let held = tcp();
    let url = format!("tcp://{}", held.local_addr().expect("its address"));
    check(held.into(),  &url,       "1", "another process listens there");
}

/// Where nobody passes one.
#[test]
fn without_variables_there_is_no_socket() {
    let output = output_of(env!("CARGO_BIN_EXE_testee"), ["server", "--listen", "fd://web"], LIMIT);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no socket was passed to this process (LISTEN_FDS, LISTEN_PID)"), "{said}");
}

/// sd_notify(3): ready, which process is the main one, and stopping.
#[test]
fn the_service_manager_is_told() {
    let path = scratch("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let heard = || {
        let mut bytes = [0; 256];
        let read = manager.recv(&mut bytes).expect("it is told");
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    };
    let mut chain = Chain::start_by(&["tcp://127.0.0.1:0"], &[], |program, args| {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).env("NOTIFY_SOCKET", &path);
        command
    });
    assert_eq!(heard(), "READY=1");
    chain.upgrade();
    let mut both = [heard(), heard()]; // from two processes, in any order
    both.sort();
    let pid = chain.pid();
    assert_eq!(both, [format!("MAINPID={pid}"), format!("MAINPID={pid}\nREADY=1")]);
    chain.signal("TERM");
    chain.stopped();
    assert_eq!(heard(), "STOPPING=1");
    std::fs::remove_file(path).expect("its file");
}
