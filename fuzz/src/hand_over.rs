//! What a process says to the one that it takes over from, or that takes over from it.

use rpc_transport::testing::hand_over_message;

use crate::{meter, reach};

/// Reading a message of a hand-over: what is taken would be written like this, byte for byte; what is refused says why in a line.
pub fn hand_over(data: &[u8]) {
    let read = meter::framing(data.len(), || hand_over_message(data));
    reach::note("rpc-transport/src/upgrade/message.rs", "decode", &read);
    match read {
        Ok(written) => assert_eq!(written, data),
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
    }
}
