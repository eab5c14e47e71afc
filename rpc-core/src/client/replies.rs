//! What a client's connection hears: replies, told apart from what only looks like one, and given to their calls.

use rpc_transport::{CloseReason, Cx, Frame};

use super::handler::{ClientHandler, Place};
use super::refusals::shown;
use crate::error::{Error, Phase, Sent};
use crate::mux::{Abandon, Found, Late, Reply, SeqId};
use crate::protocol::ttheader::{EXCEPTION_INFO, REPLY_INFO, ReplyInfo, TtFrame};
use crate::protocol::{Checksum, MessageType, Payload};

impl ClientHandler {
    /// Takes a frame apart, and ends the call that it answers.
    ///
    /// # Errors
    /// The stream cannot be trusted: fatal for the connection.
    #[inline]
    pub(super) fn reply(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) -> Result<(), Error> {
        if let Some(known) = self.known.matches(frame.bytes())
            && let seq = SeqId::from_wire(known.seq)
            && let Some(entry) = self.pending.get(seq)
            && matches!(entry.place, Place::OnWire(_))
            && self.known_of.is_some_and(|of| std::ptr::eq(of, entry.method))
        {
            let body = frame.slice(known.body);
            let reply = Reply { id: seq, kind: MessageType::Reply, body, info: None };
            self.works();
            self.settle(cx, seq, Found::Done(Ok(reply)), Abandon::Unsent);
            return Ok(());
        }
        self.reply_anew(cx, frame)
    }

    /// As [`reply`](Self::reply), to a frame whose head is not known.
    #[inline(never)]
    fn reply_anew(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) -> Result<(), Error> {
        let tt = TtFrame::decode(frame.bytes())?;
        if tt.seq == 0 {
            return self.control(cx, &tt);
        }
        let payload = Payload::decode(tt.payload)?;
        let plain = tt.info == REPLY_INFO || tt.info == EXCEPTION_INFO;
        let info = if plain {
            Ok(None)
        } else {
            match ReplyInfo::parse(tt.info, &self.channel.config.limits.header()) {
                Err(error) if error.is_fatal() => return Err(error.into()), // whoever the reply is for
                parsed => parsed.map(|info| Some(Box::new(info))),
            }
        };
        if let Ok(Some(info)) = &info
            && self.keepalive.is_none()
        {
            self.read_confirmation(cx, info); // whoever the reply is for
        }
        let seq = SeqId::from_wire(tt.seq);
        let entry = match self.pending.get(seq) {
            Some(entry) => match &mut entry.place {
                Place::OnWire(_) => entry,
                // It timed out, and its caller has not fetched that yet.
                Place::Done(how @ Abandon::OnWire) => {
                    *how = Abandon::Unsent;
                    self.unfetched -= 1;
                    self.channel.stats.late_replies.add(1);
                    self.works();
                    return Ok(());
                }
                Place::Done(_) | Place::Queued(_) => {
                    self.glitch(cx, "a second reply to a call, or a reply to one not yet sent");
                    return Ok(());
                }
            },
            None => {
                match self.pending.late(seq) {
                    Late::Abandoned => {
                        self.channel.stats.late_replies.add(1);
                        self.works();
                    }
                    Late::Unknown => self.glitch(cx, "a reply to an id that no call has"),
                }
                return Ok(());
            }
        };
        match payload.kind {
            MessageType::Reply => {
                let method = entry.method;
                if payload.method != method.name().as_bytes() || payload.seq != tt.seq {
                    let text = format!("the reply to {method} is of another call: {}", shown(payload.method));
                    self.finish(cx, seq, Err(Error::closed(text).with_phase(Phase::Decode)), Abandon::Unsent);
                    cx.abort(CloseReason::Local("a reply does not match its call"));
                    return Ok(());
                }
            }
            // Whatever its method and id are, as Kitex's clients take it: the header's id says whose it is.
            MessageType::Exception => {}
            MessageType::Call | MessageType::Oneway => {
                self.glitch(cx, "a request where a reply is due");
                return Ok(());
            }
        }
        let outcome = match info {
            Ok(info) => {
                let announced =
                    info.as_ref().filter(|_| self.channel.config.checksum).and_then(|info| info.checksum.as_deref());
                if let Some(Err(corrupt)) = announced.map(|announced| Checksum::check(announced, tt.payload)) {
                    self.glitch(cx, "a reply that is not what its checksum says");
                    let error = Error::from(corrupt).with_phase(Phase::Decode);
                    self.works();
                    self.finish(cx, seq, Err(error), Abandon::Unsent);
                    return Ok(());
                }
                let error_of_kitex =
                    payload.kind == MessageType::Exception && info.as_ref().is_none_or(|info| info.code.is_none());
                // Kitex's servers close a connection without multiplexing behind some errors, and do not always say so.
                let closes = error_of_kitex && !self.channel.config.multiplexed;
                if closes || info.as_ref().is_some_and(|info| info.closing) {
                    self.works();
                    self.turn_away(cx, "the peer closes the connection");
                }
                if plain && payload.kind == MessageType::Reply {
                    self.learn(seq, frame, tt.payload.len(), payload.body.len());
                }
                Ok(Reply { id: seq, kind: payload.kind, body: frame.slice(payload.body), info })
            }
            Err(error) => {
                self.glitch(cx, "a reply's header is over a limit");
                Err(Error::from(error).with_phase(Phase::Decode).with_sent(Sent::Maybe))
            }
        };
        self.works();
        self.finish(cx, seq, outcome, Abandon::Unsent);
        Ok(())
    }

    /// A plain reply with a head that is not known: the second one to the same method in a row makes it known.
    fn learn(&mut self, seq: SeqId, frame: Frame<'_>, payload_len: usize, body_len: usize) {
        let Some(method) = self.pending.get(seq).map(|entry| entry.method) else { return };
        let before = self.last_of.replace(method);
        if before.is_some_and(|before| std::ptr::eq(before, method)) {
            self.known_of = Some(method);
            self.known.learn(frame.bytes(), payload_len, body_len);
        }
    }

    /// The peer is well.
    #[inline]
    fn works(&mut self) {
        if !std::mem::replace(&mut self.answered, true) {
            self.slot().works();
        }
    }
}
