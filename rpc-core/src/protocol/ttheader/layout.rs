//! Where everything stands in a TTHeader frame, and the numbers and names in it. All integers are big-endian.
//!
//! ```text
//!  0        4      6      8        12            14           15          16      14 + 4 * HEADER SIZE
//!  LENGTH   MAGIC  FLAGS  SEQ      HEADER SIZE   PROTOCOL ID  TRANSFORMS  INFO    PAYLOAD
//!  u32      u16    u16    i32      u16, of 4 B   u8           u8 (count)  blocks, zero-padded
//! ```

/// Bytes before the variable header: up to and including HEADER SIZE.
pub const FIXED: usize = 14;
/// Value of MAGIC, at offset 4.
pub const MAGIC: u16 = 0x1000;
/// Largest LENGTH the format allows.
pub const MAX_FRAME: u32 = 0x3FFF_FFFF;
/// Longest variable header that is ever sent, in bytes. Longer ones desynchronise peers older than December 2025.
pub const MAX_SENT_HEADER: usize = 65_532;
/// Shortest frame: HEADER SIZE 1 and no payload; the value of its LENGTH.
pub const MIN_LENGTH: u32 = 14;

/// FLAGS bit 0: the client takes replies in any order.
pub const FLAG_OUT_OF_ORDER: u16 = 0x0001;
/// FLAGS bit 1: a frame of TTHeader Streaming.
pub const FLAG_STREAMING: u16 = 0x0002;

/// PROTOCOL ID of everything we send, Protobuf included.
pub const PROTOCOL_DEFAULT: u8 = 0x00;

/// Kinds of info blocks: the byte before each.
pub mod block {
    /// One byte of padding.
    pub const PADDING: u8 = 0x00;
    /// `u16` count, then pairs of `u16`-prefixed strings.
    pub const STRINGS: u8 = 0x01;
    /// `u16` count, then pairs of a `u16` key and a `u16`-prefixed string.
    pub const INTS: u8 = 0x10;
    /// One `u16`-prefixed string, no count.
    pub const ACL: u8 = 0x11;
}

/// Int keys: their values are strings, numbers in decimal.
pub mod int_key {
    /// `framed`, from the client.
    pub const TRANSPORT_TYPE: u16 = 1;
    /// The caller's service name.
    pub const FROM_SERVICE: u16 = 3;
    /// The destination's registry name.
    pub const TO_SERVICE: u16 = 6;
    /// The method called.
    pub const TO_METHOD: u16 = 9;
    /// Timeout of the call in milliseconds.
    pub const RPC_TIMEOUT: u16 = 12;
    /// Timeout of connecting in milliseconds.
    pub const CONNECT_TIMEOUT: u16 = 17;
    /// The method the caller is serving.
    pub const FROM_METHOD: u16 = 20;
    /// Message type of the payload in decimal.
    pub const MSG_TYPE: u16 = 22;
    /// Ours: the bit set of what this side can do beyond Kitex. Its presence says "a peer of this framework".
    pub const CAPABILITIES: u16 = 31_001;
    /// Ours: what a control frame is, `ping`, `pong`, `cancel` or `goaway`.
    pub const CONTROL: u16 = 31_002;
    /// Ours: the number of a control frame.
    pub const CONTROL_NUMBER: u16 = 31_003;
}

/// Bits of [`int_key::CAPABILITIES`].
pub mod capability {
    /// Control frames.
    pub const CONTROL_FRAMES: u32 = 1;
}

/// String keys with a meaning of their own.
pub mod str_key {
    /// IDL service name, without package.
    pub const SERVICE: &[u8] = b"isn";
    /// Remote address as a proxy saw it.
    pub const REMOTE_ADDRESS: &[u8] = b"rip";
    /// `1`: this connection is about to close.
    pub const CLOSING: &[u8] = b"crrst";
    /// Business status, a decimal number.
    pub const BIZ_STATUS: &[u8] = b"biz-status";
    /// Text of the business status.
    pub const BIZ_MESSAGE: &[u8] = b"biz-message";
    /// Extras of the business status, a JSON object of strings.
    pub const BIZ_EXTRA: &[u8] = b"biz-extra";
    /// CRC-32C of everything after the header, as eight hex digits.
    pub const CHECKSUM: &[u8] = b"crc32c";
    /// Ours: why a peer says `goaway`.
    pub const REASON: &[u8] = b"rpc-reason";
    /// Ours: the code of an exception, by its gRPC name.
    pub const CODE: &[u8] = b"rpc-code";
    /// Ours: `1` when the handler certainly did not start.
    pub const NOT_EXECUTED: &[u8] = b"rpc-not-executed";
    /// Prefix of metadata that travels on to every further hop.
    pub const PERSISTENT: &[u8] = b"RPC_PERSIST_";
    /// Prefix of metadata for this hop only.
    pub const TRANSIENT: &[u8] = b"RPC_TRANSIT_";
    /// Prefix of transient metadata that a hop already received; test for it before [`TRANSIENT`].
    pub const TRANSIENT_UPSTREAM: &[u8] = b"RPC_TRANSIT_UPSTREAM_";
    /// Prefix that Volo puts before backward metadata; Kitex puts none.
    pub const BACKWARD: &[u8] = b"RPC_BACKWARD_";
    /// Transient key that travels as an ACL block rather than as a string pair.
    pub const ACL_TOKEN: &[u8] = b"gdpr-token";
}

/// Whether an application may not use `key` for backward metadata: on the wire it would be read as something else.
///
/// ```
/// # use rpc_core::protocol::ttheader::layout::is_reserved;
/// assert!(is_reserved(b"crrst") && is_reserved(b"RPC_anything") && !is_reserved(b"server-zone"));
/// ```
pub fn is_reserved(key: &[u8]) -> bool {
    const NAMES: [&[u8]; 11] = [
        str_key::SERVICE,
        str_key::REMOTE_ADDRESS,
        str_key::CLOSING,
        str_key::BIZ_STATUS,
        str_key::BIZ_MESSAGE,
        str_key::BIZ_EXTRA,
        str_key::CHECKSUM,
        b"ttscp",
        str_key::CODE,
        str_key::NOT_EXECUTED,
        str_key::REASON,
    ];
    key.starts_with(b"PV_") || key.starts_with(b"RPC_") || NAMES.contains(&key)
}
