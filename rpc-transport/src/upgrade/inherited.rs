//! What this process was given: by systemd, by whoever speaks its protocol, or by the process that it takes over from.
//!
//! A descriptor's number becomes a descriptor here, which takes the one `unsafe` block outside `buffer`.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use parking_lot::Mutex;
use rustix::io::{FdFlags, fcntl_setfd};

use super::listening::ListeningSocket;
use super::predecessor;
use super::successor::remember_program;
use crate::url::{Endpoint, Url};

/// The first descriptor that systemd passes.
const FIRST: RawFd = 3;

/// Descriptors that are taken at most.
const MAX_FDS: usize = 1024;

/// One socket, until it is taken.
#[derive(Debug)]
struct Given {
    names: Names,
    socket: Option<ListeningSocket>,
    /// Why it is none.
    wrong: Option<String>,
}

#[derive(Debug)]
enum Names {
    /// Of systemd's protocol.
    Activation { number: RawFd, name: String },
    /// The address by which the process before was asked for it.
    HandedOver { asked: String, number: u16 },
}

impl Names {
    fn is(&self, address: &str) -> bool {
        match self {
            Names::Activation { number, name } => address
                .strip_prefix("fd://")
                .is_some_and(|wanted| wanted.is_empty() || wanted == name || wanted == number.to_string()),
            Names::HandedOver { asked, .. } => asked == address,
        }
    }
}

/// Read once: the variables stay where they are, because to remove them is not safe while there are threads.
static GIVEN: Mutex<Option<Result<Vec<Given>, String>>> = Mutex::new(None);

/// Sockets that this process was given for an address: those of each address that they are bound to. None: nobody gave one. Each is
/// given away once. The address is a URL as [`ReactorPool::listen`](crate::ReactorPool::listen) takes it, or one of these:
///
/// | form | meaning |
/// | --- | --- |
/// | `fd://web` | systemd's sockets of this name (`FileDescriptorName=`, without it the name of the `.socket` unit) |
/// | `fd://3` | the descriptor of this number |
/// | `fd://` | all that systemd passed |
///
/// For a URL it is the socket that the process before was asked for by the same URL, or one that is bound to that very address.
/// Only listening stream sockets are given away. `LISTEN_FDS` counts when `LISTEN_PID` is this process; the process before is believed
/// when it is this one's parent and of the same user. What is not taken by the time of [`ready`](super::ready) stays with who gave it.
///
/// # Errors
/// `NotFound` for an `fd://` that nobody gave, or whose socket is taken; `InvalidInput` for one that is no listening stream socket, for
/// variables that contradict each other, or what went wrong with the process before. Text says which.
pub fn inherited(address: &str) -> io::Result<Vec<Vec<ListeningSocket>>> {
    remember_program();
    let mut given = GIVEN.lock();
    let given = given.get_or_insert_with(|| load().map_err(|e| e.to_string()));
    let given = given.as_mut().map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why.clone()))?;
    take(given, address)
}

/// Closes what was handed over and is not taken: the numbers of these sockets.
pub(super) fn untaken() -> Vec<u16> {
    let mut given = GIVEN.lock();
    let Some(Ok(given)) = given.as_mut() else { return Vec::new() };
    let left = given.iter_mut().filter_map(|given| match given.names {
        Names::HandedOver { number, .. } => given.socket.take().map(|_| number),
        Names::Activation { .. } => None,
    });
    left.collect()
}

fn load() -> io::Result<Vec<Given>> {
    let mut given = Vec::new();
    for (number, (asked, socket)) in (0..).zip(predecessor::sockets()?) {
        given.push(Given { names: Names::HandedOver { asked, number }, socket: Some(socket), wrong: None });
    }
    let fds = activation(|name| std::env::var(name).ok(), std::process::id());
    for (number, name) in fds.map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))? {
        let (socket, wrong) = match duplicate(number).and_then(ListeningSocket::shared) {
            Ok(socket) => (Some(socket), None),
            Err(e) => (None, Some(e.to_string())),
        };
        given.push(Given { names: Names::Activation { number, name }, socket, wrong });
    }
    Ok(given)
}

