//! `POST /raft`: messages between arbiters, length-delimited. Only from the arbiter that the certificate names, and
//! only of the same incarnation: arbiters from before a restore have forgotten nothing, and have no say.

use std::sync::Arc;

use arbiter_api::{Role, limits::RAFT_BODY_MAX_BYTES};
use axum::{
    Extension,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Buf as _;
use http::{HeaderMap, StatusCode};
use prost::Message as _;
use region_api::Code;

use super::{App, Refusal, body, door::Caller};
use crate::{limits::RAFT_MESSAGES_PER_REQUEST_MAX, raft::Message, transport::INCARNATION};

pub(super) async fn step(
    State(app): State<Arc<App>>,
    Extension(Caller(role)): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let Role::Arbiter(from) = role else {
        return Err(Refusal::new(Code::Forbidden, format!("your certificate says {role}; this is for arbiters")));
    };
    let status = app.node.status();
    let incarnation = headers.get(INCARNATION).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let incarnation: u64 = incarnation.ok_or_else(|| Refusal::invalid(INCARNATION, "is missing"))?;
    // A node that has nothing yet takes whatever incarnation its cluster is in.
    if incarnation != status.incarnation.get() && status.applied > 1 {
        let detail = format!("you are of incarnation {incarnation}, this cluster is of {}", status.incarnation);
        return Err(Refusal::new(Code::Conflict, detail));
    }
    let messages = decode(&body::read(body, RAFT_BODY_MAX_BYTES).await?)?;
    if let Some(foreign) = messages.iter().find(|message| message.from != from) {
        let detail = format!("arbiter {from} may not speak for {}", foreign.from);
        return Err(Refusal::new(Code::Forbidden, detail));
    }
    if let Some(lost) = messages.iter().find(|message| message.to != status.id) {
        return Err(Refusal::invalid("to", format!("{} is not this arbiter, which is {}", lost.to, status.id)));
    }
    app.node.step(messages);
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn decode(mut bytes: &[u8]) -> Result<Vec<Message>, Refusal> {
    let mut messages = Vec::new();
    while bytes.has_remaining() {
        if messages.len() >= RAFT_MESSAGES_PER_REQUEST_MAX {
            return Err(Refusal::new(Code::TooLarge, format!("at most {RAFT_MESSAGES_PER_REQUEST_MAX} messages")));
        }
        let message = Message::decode_length_delimited(&mut bytes);
        let message = message.map_err(|error| Refusal::invalid("body", error))?;
        if !(0..=raft::eraftpb::MessageType::MsgRequestPreVoteResponse as i32).contains(&message.msg_type) {
            return Err(Refusal::invalid("msg_type", "is none"));
        }
        messages.push(message);
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_comes_is_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(decode(&bytes));
        }
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        for from in 1..=3 {
            Message { from, to: 9, ..Message::default() }.encode_length_delimited(&mut bytes).unwrap();
        }
        let from = decode(&bytes).unwrap().iter().map(|message| message.from).collect::<Vec<_>>();
        assert_eq!(from, [1, 2, 3]);
        assert!(decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
