//! A codec of one's own at both ends: netstrings, `5:hello,`. The server answers each in capitals.
//!
//! `cargo run -p examples --bin netstring` (or with a URL); then `printf '5:hello,' | socat - tcp:127.0.0.1:7003`, or
//! `cargo run -p examples --bin netstring -- tcp://127.0.0.1:7003 hello world`.

mod codec;

use std::sync::mpsc::{Sender, channel};

use codec::Netstring;
use rpc_transport::{CloseReason, Connector, Cx, Frame, Handler, ListenOptions, PoolOptions, ReactorPool, Url};

struct Capitals;

impl Handler for Capitals {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        Netstring::write(&frame.bytes().to_ascii_uppercase(), cx.output());
    }
}

struct Asking {
    words: Vec<String>,
    answers: Sender<Result<String, String>>,
}

impl Handler for Asking {
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        self.words.iter().for_each(|word| Netstring::write(word.as_bytes(), cx.output()));
    }

    fn on_frame(&mut self, _: &mut Cx<'_>, frame: Frame<'_>) {
        let _ = self.answers.send(Ok(String::from_utf8_lossy(frame.bytes()).into_owned())); // who asked may have left
    }

    fn on_close(&mut self, _: &mut Cx<'_>, reason: &CloseReason) {
        let _ = self.answers.send(Err(reason.to_string()));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut args, pool) = (std::env::args().skip(1), ReactorPool::start(PoolOptions::default())?);
    let url: Url = args.next().as_deref().unwrap_or("tcp://127.0.0.1:7003").parse()?;
    let (words, (answers, answered)) = (args.collect::<Vec<_>>(), channel());
    if words.is_empty() {
        let listener = pool.listen(&url, ListenOptions::default(), |_| (Netstring, Capitals))?;
        println!("LISTENING {}", listener.url());
        loop {
            std::thread::park();
        }
    }
    let (endpoint, count) = (url.resolve()?.remove(0), words.len());
    pool.next().run(move || _ = Connector::default().connect(&endpoint, Netstring, Asking { words, answers }));
    answered.iter().take(count).try_for_each(|answer| answer.map(|text| println!("{text}")).map_err(Into::into))
}