/// The descriptors of `LISTEN_FDS`, with their names: sd_listen_fds_with_names(3).
fn activation(var: impl Fn(&str) -> Option<String>, pid: u32) -> Result<Vec<(RawFd, String)>, String> {
    let (Some(fds), Some(meant)) = (var("LISTEN_FDS"), var("LISTEN_PID")) else { return Ok(Vec::new()) };
    if meant != pid.to_string() {
        return Ok(Vec::new()); // another process was meant, which has started this one
    }
    let count = fds.parse::<usize>().ok().filter(|count| *count <= MAX_FDS);
    let count = count.ok_or_else(|| format!("LISTEN_FDS is `{fds}`, not a number up to {MAX_FDS}"))?;
    let names = match var("LISTEN_FDNAMES") {
        Some(names) => names.split(':').map(str::to_owned).collect(),
        None => vec!["unknown".to_owned(); count], // as systemd has it
    };
    if count > 0 && names.len() != count {
        return Err(format!("LISTEN_FDNAMES has {} names for {count} descriptors", names.len()));
    }
    Ok((FIRST..).zip(names).take(count).collect())
}

/// A descriptor of our own beside that of this number, which stays as it is for whoever else in this process looks at it; but programs
/// that this process starts do not get it.
fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: `LISTEN_FDS` and `LISTEN_PID` say that this process was started with this number open, and for itself; it is looked at
    // here, once, and not closed. Were it closed by now, the calls below would fail or meet another descriptor, which is duplicated.
    let there = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_setfd(there, FdFlags::CLOEXEC)?;
    there.try_clone_to_owned()
}

fn take(given: &mut [Given], address: &str) -> io::Result<Vec<Vec<ListeningSocket>>> {
    let by_name = address.starts_with("fd://");
    let mut wanted: Vec<usize> = (0..given.len()).filter(|n| given[*n].names.is(address)).collect();
    if by_name && wanted.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, unknown(given, address)));
    }
    let endpoint = if by_name { None } else { endpoint_of(address) };
    wanted.retain(|n| given[*n].socket.is_some() || given[*n].wrong.is_some());
    if wanted.is_empty() {
        let bound =
            |given: &Given| given.socket.as_ref().is_some_and(|socket| Some(socket.endpoint()) == endpoint.as_ref());
        wanted = (0..given.len()).filter(|n| bound(&given[*n])).collect();
    }
    let mut groups: Vec<Vec<ListeningSocket>> = Vec::new();
    for n in wanted {
        let Given { names, socket, wrong } = &mut given[n];
        if let Some(wrong) = wrong {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{address} ({names:?}): {wrong}")));
        }
        let Some(next) = socket.as_ref() else { continue };
        let same_kind = endpoint.as_ref().is_none_or(|wanted| {
            matches!(
                (wanted, next.endpoint()),
                (Endpoint::Tcp(_), Endpoint::Tcp(_)) | (Endpoint::Unix(_), Endpoint::Unix(_))
            )
        });
        if !same_kind {
            let why = format!("{address}: the socket that was handed over for it is at {}", next.url());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let place = groups.iter().position(|group| group[0].endpoint() == next.endpoint());
        let place = match place {
            Some(place) => place,
            // The same URL with port 0, twice, is two addresses.
            None if !by_name && !groups.is_empty() => continue,
            None => {
                groups.push(Vec::new());
                groups.len() - 1
            }
        };
        groups[place].extend(socket.take());
    }
    if by_name && groups.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{address} is served already")));
    }
    Ok(groups)
}

/// What the address would be bound to. Port 0 is no address of a socket.
fn endpoint_of(address: &str) -> Option<Endpoint> {
    let endpoints = address.parse::<Url>().ok()?.resolve().ok()?;
    endpoints.into_iter().next()
}

