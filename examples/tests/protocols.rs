//! Protocols that others know, on the transport alone: each example against the clients that people use for them. Where a client is missing
//! its part is left out, and said so; what is asked by hand is always asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// A running example; it is killed when this is dropped.
struct Example {
    process: Child,
    addr: String,
}

impl Example {
    fn start(bin: &str, args: &[&str]) -> Example {
        let mut process = Command::new(bin).args(args).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let addr =
            line.trim_end().split_once("://").map(|(_, addr)| addr).unwrap_or_else(|| panic!("it said {line:?}"));
        Example { process, addr: addr.to_owned() }
    }

    fn port(&self) -> &str {
        self.addr.rsplit_once(':').expect("a port").1
    }

    fn dial(&self) -> TcpStream {
        let socket = TcpStream::connect(&self.addr).expect("it listens");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        socket
    }

    /// What comes for these bytes until the end, or until there is so much of it.
    fn ask(&self, request: &[u8], most: u64) -> Vec<u8> {
        let mut socket = self.dial();
        socket.write_all(request).expect("it reads");
        let mut reply = Vec::new();
        socket.take(most).read_to_end(&mut reply).expect("a reply");
        reply
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a program of others prints; nothing if it is not here.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = match Command::new(program).args(args).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => {
            println!("{program} is left out: {error}");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text} {}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";

#[test]
fn http_answers_curl_and_wrk() {
    let http = Example::start(env!("CARGO_BIN_EXE_http_plaintext"), &["tcp://127.0.0.1:0"]);
    let get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(http.ask(&get.repeat(3), 3 * HELLO.len() as u64), HELLO.repeat(3), "pipelined");
    assert_eq!(http.ask(b"GET / HTTP/1.0\r\n\r\n", u64::MAX), HELLO, "and the end");
    for refused in ["POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "what is this\r\n\r\n"] {
        assert!(http.ask(refused.as_bytes(), u64::MAX).starts_with(b"HTTP/1.1 400 "), "{refused}");
    }
    let url = format!("http://{}/", http.addr);
    if let Some(text) = said("curl", &["-sS", &url, &url]) {
        assert_eq!(text, "Hello, World!Hello, World!");
    }
    if let Some(text) = said("wrk", &["-d1", "-c16", "-t1", &url]) {
        assert!(text.contains("requests in") && !text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    }
}

#[test]
fn resp_answers_redis_cli_and_redis_benchmark() {
    let store = Example::start(env!("CARGO_BIN_EXE_resp"), &["tcp://127.0.0.1:0"]);
    let asked = b"*1\r\n$4\r\nping\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*2\r\n$3\r\nGET\r\n$1\r\nn\r\n*0\r\n";
    let due = b"+PONG\r\n+OK\r\n$4\r\na\r\nb\r\n$-1\r\n-ERR no such command, or no room\r\n";
    assert_eq!(store.ask(asked, due.len() as u64), due);
    for refused in ["GET / HTTP/1.1\r\n\r\n", "*99999999\r\n", "*1\r\n$99999999999999999999\r\n"] {
        assert_eq!(store.ask(refused.as_bytes(), u64::MAX), b"", "{refused}");
    }
    let cli = |words: &[&str]| said("redis-cli", &[&["-p", store.port()], words].concat());
    if cli(&["set", "key", "a value"]).is_some() {
        assert_eq!(cli(&["get", "key"]).as_deref(), Some("a value\n"));
    }
    let args = ["-p", store.port(), "-n", "10000", "-P", "16", "-q", "-t", "set,get"];
    if let Some(text) = said("redis-benchmark", &args) {
        assert!(text.contains("SET: ") && text.contains("GET: ") && !text.contains("rror"), "{text}");
    }
}

/// A codec of one's own, at both ends.
#[test]
fn netstrings_there_and_back() {
    let bin = env!("CARGO_BIN_EXE_netstring");
    let server = Example::start(bin, &["tcp://127.0.0.1:0"]);
    assert_eq!(server.ask(b"5:hello,0:,1:,,", 15), b"5:HELLO,0:,1:,,");
    for refused in
        ["05:hello,", "5hello,", ":,", "-1:,", "100000:", "99999999999999999999999", "5:hello!", "GET / HTTP/1.1"]
    {
        assert_eq!(server.ask(refused.as_bytes(), u64::MAX), b"", "{refused}");
    }
    let mut slowly = server.dial();
    for byte in b"3:a,b,2:cd," {
        slowly.write_all(&[*byte]).expect("it reads");
    }
    let mut reply = [0; 11];
    slowly.read_exact(&mut reply).expect("both");
    assert_eq!(&reply, b"3:A,B,2:CD,");
    let url = format!("tcp://{}", server.addr);
    assert_eq!(said(bin, &[&url, "hello", "world"]).as_deref(), Some("HELLO\nWORLD\n"));
    let script = format!("printf '5:hello,' | socat -t 5 - tcp:{}", server.addr);
    if said("socat", &["-V"]).is_some() {
        assert_eq!(said("sh", &["-c", &script]).as_deref(), Some("5:HELLO,"));
    }
    drop(server);
    let late = Command::new(bin).args([&url, "hello"]).output().expect("it starts");
    let why = String::from_utf8_lossy(&late.stderr);
    assert!(!late.status.success() && why.contains("refused"), "{why}");
}

/// Who computes long holds nobody up, and each client's answers come in its order.
#[test]
fn work_on_the_pool_holds_nobody_up() {
    let server = Example::start(env!("CARGO_BIN_EXE_blocking"), &["tcp://127.0.0.1:0"]);
    let reactors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut long: Vec<TcpStream> = (0..reactors).map(|_| server.dial()).collect();
    long.iter_mut().for_each(|long| long.write_all(b"30000000\n10\n").expect("it reads"));
    let others = "25\r\nthat is no number up to 30000000\r\nthat is no number up to 30000000\r\n";
    let answered = server.ask(b"100\nmany\n30000001\n", others.len() as u64);
    assert_eq!(String::from_utf8_lossy(&answered), others);
    for long in &mut long {
        long.set_nonblocking(true).expect("a socket");
        assert!(long.read(&mut [0; 16]).is_err(), "answered before its work was done");
        long.set_nonblocking(false).expect("a socket");
    }
    for long in long {
        let (mut answers, due) = (String::new(), "1857859\r\n4\r\n");
        long.take(due.len() as u64).read_to_string(&mut answers).expect("both");
        assert_eq!(answers, due);
    }
    let script = format!("printf '1000000\\n' | socat -t 20 - tcp:{}", server.addr);
    if said("socat", &["-V"]).is_some() {
        assert_eq!(said("sh", &["-c", &script]).as_deref(), Some("78498\r\n"));
    }
}

#[test]
fn datagrams_come_back() {
    let server = Example::start(env!("CARGO_BIN_EXE_udp_echo"), &["127.0.0.1:0"]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let (mut room, text) = ([0; 16], b"hello");
    socket.send_to(text, &server.addr).expect("sent");
    assert_eq!(socket.recv(&mut room).expect("a reply"), text.len());
    assert!(room.starts_with(text));
    if said("socat", &["-V"]).is_some() {
        let script = format!("printf hello | socat -t 1 - udp:{}", server.addr);
        assert_eq!(said("sh", &["-c", &script]).as_deref(), Some("hello"));
    }
}

#[test]
fn the_proxy_passes_everything_on() {
    let http = Example::start(env!("CARGO_BIN_EXE_http_plaintext"), &["tcp://127.0.0.1:0"]);
    let store = Example::start(env!("CARGO_BIN_EXE_resp"), &["tcp://127.0.0.1:0"]);
    let before = |other: &Example| {
        Example::start(env!("CARGO_BIN_EXE_tcp_proxy"), &["tcp://127.0.0.1:0", &format!("tcp://{}", other.addr)])
    };
    let (proxy, stores) = (before(&http), before(&store));
    assert_eq!(proxy.ask(b"GET / HTTP/1.0\r\n\r\n", u64::MAX), HELLO, "and the end");
    // More than one output holds, there and back.
    let value = vec![b'v'; 1 << 20];
    let set = [&b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048576\r\n"[..], &value, b"\r\n"].concat();
    let get = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
    let reply = [&b"$1048576\r\n"[..], &value, b"\r\n"].concat();
    let mut socket = stores.dial();
    for _ in 0..8 {
        socket.write_all(&set).expect("it reads");
        let mut ok = [0; 5];
        socket.read_exact(&mut ok).expect("a reply");
        assert_eq!(&ok, b"+OK\r\n");
    }
    socket.write_all(&get.repeat(16)).expect("it reads");
    let mut all = vec![0; 16 * reply.len()];
    socket.read_exact(&mut all).expect("sixteen replies");
    assert!(all.chunks(reply.len()).all(|got| got == reply));
    if let Some(text) = said("curl", &["-sS", &format!("http://{}/", proxy.addr)]) {
        assert_eq!(text, "Hello, World!");
    }
}

/// A client that says all it has to say, and closes that side, hears the answer: from a service that waits for that end.
#[test]
fn the_proxy_passes_on_the_end_of_each_side() {
    let counts = TcpListener::bind("127.0.0.1:0").expect("a port");
    let upstream = format!("tcp://{}", counts.local_addr().expect("bound"));
    thread::spawn(move || {
        for socket in counts.incoming().map_while(Result::ok) {
            let mut said = Vec::new();
            (&socket).read_to_end(&mut said).expect("an end");
            (&socket).write_all(format!("{} bytes", said.len()).as_bytes()).expect("it still reads");
        }
    });
    let proxy = Example::start(env!("CARGO_BIN_EXE_tcp_proxy"), &["tcp://127.0.0.1:0", &upstream]);
    for len in [0, 5, 1 << 20] {
        let mut socket = proxy.dial();
        socket.write_all(&vec![b'x'; len]).expect("it reads");
        socket.shutdown(Shutdown::Write).expect("an end");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        assert_eq!(answer, format!("{len} bytes"));
    }
    // It ends its side when its input ends, and waits for as long as `-t` says.
    if let Some(text) = said("socat", &["-t20", "STDIO", &format!("TCP:{}", proxy.addr)]) {
        assert_eq!(text, "0 bytes");
    }
    let piped = format!("printf hello | socat -t20 STDIO TCP:{}", proxy.addr);
    if said("socat", &["-V"]).is_some() {
        assert_eq!(said("sh", &["-c", &piped]).as_deref(), Some("5 bytes"));
    }
}

#[test]
fn frames_with_a_length_come_back() {
    let echo = Example::start(env!("CARGO_BIN_EXE_echo_raw"), &["tcp://127.0.0.1:0"]);
    let frames = b"\0\0\0\x02hi\0\0\0\0\0\0\0\x01!";
    assert_eq!(echo.ask(frames, frames.len() as u64), frames);
    let script = format!("printf '\\0\\0\\0\\2hi' | socat -t 20 - tcp:{} | tail -c 2", echo.addr);
    if said("socat", &["-V"]).is_some() {
        assert_eq!(said("sh", &["-c", &script]).as_deref(), Some("hi"));
    }
}

/// Of two bytes the client has read none when it goes: its system resets the connection. An end would tell the service that all was said.
#[test]
fn the_proxy_passes_on_a_reset() {
    let service = TcpListener::bind("127.0.0.1:0").expect("a port");
    let upstream = format!("tcp://{}", service.local_addr().expect("bound"));
    let proxy = Example::start(env!("CARGO_BIN_EXE_tcp_proxy"), &["tcp://127.0.0.1:0", &upstream]);
    let mut client = proxy.dial();
    client.write_all(b"half of it").expect("it reads");
    let (mut served, _) = service.accept().expect("the proxy");
    served.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    served.write_all(b"hi").expect("it reads");
    served.read_exact(&mut [0; 10]).expect("what was said");
    assert!(client.peek(&mut [0]).expect("something") > 0);
    drop(client);
    let end = served.read(&mut [0]).expect_err("no end");
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn the_ticker_speaks_first_and_heeds_its_client() {
    let ticker = Example::start(env!("CARGO_BIN_EXE_ticker"), &["tcp://127.0.0.1:0"]);
    let mut socket = ticker.dial();
    let mut lines = BufReader::new(socket.try_clone().expect("a handle")).lines().map(|line| line.expect("a line"));
    assert_eq!(lines.next().as_deref(), Some("hello; say how often, in milliseconds"));
    socket.write_all(b"often\r\n5\n").expect("it reads");
    assert_eq!(lines.next().as_deref(), Some("that is no number of milliseconds"));
    let ticks: Vec<String> = lines.take(50).collect();
    let due: Vec<String> = (1..=50).map(|n| format!("tick {n}")).collect();
    assert_eq!(ticks, due);
    let script = format!("socat -u tcp:{} - | head -n 1", ticker.addr);
    if said("socat", &["-V"]).is_some() {
        assert_eq!(said("sh", &["-c", &script]).as_deref(), Some("hello; say how often, in milliseconds\r\n"));
    }
}
