//! One measurement of ours, or of the floor.

use bench_driver::Report;

use crate::args::{Client, LoadArgs};
use crate::floor::FloorClient;
use crate::{Failure, client};

/// Makes one measurement.
///
/// # Errors
/// When a side cannot start, a call fails, or a reply is wrong.
pub fn run(args: &LoadArgs) -> Result<Report, Failure> {
    args.check()?;
    let (name, server) = (args.client.name(), args.server());
    match args.client {
        Client::Floor => {
            bench_driver::run(&args.run, &name, &server, |url, stage| FloorClient::start(&args.run, url, stage))
        }
        _ => bench_driver::run(&args.run, &name, &server, |url, stage| client::start(args, url, stage)),
    }
}
