//! What a client of ours does at a Kitex server.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rpc_core::codegen::MethodDescriptor;
use rpc_core::{Call, Channel, Code, Error, Sent};
use testee::idl::testee::{Blob, Empty, Fault, Hop, Millis, SecondClient, TesteeClient};
use testee::{Testee, eventually};

use crate::tap::Tap;
use crate::{Ends, Failure};

/// One of the functions below.
pub(crate) type Play = fn(&Stage<'_>) -> Result<String, Failure>;

/// What a play is given.
pub(crate) struct Stage<'a> {
    ends: &'a Ends,
    kitex: std::cell::RefCell<Testee>,
    channel: Channel,
    client: TesteeClient,
}

const PLAYS: [(&str, Play); 13] = [
    ("sizes", sizes),
    ("errors", errors),
    ("business", business),
    ("metadata", metadata),
    ("unknown", unknown),
    ("closing", closing),
    ("timeouts", timeouts),
    ("services", services),
    ("chain", chain),
    ("stopped", stopped),
    ("killed", killed),
    ("limited", limited),
    ("few connections", few_connections),
];

pub(crate) fn name(play: Play) -> &'static str {
    PLAYS.iter().find(|(_, known)| std::ptr::fn_addr_eq(*known, play)).map_or("?", |(name, _)| name)
}

pub(crate) fn play(ends: &Ends, play: Play, client: &str, server: &str) -> Result<String, Failure> {
    let kitex = Testee::start(&ends.kitex.to_string_lossy(), ["--options", server]);
    let builder = Channel::builder(ends.meet(kitex.url())?).timeout(Duration::from_secs(20));
    let channel = match client {
        "ping-pong" => builder.ping_pong().connections(4),
        _ => builder.connections(1),
    };
    let channel = channel.build()?;
    let client = TesteeClient::new(channel.clone());
    play(&Stage { ends, kitex: kitex.into(), channel, client })
}

fn due(what: &str, holds: bool, got: impl std::fmt::Debug) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(format!("{what}: {got:?}").into()) }
}

fn echoes(stage: &Stage<'_>) -> Result<(), Failure> {
    let payload = testee::make(7, 100);
    let reply = stage.client.echo(Blob { payload: payload.clone() }).wait()?;
    due("an echo", reply.payload == payload, reply.payload.len())
}

pub(crate) fn sizes(stage: &Stage<'_>) -> Result<String, Failure> {
    let sizes = [0, 1, 2, 127, 128, 4095, 4096, 4097, 1 << 16, (1 << 20) - 1, 1 << 20, 4 << 20, 8 << 20];
    for (number, len) in sizes.into_iter().enumerate() {
        let payload = testee::make(number as u64, len);
        let reply = stage.client.echo(Blob { payload: payload.clone() }).wait()?;
        due("the same bytes", reply.payload == payload, len)?;
    }
    Ok(format!("{} sizes up to 8 MiB", sizes.len()))
}

/// Errors of a handler, and panics: an error with the handler's text, and the connection goes on.
pub(crate) fn errors(stage: &Stage<'_>) -> Result<String, Failure> {
    for n in 0..20 {
        let said = format!("it fails for the {n}th time");
        let fault = Fault { code: 13, message: said.clone(), ..Fault::default() };
        let error = stage.client.fail(fault).wait().err().ok_or("Fail: no error")?;
        due("the handler's words", error.to_string().contains(&said), &error)?;
        due(
            "it was executed",
            error.sent() == Sent::Maybe && error.code() == Code::Internal,
            (error.code(), error.sent()),
        )?;
        let error =
            stage.client.panic(Millis { ms: 0, kind: "now".to_owned() }).wait().err().ok_or("Panic: no error")?;
        due("a panic", error.code() == Code::Internal, &error)?;
        echoes(stage)?;
    }
    Ok("40 errors".to_owned())
}

pub(crate) fn business(stage: &Stage<'_>) -> Result<String, Failure> {
    let extra = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let faults: [(i32, &str, HashMap<String, String>); 3] = [
        (404, "not found", extra(&[("key", "a <b> & \"c\""), ("ключ", "значение")])),
        (-7, "отрицательный", HashMap::new()),
        (1, "", extra(&[("only", "extra")])),
    ];
    for (code, message, extra) in &faults {
        let fault = Fault { code: *code, message: (*message).to_owned(), business: true, extra: extra.clone() };
        let error = stage.client.fail(fault).wait().err().ok_or("no error")?;
        let status = error.business_status().ok_or_else(|| format!("not of the business: {error}"))?;
        let same = status.status == *code && status.message == *message;
        due("the status", same, status)?;
        let got: HashMap<String, String> = status.extra.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        due("its extras", got == *extra, &got)?;
    }
    Ok(format!("{} statuses", faults.len()))
}

