//! What of an upgraded connection is use of its instance: by messages, or by being open.
//!
//! Of WebSockets (RFC 6455) the control frames do not count: many servers and libraries send a ping every few seconds for as
//! long as a tab is open. Of other protocols every byte counts.

use std::sync::Arc;

use http::HeaderValue;

use super::{OpenGuard, ProxyState};
use crate::model::{Instance, Key, Phase, Resource as _, WebSocketUse};

/// How a tunnel's bytes count for its instance.
pub struct Use {
    state: Arc<ProxyState>,
    key: Key,
    uid: String,
    open: OpenGuard,
    websocket: bool,
}

impl Use {
    /// Of a connection that has just been upgraded to `protocol`.
    pub fn new(state: Arc<ProxyState>, instance: &Instance, protocol: &HeaderValue, mut open: OpenGuard) -> Use {
        if instance.spec.idle.web_sockets == WebSocketUse::Messages {
            open.count_by_touch();
        }
        let websocket = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
        Use { state, key: instance.key(), uid: instance.metadata.uid.clone(), open, websocket }
    }

    /// For one of its directions.
    pub fn messages(&self) -> Option<Messages> {
        self.websocket.then(Messages::default)
    }

    /// Takes note of what a visitor sends. One that rests with its connections kept is woken by a message.
    pub fn note(&self, messages: &mut Option<Messages>, bytes: &[u8]) {
        if carry(messages, bytes) {
            self.touch();
        }
    }

    /// Takes note of what the app sends. Its last words are no wish to start it again.
    pub fn note_answer(&self, messages: &mut Option<Messages>, bytes: &[u8]) {
        let ends = || matches!(self.phase(), Some(Phase::Stopping | Phase::Asleep | Phase::Stopped));
        if carry(messages, bytes) && self.open.is_touch_due() && !ends() {
            self.touch();
        }
    }

    /// In this order: who decides in between that it rests looks at its use after that is to be seen in the cache.
    fn touch(&self) {
        if self.open.touch_if_due() && self.phase().is_some_and(|phase| phase != Phase::Running) {
            self.state.waker.wake(&self.key);
        }
    }

    /// `None`: it is gone, whatever has its name by now.
    fn phase(&self) -> Option<Phase> {
        let now = self.state.cache.instance(&self.key).filter(|now| now.metadata.uid == self.uid);
        now.map(|now| now.status.phase)
    }
}

/// Whether any of these bytes is use.
fn carry(messages: &mut Option<Messages>, bytes: &[u8]) -> bool {
    messages.as_mut().is_none_or(|messages| messages.carry(bytes))
}

/// Where one direction of a WebSocket is between frames.
#[derive(Debug)]
pub enum Messages {
    /// So much of a frame's header.
    Header { read: [u8; HEADER], len: usize },
    /// So many bytes of a frame are still to come.
    Payload { left: u64, data: bool },
}

/// Two bytes, the longest length, and the mask (RFC 6455 §5.2).
const HEADER: usize = 14;

impl Default for Messages {
    fn default() -> Messages {
        Messages::Header { read: [0; HEADER], len: 0 }
    }
}

impl Messages {
    /// Whether anything of a message is in the bytes that come next.
    pub fn carry(&mut self, mut bytes: &[u8]) -> bool {
        let mut carried = false;
        while !bytes.is_empty() {
            match self {
                Messages::Header { read, len } => {
                    read[*len] = bytes[0];
                    (*len, bytes) = (*len + 1, &bytes[1..]);
                    if let Some(left) = payload(&read[..*len]) {
                        // 0 continues a message, 1 and 2 begin one, 3 to 7 are kept for more of the kind.
                        let data = read[0] & 0x0f < 0x8;
                        carried |= data;
                        *self = if left == 0 { Messages::default() } else { Messages::Payload { left, data } };
                    }
                }
                Messages::Payload { left, data } => {
                    carried |= *data;
                    let passed = (bytes.len() as u64).min(*left);
                    *left -= passed;
                    if *left == 0 {
                        *self = Messages::default();
                    }
                    bytes = &bytes[passed as usize..];
                }
            }
        }
        carried
    }
}

/// The length that a header tells, once all of it is there.
fn payload(header: &[u8]) -> Option<u64> {
    let second = *header.get(1)?;
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    if header.len() < 2 + length + mask {
        return None;
    }
    Some(match length {
        0 => u64::from(second & 0x7f),
        _ => header[2..2 + length].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame with so much payload.
    fn frame(opcode: u8, masked: bool, payload: usize) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match payload {
            ..126 => frame.push(mask | payload as u8),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        if masked {
            // Looks like frames, and is none.
            frame.extend([0x81, 0x05, 0x81, 0x05]);
        }
        frame.extend(std::iter::repeat_n(0x81, payload));
        frame
    }

    #[test]
    fn messages_count_and_pings_do_not() {
        for (opcode, counts) in [(0, true), (1, true), (2, true), (8, false), (9, false), (10, false)] {
            for masked in [false, true] {
                for payload in [0, 1, 125, 126, 65535, 65536] {
                    let mut messages = Messages::default();
                    let what = format!("opcode {opcode}, {payload} bytes, masked: {masked}");
                    assert_eq!(messages.carry(&frame(opcode, masked, payload)), counts, "{what}");
                    assert!(!messages.carry(&frame(9, masked, 3)), "a ping after {what}");
                    assert!(messages.carry(&frame(1, masked, 3)), "a message after {what}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn however_they_are_cut_what_carries_a_message_is_known(
            frames in prop::collection::vec((prop_oneof![Just(1u8), Just(9u8)], any::<bool>(), 0usize..300), 1..8),
            cuts in prop::collection::vec(1usize..40, 1..40),
        ) {
            let bytes: Vec<(u8, bool)> = frames
                .iter()
                .flat_map(|&(opcode, masked, payload)| {
                    let frame = frame(opcode, masked, payload);
                    let header = frame.len() - payload;
                    // What is known of a header is known with its last byte.
                    frame.into_iter().enumerate().map(move |(i, b)| (b, opcode == 1 && i + 1 >= header))
                })
                .collect();
            let (mut messages, mut at) = (Messages::default(), 0);
            for cut in cuts.iter().cycle() {
                if at == bytes.len() {
                    break;
                }
                let piece = &bytes[at..bytes.len().min(at + cut)];
                at += piece.len();
                let expected = piece.iter().any(|(_, counts)| *counts);
                let raw: Vec<u8> = piece.iter().map(|(b, _)| *b).collect();
                prop_assert_eq!(messages.carry(&raw), expected);
            }
        }

        #[test]
        fn no_bytes_confuse_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            Messages::default().carry(&bytes);
        }
    }
}
