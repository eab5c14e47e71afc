//! Prints frames in words: what a capture of a connection with Kitex, or with a peer of ours, says.
//!
//! ```text
//! cargo run -p rpc-core --example decode -- 0000001e1000000100000001…      hex, as a test vector has it
//! cargo run -p rpc-core --example decode < frames.hex                      hex, white space between
//! tcpdump -i lo -w calls.pcap tcp port 7000; cargo run -p rpc-core --example decode -- calls.pcap
//! ```
//!
//! Of a pcap file it reads TCP over IPv4 on Ethernet, loopback and `any` devices, each direction by itself, without what was lost.

mod pcap;
mod words;

use std::fmt::Write as _;
use std::io::Read;
use std::process::ExitCode;

use pcap::streams;
use words::frames;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!(
            "decode [HEX | FILE.pcap]: prints the frames of a connection in words; without a word, of hex from standard input"
        );
        return ExitCode::SUCCESS;
    }
    match decode(&words) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("decode: {error}");
            ExitCode::FAILURE
        }
    }
}

fn decode(words: &[String]) -> Result<String, String> {
    let mut text = String::new();
    match words {
        [file] if file.ends_with(".pcap") => {
            let bytes = std::fs::read(file).map_err(|e| format!("{file}: {e}"))?;
            for (direction, stream) in streams(&bytes)? {
                let _ = writeln!(text, "{direction}, {} bytes", stream.len());
                frames(&stream, &mut text);
            }
        }
        [] => {
            let mut hex = String::new();
            std::io::stdin().read_to_string(&mut hex).map_err(|e| e.to_string())?;
            frames(&bytes_of(&hex)?, &mut text);
        }
        _ => frames(&bytes_of(&words.concat())?, &mut text),
    }
    Ok(text)
}

fn bytes_of(hex: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if digits.is_empty() || digits.len() % 2 == 1 {
        return Err(format!(
            "{} hex digits are no bytes; give an even number of them, or a file NAME.pcap",
            digits.len()
        ));
    }
    let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    digits
        .chunks(2)
        .map(|pair| byte(pair).ok_or_else(|| format!("{:?} is not hex", String::from_utf8_lossy(pair))))
        .collect()
}
