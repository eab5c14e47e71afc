//! Where reactors run, and how they wait.

mod support;

use std::time::{Duration, Instant};

use rpc_transport::{BUSY_POLL_MAX, PoolOptions, ReactorHandle, ReactorPool, sleep};
use support::{Script, call, dial, on, serve, until};

const MS: Duration = Duration::from_millis(1);

fn busy(busy_poll: Duration) -> ReactorPool {
    let options = PoolOptions { reactors: 1, busy_poll, ..PoolOptions::default() };
    ReactorPool::start(options).expect("a reactor")
}

fn until_it_sleeps(reactor: &ReactorHandle) {
    until("the reactor sleeps", || reactor.turn().is_none());
}

/// While it polls busily nobody needs to wake it: what it is asked is found by the next look. Then it sleeps, and is woken.
#[test]
fn a_reactor_polls_busily_and_then_sleeps() {
    let pool = busy(BUSY_POLL_MAX);
    let reactor = &pool.handles()[0];
    on(reactor, || ());
    let woken = reactor.stats().wakes.get();
    (0..100).for_each(|_| on(reactor, || ()));
    assert_eq!(reactor.stats().wakes.get(), woken);
    until_it_sleeps(reactor);
    on(reactor, || ());
    assert_eq!(reactor.stats().wakes.get(), woken + 1);
}

/// Bytes from a peer, a timer: each makes it look again and again, for so long.
#[test]
fn whatever_happens_makes_it_poll() {
    let polls_after = |what: &str, pool: &ReactorPool, happens: &mut dyn FnMut()| {
        let reactor = &pool.handles()[0];
        until_it_sleeps(reactor);
        let before = reactor.stats().polls.get();
        let begun = Instant::now();
        happens();
        until(what, || reactor.stats().polls.get() > before + 200);
        assert!(begun.elapsed() < Duration::from_secs(5), "it was not {what}, but the connection's own time limits");
    };
    let served = busy(50 * MS);
    let listener = serve(&served, |_| Script::new());
    let mut socket = dial(&listener);
    polls_after("bytes", &served, &mut || assert_eq!(call(&mut socket, b"now"), b"now"));
    served.handles()[0].spawn(async {
        sleep(200 * MS).await; // the timer that is looked at
    });
    polls_after("a timer", &served, &mut || ());
}

#[test]
fn busy_polling_has_a_bound() {
    let options = PoolOptions { busy_poll: Duration::MAX, ..PoolOptions::default() };
    let error = ReactorPool::start(options).expect_err("too long");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("of 1s at most"), "{error}");
}

#[cfg(all(feature = "affinity", target_os = "linux"))]
mod cores {
    use std::net::TcpStream;
    use std::sync::{Arc, Mutex};

    use super::*;
    use rpc_transport::{Accepted, ListenOptions, Placement};
    use support::framing;

    /// The cores that the calling thread may use, as the system writes them.
    fn allowed() -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.expect("a list of cores").trim().to_owned()
    }

    #[test]
    fn reactors_are_bound_in_turn() {
        let here = allowed();
        let mut ends = here.split([',', '-']).map(|core| core.parse().expect("a number"));
        let first: usize = ends.next().expect("a core");
        let last = ends.next_back().unwrap_or(first);
        let pool = ReactorPool::start(PoolOptions { reactors: 3, cores: vec![last, first], ..PoolOptions::default() });
        let pool = pool.expect("reactors");
        let bound: Vec<_> = pool.handles().iter().map(|reactor| on(reactor, allowed)).collect();
        assert_eq!(bound, [last, first, last].map(|core| core.to_string()));
        assert_eq!(allowed(), here, "who starts them stays where it is");
    }

    /// Each connection belongs to the reactor on whose core its client runs, though the kernel's hash would spread them.
    #[test]
    fn connections_come_to_the_core_of_their_packets() {
        let cores: Vec<usize> = allowed().split([',', '-']).map(|core| core.parse().expect("a number")).collect();
        let &[first, .., last] = &cores[..] else {
            return println!("the test of SO_INCOMING_CPU is left out: there is one core");
        };
        let on_cores = |reactors| PoolOptions { reactors, cores: vec![first, last], ..PoolOptions::default() };
        let options = ListenOptions { placement: Placement::IncomingCpu, ..ListenOptions::default() };
        let (clients, pool) = (ReactorPool::start(on_cores(2)).unwrap(), ReactorPool::start(on_cores(2)).unwrap());
        let made: Arc<Mutex<Vec<usize>>> = Arc::default();
        let noted = Arc::clone(&made);
        let make = move |accepted: &Accepted<'_>| {
            noted.lock().unwrap().push(accepted.reactor.index());
            (framing(), Script::new())
        };
        let listener = pool.listen(&"tcp://127.0.0.1:0".parse().unwrap(), options.clone(), make).unwrap();
        for (index, client) in clients.handles().iter().enumerate() {
            let url = listener.url().to_string();
            on(client, move || {
                for _ in 0..16 {
                    TcpStream::connect(url.trim_start_matches("tcp://")).expect("it listens");
                }
            });
            until("all are accepted", || made.lock().unwrap().len() == 16 * (index + 1));
            assert_eq!(made.lock().unwrap()[16 * index..], [index; 16]);
        }
        let unbound = ReactorPool::start(PoolOptions::default()).unwrap();
        let error = unbound.listen(&"tcp://127.0.0.1:0".parse().unwrap(), options, |_| (framing(), Script::new()));
        let error = error.expect_err("no core");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("PoolOptions::cores"), "{error}");
    }

    #[test]
    fn a_core_that_is_not_there_is_an_error_that_names_it() {
        for core in [1000, usize::MAX] {
            let error = ReactorPool::start(PoolOptions { cores: vec![core], ..PoolOptions::default() });
            let error = error.expect_err("no such core");
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(&format!("core {core}, of `cores`")), "{error}");
        }
    }
}

#[cfg(not(feature = "affinity"))]
#[test]
fn cores_without_the_feature_are_refused() {
    let error = ReactorPool::start(PoolOptions { cores: vec![0], ..PoolOptions::default() }).expect_err("no feature");
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    assert!(error.to_string().contains("affinity"), "{error}");
}

/// What `top -H` and `ps -T` show.
#[cfg(target_os = "linux")]
#[test]
fn each_reactor_has_its_name_in_the_system() {
    let options = PoolOptions { reactors: 3, name: "edge".to_owned(), ..PoolOptions::default() };
    let pool = ReactorPool::start(options).expect("reactors");
    for (index, reactor) in pool.handles().iter().enumerate() {
        let name = on(reactor, || std::fs::read_to_string("/proc/thread-self/comm").expect("procfs"));
        assert_eq!(name.trim_end(), format!("edge-{index}"));
    }
}
