//! What servers take for a connection with one call at a time.

use bench_driver::RunArgs;

use crate::Failure;
use crate::args::{Client, ConnectionsArgs};
use crate::subject::{Subject, peers};

/// Connections of the smaller and of the larger run: what they differ by has no start-up in it.
const CONNECTIONS: [usize; 2] = [500, 2000];

/// Measures everybody, and prints the result as markdown.
///
/// # Errors
/// When there are not enough descriptors, or a call of ours fails.
pub fn connections(args: &ConnectionsArgs) -> Result<(), Failure> {
    let mut subjects = vec![Subject::Ours(Client::Floor), Subject::Ours(Client::Reactor)];
    for program in &args.peers {
        subjects.extend(peers(program)?);
    }
    println!("| who | bytes of a server's memory for a connection |\n| --- | ---: |");
    for subject in subjects {
        match bytes_of(&subject) {
            Ok(bytes) => println!("| {} | {bytes} |", subject.name()),
            Err(failure) if subject.is_other() => println!("| {} | – ({failure}) |", subject.name()),
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// Resident memory: the pages that the process has touched and not given back, whatever they are used for.
fn bytes_of(subject: &Subject) -> Result<u64, Failure> {
    let [few, many] = CONNECTIONS.map(|connections| {
        let run = RunArgs { connections, warm_up: 0.1, ..RunArgs::echo(32, connections, 0.3) };
        subject.measure(&run).map(|report| report.server.rss_kib)
    });
    let (few, many) = (few?, many?);
    let more = many.checked_sub(few).filter(|more| *more > 0);
    let more = more.ok_or_else(|| format!("{many} KiB with many connections, {few} with few"))?;
    Ok(more * 1024 / (CONNECTIONS[1] - CONNECTIONS[0]) as u64)
}
