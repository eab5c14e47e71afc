//! An echo server of frames with a four-byte length, on the transport alone.
//!
//! `cargo run -p examples --bin echo_raw` (or with a URL); then send it `\0\0\0\x02hi`.

use rpc_transport::{Cx, Frame, Handler, LengthField, LengthWidth, ListenOptions, PoolOptions, ReactorPool};

struct Echo(LengthField);

impl Handler for Echo {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        let output = cx.output();
        self.0.write_head(frame.bytes().len(), output).expect("it was read under the same limit");
        output.write_bytes(frame.to_bytes()); // large frames are linked, not copied
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:7001".to_owned());
    let framing = LengthField::new(LengthWidth::U32);
    let pool = ReactorPool::start(PoolOptions::default())?;
    let listener =
        pool.listen(&url.parse()?, ListenOptions::default(), move |_| (framing.clone(), Echo(framing.clone())))?;
    println!("LISTENING {}", listener.url());
    loop {
        std::thread::park();
    }
}
