//! One measurement of ours, or of the floor.

use bench_driver::Report;

use crate::args::{Client, LoadArgs};
use crate::floor::{FloorClient, Manner, TokioFloor};
use crate::{Failure, client};

/// Makes one measurement.
///
/// # Errors
/// When a side cannot start, a call fails, or a reply is wrong.
pub fn run(args: &LoadArgs) -> Result<Report, Failure> {
    args.check()?;
    let (run, name, server) = (&args.run, args.client.name(), args.server());
    let floor =
        |manner| bench_driver::run(run, &name, &server, |url, stage| FloorClient::start(run, manner, url, stage));
    match args.client {
        Client::Floor => floor(Manner::Gathering),
        Client::FloorSingly => floor(Manner::Singly),
        Client::FloorSpinning => floor(Manner::Spinning),
        Client::FloorTokio => bench_driver::run(run, &name, &server, |url, stage| TokioFloor::start(run, url, stage)),
        _ => bench_driver::run(run, &name, &server, |url, stage| client::start(args, url, stage)),
    }
}
