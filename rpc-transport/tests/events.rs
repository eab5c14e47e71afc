//! What the log says: the life of listeners and connections, and no more of what peers can cause at will than a few lines a second.

mod support;

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::mpsc::{self, Sender};

use support::*;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

/// Tells events a line each, with their fields in order.
struct Lines(Sender<String>);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        let _ = self.0.send(line.0);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => write!(self.0, " {value:?}").unwrap(),
            name => write!(self.0, " {name}={value:?}").unwrap(),
        }
    }
}

/// In one test: a log is the whole process's.
#[test]
fn a_life_is_in_the_log_and_a_flood_is_not() {
    let (tell, told) = mpsc::channel();
    tracing::subscriber::set_global_default(Lines(tell)).unwrap();
    let pool = pool(1);
    let listener = serve(&pool, |_| Script::new().frame(|_, frame| assert_ne!(frame.bytes(), b"panic", "as asked")));
    let mut peer = dial(&listener);
    let name = format!("tcp://{}", peer.local_addr().unwrap());
    peer.write_all(&wire(b"nothing")).unwrap();
    drop(peer);

    let lines = told.iter().take(3).collect::<Vec<_>>();
    assert!(lines[0].starts_with(&format!("INFO listening url={}", listener.url())), "{lines:?}");
    assert_eq!(lines[1], format!("DEBUG connection open peer={name}"));
    assert_eq!(lines[2], format!("DEBUG connection closed peer={name} reason=the peer closed the connection"));

    let mut panics = 0;
    for _ in 0..100 {
        let mut peer = dial(&listener);
        peer.write_all(&wire(b"panic")).unwrap();
        let lines = told.iter().take_while(|line| !line.starts_with("DEBUG connection closed ")).collect::<Vec<_>>();
        assert!(lines.len() <= 2, "{lines:?}");
        panics += lines.iter().filter(|line| line.contains("panicked")).count();
    }
    assert!((5..=30).contains(&panics), "{panics} lines for 100 panics");
}
