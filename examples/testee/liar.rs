//! New processes that are not what they say: for tests of a hand-over.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// Plays the new process of an upgrade, as it should not be: `kind` says how. Panics where it was not started by one.
pub(crate) fn play(kind: &str) {
    let variable = std::env::var("RPC_UPGRADE").expect("it is started by an upgrade");
    let (_, path) = variable.split_once(':').expect("a process and a path");
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
    socket.connect(&SockAddr::unix(Path::new(path)).expect("a path")).expect("the old process listens there");
    let say = |words: &[&[u8]]| words.iter().for_each(|word| assert_eq!(socket.send(word).expect("sent"), word.len()));
    match kind {
        "garbage" => say(&[b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"]),
        "flood" => say(&[&[b'R'; 64 << 10]]),
        "version" => say(&[b"RPCU\x02\x01"]),
        "twice" => say(&[b"RPCU\x01\x01", b"RPCU\x01\x01"]),
        "leaves" => {
            say(&[b"RPCU\x01\x01"]);
            hear_all(&socket);
            drop(socket);
            loop {
                std::thread::park(); // until it is killed
            }
        }
        "dies" => {
            say(&[b"RPCU\x01\x01"]);
            hear_all(&socket);
            assert_eq!(socket.send(b"RPCU\x01\x04").expect("sent"), 6);
            std::process::exit(3);
        }
        "stops it" => {
            say(&[b"RPCU\x01\x01"]);
            hear_all(&socket);
            say(&[b"RPCU\x01\x04"]);
            assert!((&socket).read(&mut [0; 64]).is_ok_and(|read| read > 0), "it may accept");
            let old = std::os::unix::process::parent_id().to_string();
            let told = std::process::Command::new("kill").args(["-TERM", &old]).status();
            assert!(told.is_ok_and(|status| status.success()));
            std::thread::sleep(Duration::from_millis(200)); // the time in which it might be killed
            say(&[b"RPCU\x01\x06"]);
            while (&socket).read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
            println!("SERVING {}", std::process::id());
            return;
        }
        "sleeps" => say(&[b"RPCU\x01\x01", b"RPCU\x01\x04"]),
        _ => say(&[b"RPCU\x01\x01"]),
    }
    // Until it is killed, or the old process has closed the connection.
    while (&socket).read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
}

/// Reads until it has been told of every socket.
fn hear_all(mut socket: &Socket) {
    let mut bytes = [0; 4096];
    while socket.read(&mut bytes).is_ok_and(|read| read > 5) && bytes[5] != 3 {}
}
