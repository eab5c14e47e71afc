//! Servers without RPC: an echo, and plaintext HTTP, by hand on tokio and on monoio. The settings are the fastest that their documentation
//! knows: `TCP_NODELAY`, a task a connection, buffers that are used again. HTTP heads are only told apart, by `httparse`.

use std::thread;

use bench_driver::Failure;
use clap::ValueEnum;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Whose transport.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// Its multi-threaded runtime.
    Tokio,
    /// A runtime on each core, each with a listening socket of its own; by io_uring where there is one.
    Monoio,
}

/// What a server speaks.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Speaks {
    /// Whatever comes goes back.
    Echo,
    /// Each request is answered with the same few words.
    Http,
}

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";

/// Bytes that a connection reads at once.
const ROOM: usize = 16 << 10;

/// Answers the requests at the front of `input`; how many of its bytes they are, or nothing if they are none.
fn answer(speaks: Speaks, input: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    if speaks == Speaks::Echo {
        out.extend_from_slice(input);
        return Some(input.len());
    }
    let mut done = 0;
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        match httparse::Request::new(&mut headers).parse(&input[done..]) {
            Ok(httparse::Status::Complete(len)) => {
                done += len;
                out.extend_from_slice(HELLO);
            }
            Ok(httparse::Status::Partial) => return Some(done),
            Err(_) => return None,
        }
    }
}

/// Serves until the process ends; returns the URL.
pub(crate) fn serve(transport: Transport, speaks: Speaks, url: &str) -> Result<String, Failure> {
    match transport {
        Transport::Tokio => on_tokio(speaks, url),
        Transport::Monoio => on_monoio(speaks, url),
    }
}

fn on_tokio(speaks: Speaks, url: &str) -> Result<String, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(url.trim_start_matches("tcp://")))?;
    let url = format!("tcp://{}", listener.local_addr()?);
    thread::spawn(move || {
        runtime.block_on(async {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    socket.set_nodelay(true)?;
                    let (mut input, mut filled, mut out) = (vec![0; ROOM], 0, Vec::with_capacity(ROOM));
                    loop {
                        let got = socket.read(&mut input[filled..]).await?;
                        filled += got;
                        let Some(done) = answer(speaks, &input[..filled], &mut out).filter(|_| got > 0) else { break };
                        input.copy_within(done..filled, 0);
                        filled -= done;
                        socket.write_all(&out).await?;
                        out.clear();
                    }
                    std::io::Result::Ok(())
                });
            }
        });
    });
    Ok(url)
}

fn on_monoio(speaks: Speaks, url: &str) -> Result<String, Failure> {
    use monoio::net::{ListenerOpts, TcpListener};

    // The port is chosen once; the other cores listen at the same.
    let chosen = std::net::TcpListener::bind(url.trim_start_matches("tcp://"))?.local_addr()?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let cores = thread::available_parallelism()?.get();
    for _ in 0..cores {
        let ready = ready.clone();
        thread::spawn(move || {
            let mut runtime = monoio::RuntimeBuilder::<monoio::FusionDriver>::new().build()?;
            runtime.block_on(async {
                let listener = TcpListener::bind_with_config(chosen, &ListenerOpts::new().reuse_port(true));
                let _ = ready.send(listener.as_ref().map(drop).map_err(|e| e.to_string()));
                let listener = listener?;
                while let Ok((socket, _)) = listener.accept().await {
                    monoio::spawn(exchange_on_monoio(speaks, socket));
                }
                std::io::Result::Ok(())
            })
        });
    }
    for _ in 0..cores {
        is_ready.recv()??;
    }
    Ok(format!("tcp://{chosen}"))
}

async fn exchange_on_monoio(speaks: Speaks, mut socket: monoio::net::TcpStream) -> std::io::Result<()> {
    use monoio::io::{AsyncReadRent, AsyncWriteRentExt};

    socket.set_nodelay(true)?;
    let (mut room, mut input, mut out) = (vec![0; ROOM], Vec::new(), Vec::with_capacity(ROOM));
    loop {
        let (got, read) = socket.read(room).await;
        room = read;
        let got = got?;
        // Without a rest of the last read what has come is answered where it lies.
        let done = match input.is_empty() {
            true => answer(speaks, &room[..got], &mut out).inspect(|done| input.extend_from_slice(&room[*done..got])),
            false => {
                input.extend_from_slice(&room[..got]);
                answer(speaks, &input, &mut out).inspect(|done| drop(input.drain(..*done)))
            }
        };
        if got == 0 || done.is_none() {
            return Ok(());
        }
        let (wrote, written) = socket.write_all(out).await;
        wrote?;
        out = written;
        out.clear();
    }
}
