//! Writes that do not do what they are for, on a simulated network.

mod support;

use std::sync::mpsc;
use std::time::Duration;

use rpc_transport::ListenOptions;
use rpc_transport::testing::{Knobs, Network, Received};
use support::*;

const MS: Duration = Duration::from_millis(1);

/// B08: a socket that takes nothing, though it has room for something, has failed. It would be asked for ever, and no event would come.
#[test]
fn b08_a_write_of_nothing_is_an_end() {
    // Seldom a write that takes something, so that who tries for ever comes to an end, too.
    let net = Network::new(7, Knobs { empty_write: 990, ..Knobs::default() });
    let pool = net.pool("server", 1);
    let (tell, ends) = mpsc::channel();
    let listener = listen(&pool, "tcp://10.0.0.1:9", ListenOptions::default(), move |_| {
        Script::new().frame(|cx, _| reply(cx, b"for nobody")).end_to(tell.clone())
    });
    let mut peer = net.connect_raw(listener.url());
    net.run_for(MS);
    while peer.write(&wire(b"anything")) == 0 {}
    let before = net.faults().empty_writes;
    net.run_for(MS);
    assert_eq!(net.faults().empty_writes - before, 1, "tries");
    assert_eq!(ends.try_iter().collect::<Vec<_>>(), ["the connection failed: write zero"]);
    let mut read = Vec::new();
    assert!(matches!(peer.read(&mut read), Received::Reset), "{} bytes", read.len());
    net.audit(0).expect("it runs").expect("all is well");
}