pub(crate) fn metadata(stage: &Stage<'_>) -> Result<String, Failure> {
    let call = stage.client.beside(Hop::default()).persistent("TENANT", "a tenant").persistent("LANG", "ü");
    let response = call.metadata("ONCE", "here only").metadata("Case-Stays", "yes").response().wait()?;
    let heard = response.message;
    let pairs = |pairs: [(&str, &str); 2]| HashMap::from(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())));
    due("persistent pairs", heard.persistent == pairs([("TENANT", "a tenant"), ("LANG", "ü")]), &heard.persistent)?;
    due("transient pairs", heard.transient == pairs([("ONCE", "here only"), ("Case-Stays", "yes")]), &heard.transient)?;
    due("a pair backward", response.metadata.get("SERVED_BY") == Some(b"kitex"), &response.metadata)?;
    Ok("5 pairs".to_owned())
}

/// Methods and services that the server has not.
pub(crate) fn unknown(stage: &Stage<'_>) -> Result<String, Failure> {
    static NOPE: MethodDescriptor = MethodDescriptor::new("testee", "Testee", "Nope");
    static NOBODY: MethodDescriptor = MethodDescriptor::new("testee", "Nobody", "Nope");
    // A method that it has, of another service: Kitex v0.11 takes the name of the method, v0.15 that of the service.
    static STRANGER: MethodDescriptor = MethodDescriptor::new("testee", "Nobody", "Once");
    let call: Call<'_, (), Empty, Empty> = stage.channel.unary(&STRANGER, Empty {});
    let refused = call.wait().is_err_and(|error| error.to_string().contains("unknown service Nobody, method Once"));
    due("a stranger's call is refused from v0.15 on", refused == stage.ends.kitex.ends_with("kitex-v0.15"), refused)?;
    for (method, says) in [(&NOPE, "unknown method Nope (service Testee)"), (&NOBODY, "unknown service Nobody")] {
        for _ in 0..10 {
            let call: Call<'_, (), Empty, Empty> = stage.channel.unary(method, Empty {});
            let error = call.wait().err().ok_or("Nope: no error")?;
            due("unimplemented", error.code() == Code::Unimplemented && error.to_string().contains(says), &error)?;
            echoes(stage)?;
        }
    }
    Ok("20 errors".to_owned())
}

/// Behind some errors a server without multiplexing closes the connection, and says so, or not. Nothing is sent there any more, and other calls
/// do not notice.
pub(crate) fn closing(stage: &Stage<'_>) -> Result<String, Failure> {
    static NOPE: MethodDescriptor = MethodDescriptor::new("testee", "Testee", "Nope");
    const CLOSINGS: usize = 30; // no more connections than the tap keeps
    let tap = Tap::before(stage.kitex.borrow().url())?;
    let channel = Channel::builder(&tap.url).timeout(Duration::from_secs(20)).ping_pong().connections(1).build()?;
    let client = TesteeClient::new(channel.clone());
    for _ in 0..CLOSINGS {
        client.echo(Blob::default()).wait()?;
        let call: Call<'_, (), Empty, Empty> = channel.unary(&NOPE, Empty {});
        let error = call.wait().err().ok_or("Nope: no error")?;
        due("unimplemented", error.code() == Code::Unimplemented, &error)?;
    }
    client.echo(Blob::default()).wait()?;
    let (closings, behind) = tap.closings();
    due("each is seen", closings == CLOSINGS, closings)?;
    due("no call behind one", behind == 0, behind)?;
    Ok(format!("{closings} connections closed, no call behind that"))
}

pub(crate) fn timeouts(stage: &Stage<'_>) -> Result<String, Failure> {
    for _ in 0..10 {
        let begun = Instant::now();
        let call = stage.client.sleep(Millis { ms: 600, kind: String::new() }).timeout(Duration::from_millis(100));
        let error = call.wait().err().ok_or("no error")?;
        let took = begun.elapsed();
        due("a timeout", error.code() == Code::DeadlineExceeded && took < Duration::from_millis(500), (&error, took))?;
        echoes(stage)?;
    }
    Ok("10 timeouts".to_owned())
}

