//! Who comes to a connection from outside, as tasks do: what follows is put off to the end of the turn, and what cannot wait is not.

mod support;

use std::sync::{Arc, mpsc};

use bytes::BufMut;
use rpc_transport::{ConnId, Connector, MemoryBudget, local};
use support::*;

/// I10: what many tasks write in one turn, each to another connection, is counted as it is written and not when the turn ends.
#[test]
fn what_visitors_write_is_counted_at_once() {
    const EACH: usize = 100 << 10;
    let pool = pool(1);
    let reactor = pool.handles()[0].clone();
    let listener = serve(&pool, |_| Script::new());
    let memory = Arc::new(MemoryBudget::new(256 << 20));
    let connector = Connector { memory: Arc::clone(&memory), ..Connector::default() };
    let (tell, opened) = mpsc::channel();
    let ids: Vec<ConnId> = (0..8)
        .map(|_| {
            let tell = tell.clone();
            connect(&reactor, listener.url(), connector.clone(), Script::new().open(move |_| tell.send(()).unwrap()))
        })
        .collect();
    ids.iter().for_each(|_| hear(&opened));
    let here = reactor.clone();
    on(&reactor, move || {
        for (n, id) in (1..).zip(ids) {
            local::visit::<Script, _>(&here, id, |_, cx| cx.output().put_bytes(1, EACH)).unwrap();
            assert!(memory.used() >= n * EACH, "{} bytes counted of {n} times {EACH}", memory.used());
        }
    });
}

/// Nobody comes to a connection whose handler has panicked, not even in the same turn.
#[test]
fn a_panic_in_a_visit_ends_the_connection_there_and_then() {
    let pool = pool(1);
    let reactor = pool.handles()[0].clone();
    let listener = serve(&pool, |_| Script::new());
    let (tell, ends) = mpsc::channel();
    let id = connect(&reactor, listener.url(), Connector::default(), Script::new().end_to(tell));
    let here = reactor.clone();
    on(&reactor, move || {
        assert!(local::visit::<Script, ()>(&here, id, |_, _| panic!("as it was asked for")).is_none());
        assert!(local::visit::<Script, _>(&here, id, |_, _| ()).is_none(), "it has ended");
    });
    assert!(hear(&ends).contains("panicked"));
}
