//! Listeners that pause because there is no descriptor left, on a simulated network.

mod support;

use std::time::Duration;

use rpc_transport::ListenOptions;
use rpc_transport::testing::{Knobs, Network};
use support::*;

const MS: Duration = Duration::from_millis(1);

/// A listener that is closed in a pause takes its timer with it: it would end the next one's pause, which is at its place.
#[test]
fn a_listener_that_is_closed_while_it_pauses_leaves_no_timer() {
    let net = Network::new(7, Knobs::default());
    let pool = net.pool("server", 1);
    let open = || listen(&pool, "tcp://10.0.0.1:9", ListenOptions::default(), |_| Script::new());
    for round in 0..3 {
        let listener = open();
        net.starve_of_descriptors(Duration::from_secs(10));
        let _peer = net.connect_raw(listener.url());
        net.run_for(400 * MS);
        listener.close();
        net.run_for(MS);
        net.audit(0).expect("it runs").unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
    }
}
