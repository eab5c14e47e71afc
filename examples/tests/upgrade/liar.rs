//! New processes that are not what they say. A script starts this test program as one.

use std::io::Read;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

/// What `LIAR` says is played by whoever is started with it.
#[test]
#[ignore = "it is started in the place of a server, by the other tests"]
fn plays_a_liar() {
    let Ok(kind) = std::env::var("LIAR") else { return };
    let variable = std::env::var("RPC_UPGRADE").expect("it is started by an upgrade");
    let (_, path) = variable.split_once(':').expect("a process and a path");
    let mut socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    socket.connect(&SockAddr::unix(Path::new(path)).expect("a path")).expect("the old process listens there");
    let say = |words: &[&[u8]]| words.iter().for_each(|word| assert_eq!(socket.send(word).expect("sent"), word.len()));
    match kind.as_str() {
        "garbage" => say(&[b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"]),
        "flood" => say(&[&[b'R'; 64 << 10]]),
        "version" => say(&[b"RPCU\x02\x01"]),
        "twice" => say(&[b"RPCU\x01\x01", b"RPCU\x01\x01"]),
        "leaves" => {
            say(&[b"RPCU\x01\x01"]);
            hear_all(&mut socket);
            drop(socket);
            loop {
                std::thread::park(); // until it is killed
            }
        }
        "dies" => {
            say(&[b"RPCU\x01\x01"]);
            hear_all(&mut socket);
            assert_eq!(socket.send(b"RPCU\x01\x04").expect("sent"), 6);
            std::process::exit(3);
        }
        "sleeps" => say(&[b"RPCU\x01\x01", b"RPCU\x01\x04"]),
        _ => say(&[b"RPCU\x01\x01"]),
    }
    // Until it is killed, or the old process has closed the connection.
    while socket.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
}

/// Reads until it has been told of every socket.
fn hear_all(socket: &mut Socket) {
    let mut bytes = [0; 4096];
    while socket.read(&mut bytes).is_ok_and(|read| read > 5) && bytes[5] != 3 {}
}

/// The script that starts it. What the harness prints is no line of a server.
pub(crate) fn script(kind: &str) -> String {
    let program = std::env::current_exe().expect("its path");
    format!("LIAR={kind} exec {} --exact liar::plays_a_liar --ignored > /dev/null", program.display())
}

/// One that starts it as another process than the one that was started.
pub(crate) fn script_of_a_stranger() -> String {
    script("hello").replace("exec ", "") + " &\nwait"
}
