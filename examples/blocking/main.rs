//! Work that would hold a reactor, on a worker pool: counts the primes up to the number in each line, while other clients are served.
//! `cargo run --release -p examples --bin blocking` (or with a URL), then `echo 30000000 | socat -t 60 - tcp:127.0.0.1:7003`.

use std::{any::Any, sync::Arc};

use rpc_transport::{
    Cx, Frame, Handler, Lane, Line, ListenOptions, Message, PoolOptions, ReactorPool, WorkerOptions, WorkerPool,
};

struct Counter(Line, Arc<WorkerPool>);

struct Counted(String);

impl Message for Counted {
    fn undelivered(self: Arc<Self>) {} // the client has gone
}

fn count_primes(up_to: usize) -> usize {
    let mut composite = vec![false; up_to + 1];
    for n in (2..=up_to).take_while(|n| n * n <= up_to) {
        if !composite[n] {
            (n * n..=up_to).step_by(n).for_each(|multiple| composite[multiple] = true);
        }
    }
    composite.iter().skip(2).filter(|composite| !**composite).count()
}

impl Handler for Counter {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        let number = std::str::from_utf8(frame.bytes()).ok().and_then(|line| line.parse().ok());
        let Some(up_to @ ..=30_000_000) = number else {
            return self.on_message(cx, Arc::new(Counted("that is no number up to 30000000".to_owned())));
        };
        let conn = cx.conn_ref();
        let job = move || conn.send(Arc::new(Counted(count_primes(up_to).to_string())));
        match self.1.run(if up_to > 1_000_000 { Lane::Slow } else { Lane::Fast }, job) {
            Ok(()) => cx.pause(), // its next line has its turn when this one is answered
            Err(refused) => self.on_message(cx, Arc::new(Counted(refused.to_string()))),
        }
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, message: Arc<dyn Any + Send + Sync>) {
        let Counted(text) = message.downcast_ref().expect("nobody sends anything else");
        self.0.write(text.as_bytes(), cx.output()).expect("a short line");
        cx.resume();
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:7003".to_owned());
    let (line, workers) = (Line::new().max_frame_size(200), Arc::new(WorkerPool::start(WorkerOptions::default())?));
    let pool = ReactorPool::start(PoolOptions::default())?;
    let listener = pool.listen(&url.parse()?, ListenOptions::default(), move |_| {
        (line.clone(), Counter(line.clone(), Arc::clone(&workers)))
    })?;
    println!("LISTENING {}", listener.url());
    loop {
        std::thread::park();
    }
}