/// Two services on one port, which share the name of a method.
pub(crate) fn services(stage: &Stage<'_>) -> Result<String, Failure> {
    let second = SecondClient::new(stage.channel.clone());
    for _ in 0..20 {
        let size = second.measure(Blob { payload: testee::make(1, 17) }).wait()?;
        due("Measure of Second", size.bytes == 17, size)?;
        let report = stage.client.stats(Empty {}).wait()?;
        due("Stats of Testee", report.json.is_empty(), &report)?;
        let report = second.stats(Empty {}).wait()?;
        due("Stats of Second", report.json == r#"{"service":"Second"}"#, &report)?;
    }
    Ok("60 calls".to_owned())
}

/// Ours → Kitex → ours → Kitex.
pub(crate) fn chain(stage: &Stage<'_>) -> Result<String, Failure> {
    let ours = Testee::start(&stage.ends.testee.to_string_lossy(), [""; 0]);
    let last = Testee::start(&stage.ends.kitex.to_string_lossy(), ["--options", "mux,handlers"]);
    const EACH: u32 = 200; // ms at each server
    let hop = Hop { url: ours.url().to_owned(), via: vec![last.url().to_owned()], ms: EACH };
    let call = stage.client.beside(hop).persistent("TENANT", "a tenant").metadata("ONCE", "the first only");
    let response = call.timeout(Duration::from_secs(3)).response().wait()?;
    due("what the first one sent back", response.metadata.get("SERVED_BY") == Some(b"kitex"), &response.metadata)?;
    let heard = response.message;
    let tenant = HashMap::from([("TENANT".to_owned(), "a tenant".to_owned())]);
    due("persistent pairs, and no others", heard.persistent == tenant && heard.transient.is_empty(), &heard)?;
    // Where one hop had counted anew there would be more.
    due("less time at each hop", (1..=3000 - 3 * EACH).contains(&heard.left_ms), heard.left_ms)?;
    Ok(format!("3 hops of {EACH} ms, {} ms left of 3000", heard.left_ms))
}

/// The server is told to go under load. Kitex's servers lose some of the calls that are on their way to them then, of their own clients as
/// of ours: they are counted here, and each ends with an error that says so.
pub(crate) fn stopped(stage: &Stage<'_>) -> Result<String, Failure> {
    let (answered, errors) = under_load(stage, |kitex| kitex.terminate());
    let others: Vec<&Error> = errors.iter().filter(|error| error.code() != Code::Unavailable).collect();
    due("other errors", others.is_empty(), &others)?;
    let unsent = errors.iter().filter(|error| error.sent() == Sent::No).count();
    Ok(format!("{answered} answered, {unsent} not sent, {} perhaps lost", errors.len() - unsent))
}

/// The server is killed: every call ends, at once, and no reply is another's.
pub(crate) fn killed(stage: &Stage<'_>) -> Result<String, Failure> {
    let mut killed = Instant::now();
    let (answered, errors) = under_load(stage, |kitex| {
        kitex.kill();
        killed = Instant::now();
    });
    due("at once", killed.elapsed() < Duration::from_secs(2), killed.elapsed())?;
    let others: Vec<&Error> = errors.iter().filter(|error| error.code() != Code::Unavailable).collect();
    due("other errors", others.is_empty(), &others)?;
    Ok(format!("{answered} answered, {} unavailable", errors.len()))
}

/// 32 threads call until an error each; the server ends when there is a load.
fn under_load(stage: &Stage<'_>, end: impl FnOnce(&mut Testee)) -> (u64, Vec<Error>) {
    let (client, all) = (&stage.client, AtomicU64::new(0));
    std::thread::scope(|scope| {
        let caller = || {
            let mut answered = 0;
            loop {
                let payload = testee::make(answered, 100);
                match client.echo(Blob { payload: payload.clone() }).wait() {
                    Ok(reply) => assert_eq!(reply.payload, payload, "another's reply"),
                    Err(error) => return (answered, error),
                }
                answered += 1;
                all.fetch_add(1, Relaxed);
            }
        };
        let callers: Vec<_> = (0..32).map(|_| scope.spawn(caller)).collect();
        assert!(eventually(Duration::from_secs(20), || all.load(Relaxed) > 2000), "{all:?} calls are no load");
        end(&mut stage.kitex.borrow_mut());
        let ends = callers.into_iter().map(|caller| caller.join().expect("no reply is another's"));
        let (answered, errors): (Vec<u64>, Vec<Error>) = ends.unzip();
        (answered.iter().sum(), errors)
    })
}

/// A server that takes one call a second refuses the others. Kitex has no code for that: it is said in words.
pub(crate) fn limited(stage: &Stage<'_>) -> Result<String, Failure> {
    let outcomes: Vec<_> = (0..10).map(|_| stage.client.echo(Blob::default()).wait()).collect();
    let errors: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    due("some are refused", !errors.is_empty(), outcomes.len())?;
    let too_many = |error: &&Error| error.code() == Code::Internal && error.to_string().contains("over limit");
    due("as too many", errors.iter().all(too_many), &errors)?;
    Ok(format!("{} of 10 refused", errors.len()))
}

/// A server that takes two connections closes the others as they come: their calls were not sent, and are made on one of the two if it
/// is free in time. So all that are served are so two at a time.
pub(crate) fn few_connections(stage: &Stage<'_>) -> Result<String, Failure> {
    const EACH: Duration = Duration::from_millis(200);
    let (client, mut served, mut errors) = (&stage.client, 0u32, Vec::new());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let call = || client.sleep(Millis { ms: EACH.as_millis() as u32, kind: String::new() }).wait();
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(call)).collect();
        for call in calls {
            match call.join().expect("no panic") {
                Ok(_) => served += 1,
                Err(error) => errors.push(error),
            }
        }
    });
    let unavailable = errors.iter().all(|error| error.code() == Code::Unavailable);
    due("two are served, others without a connection or later", served >= 2 && unavailable, (&errors, served))?;
    let elapsed = begun.elapsed();
    due("two at a time", elapsed >= EACH * served.div_ceil(2), (served, elapsed))?;
    Ok(format!("{served} of 4 served"))
}