fn unknown(given: &[Given], address: &str) -> String {
    let there = given.iter().map(|given| match &given.names {
        Names::Activation { number, name } => format!("{name} ({number})"),
        Names::HandedOver { asked, .. } => asked.clone(),
    });
    match there.collect::<Vec<_>>().join(", ") {
        there if there.is_empty() => {
            format!("{address}: no socket was passed to this process (LISTEN_FDS, LISTEN_PID)")
        }
        there => format!("{address}: no such socket was passed to this process; there are: {there}"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    #[rustfmt::skip]
    fn variables_say_what_was_passed() {
        let check = |fds: Option<&str>, pid: Option<&str>, names: Option<&str>, expected: &str| {
            let var = |name: &str| match name { "LISTEN_FDS" => fds, "LISTEN_PID" => pid, _ => names }.map(str::to_owned);
            let got = activation(var, 7);
            let got = got.map(|all| all.iter().map(|(fd, name)| format!("{fd}={name} ")).collect::<String>());
            let got = got.unwrap_or_else(|why| why);
            assert_eq!(got.trim_end(), expected);
        };
        check(None,           None,      None,         "");
        check(Some("1"),      None,      None,         "");
        check(Some("1"),      Some("8"), None,         "");
        check(Some("1"),      Some("7"), None,         "3=unknown");
        check(Some("2"),      Some("7"), Some("a:b"),  "3=a 4=b");
        check(Some("2"),      Some("7"), Some("a:a"),  "3=a 4=a");
        check(Some("1"),      Some("7"), Some(""),     "3=");
        check(Some("0"),      Some("7"), Some(""),     "");
        check(Some("2"),      Some("7"), Some("a"),    "LISTEN_FDNAMES has 1 names for 2 descriptors");
        check(Some("-1"),     Some("7"), None,         "LISTEN_FDS is `-1`, not a number up to 1024");
        check(Some("many"),   Some("7"), None,         "LISTEN_FDS is `many`, not a number up to 1024");
        check(Some("99999999999999999999"), Some("7"), None, "LISTEN_FDS is `99999999999999999999`, not a number up to 1024");
    }

    fn listener() -> (ListeningSocket, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("tcp://{}", listener.local_addr().unwrap());
        (ListeningSocket::new(listener.into()).unwrap(), url)
    }

    /// Takes each of the addresses in turn: how many listeners of how many sockets, or what is wrong.
    fn check(given: &mut [Given], rows: &[(&str, &str)]) {
        for (address, expected) in rows {
            let got = match take(given, address) {
                Ok(groups) => groups.iter().map(|group| group.len().to_string()).collect::<Vec<_>>().join("+"),
                Err(e) => e.to_string(),
            };
            assert_eq!(got, *expected, "{address}");
        }
    }

    #[test]
    fn each_socket_is_taken_once_by_name_number_or_address() {
        let passed = |number: RawFd, name: &str, socket| Given {
            names: Names::Activation { number, name: name.to_owned() },
            socket: Some(socket),
            wrong: None,
        };
        let (a, (b, url), c, d) = (listener().0, listener(), listener().0, listener().0);
        let mut given = [passed(3, "web", a), passed(4, "web", b), passed(5, "admin", c), passed(6, "x", d)];
        check(
            &mut given,
            &[
                (&url, "1"),
                (&url, ""),
                ("fd://web", "1"),
                ("fd://web", "fd://web is served already"),
                ("fd://5", "1"),
                ("fd://admin", "fd://admin is served already"),
                (
                    "fd://y",
                    "fd://y: no such socket was passed to this process; there are: web (3), web (4), admin (5), x (6)",
                ),
                ("tcp://127.0.0.1:0", ""),
                ("fd://", "1"),
            ],
        );
        check(&mut [], &[("fd://web", "fd://web: no socket was passed to this process (LISTEN_FDS, LISTEN_PID)")]);
        let mut two = [passed(3, "web", listener().0), passed(4, "web", listener().0)];
        check(&mut two, &[("fd://web", "1+1")]);
        let broken =
            Given { wrong: Some("it does not listen".to_owned()), socket: None, ..passed(3, "a", listener().0) };
        let text = r#"fd://a (Activation { number: 3, name: "a" }): it does not listen"#;
        check(&mut [broken], &[("fd://a", text)]);
    }

    #[test]
    fn what_is_handed_over_goes_to_who_asks_as_before() {
        let (first, (second, url), (third, _)) = (listener().0, listener(), listener());
        let of = |asked: &str, number, socket| Given {
            names: Names::HandedOver { asked: asked.to_owned(), number },
            socket: Some(socket),
            wrong: None,
        };
        let twin = first.socket().try_clone().unwrap();
        let twin = ListeningSocket::new(twin.into()).unwrap();
        let any = "tcp://127.0.0.1:0";
        let mut given = [of(any, 0, first), of(any, 1, second), of(any, 2, twin), of("unix:a", 3, third)];
        check(
            &mut given,
            &[
                (any, "2"), // a socket for each reactor
                (&url, "1"),
                (any, ""),
                ("unix:b", ""),
            ],
        );
        let error = take(&mut given, "unix:a").unwrap_err().to_string();
        assert!(error.starts_with("unix:a: the socket that was handed over for it is at tcp://"), "{error}");
    }
}
