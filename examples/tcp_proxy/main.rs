//! A TCP proxy: what one side sends is linked into the other's output, not copied (but for pieces of less than 4 KiB, where copying is
//! cheaper). A side that ends is ended on the other side, which may go on sending; one that is reset is reset there.
//!
//! `cargo run -p examples --bin tcp_proxy -- tcp://127.0.0.1:8081 tcp://127.0.0.1:8080`
use rpc_transport::{Accepted, CloseReason, ConnId, Connector, Cx, Endpoint, Frame, Handler, ListenOptions, local};
use rpc_transport::{PoolOptions, ReactorPool, Unframed};

/// One of the two connections; both live on one reactor.
struct Half {
    upstream: Option<Endpoint>, // until it is connected
    other: Option<ConnId>,
}

impl Half {
    fn at_other<R>(&self, cx: &Cx<'_>, f: impl FnOnce(&mut Cx<'_>) -> R) -> Option<R> {
        local::visit(cx.reactor(), self.other?, |_: &mut Half, cx| f(cx))
    }
}

impl Handler for Half {
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        let Some(endpoint) = self.upstream.take() else { return };
        let half = Half { upstream: None, other: Some(cx.id()) };
        self.other = Connector::default().connect(&endpoint, Unframed, half);
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        self.at_other(cx, |other| other.output().write_bytes(frame.to_bytes()));
        if self.at_other(cx, |other| other.is_crowded()) == Some(true) {
            cx.pause(); // until it has drained there
        }
    }

    fn on_eof(&mut self, cx: &mut Cx<'_>) -> bool {
        self.at_other(cx, |other| other.finish()).is_some()
    }

    fn on_drained(&mut self, cx: &mut Cx<'_>) {
        self.at_other(cx, |other| other.resume());
    }

    fn on_close(&mut self, cx: &mut Cx<'_>, reason: &CloseReason) {
        let whole = matches!(reason, CloseReason::PeerClosed | CloseReason::Local(_)); // if not, an end would say so
        let why = CloseReason::Local("the other side has ended");
        self.at_other(cx, |other| if whole { other.close(why) } else { other.abort(why) });
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut urls = std::env::args().skip(1);
    let (Some(url), Some(to)) = (urls.next(), urls.next()) else { return Err("say LISTEN-URL UPSTREAM-URL".into()) };
    let upstream = Connector::default().endpoints(&to.parse()?)?.remove(0);
    let pool = ReactorPool::start(PoolOptions::default())?;
    let make = move |_: &Accepted<'_>| (Unframed, Half { upstream: Some(upstream.clone()), other: None });
    let listener = pool.listen(&url.parse()?, ListenOptions::default(), make)?;
    println!("LISTENING {}", listener.url());
    loop {
        std::thread::park();
    }
}
