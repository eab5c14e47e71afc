//! Peers that send what they like, once, and do not care what becomes of it.

use rpc_transport::testing::Received;

use super::World;
use crate::line::Line;
use crate::plan::Attack;

/// Somebody who writes bytes.
pub(super) struct Attacker {
    line: Line,
    /// What it will do.
    attack: Option<Attack>,
    /// It never reads.
    deaf: bool,
}

impl World {
    pub(super) fn attack(&mut self, attack: Attack) {
        let at = self.net.below(self.servers.len() as u64) as usize;
        let mut line = self.dial(at);
        // One who speaks plain text where TLS is spoken is told so.
        let is_understood = !line.is_secure() || self.net.below(2) == 0;
        if !is_understood {
            line = line.into_plain();
        }
        let deaf = !(matches!(attack, Attack::Oneway) && is_understood);
        self.attackers.push(Attacker { line, attack: Some(attack), deaf });
    }

    /// Attackers whose connection is established do what they came for, once.
    pub(super) fn strike(&mut self) -> Result<(), String> {
        for Attacker { line: peer, attack, deaf } in &mut self.attackers {
            peer.go_on();
            if !peer.is_open() {
                continue;
            }
            let mut heard = Vec::new();
            if !*deaf && matches!(peer.read(&mut heard), Received::Bytes(1..)) {
                return Err(format!("I1: an answer to a oneway request: {heard:02x?}"));
            }
            if attack.is_none() {
                continue;
            }
            let request = crate::wire::attack(matches!(attack, Some(Attack::Oneway)));
            let cut = 1 + self.net.below(request.len() as u64 - 1) as usize;
            match attack.take() {
                Some(Attack::Silent) | None => {}
                Some(Attack::Garbage) => {
                    let bytes: Vec<u8> = (0..self.net.below(200)).map(|_| self.net.below(256) as u8).collect();
                    peer.write(&bytes);
                }
                Some(Attack::Partial) => _ = peer.write(&request[..cut]),
                Some(Attack::HalfClose) => {
                    // What follows a short write would be another request, which nobody made.
                    if peer.write(&request) == request.len() {
                        peer.write(&request[..cut]);
                    }
                    peer.finish();
                }
                Some(Attack::Reset) => {
                    peer.write(&request[..cut]);
                    peer.reset();
                }
                Some(Attack::Flood) => {
                    for _ in 0..200 {
                        if peer.write(&request) < request.len() {
                            break;
                        }
                    }
                }
                Some(Attack::Oneway) => {
                    for _ in 0..3 {
                        if peer.write(&request) < request.len() {
                            break; // what followed would be another request, as above
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
