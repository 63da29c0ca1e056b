//! Tickets: shown to their owner, let in once.

use crate::world::{ID_TEXT, World};
use region_api::wire::ticket::{TicketRefusal, TicketStatus};
use region_api::{KeyRing, RegionName, ReservationId, TicketCode, TicketSigner, UserHash};
use region_node::tickets::{TicketError, Tickets};
use std::sync::Arc;
use uuid::Uuid;

fn tickets(w: &World) -> (Tickets, Arc<KeyRing>, TicketSigner) {
    let ring = Arc::new(KeyRing::new(&[[1; 32], [2; 32], [3; 32], [4; 32]]).unwrap());
    let signer = TicketSigner::from_seed(&[9; 32]);
    let east = RegionName::new("east").unwrap();
    (Tickets::new(w.db.clone(), east, ring.clone(), signer.clone(), &[]), ring, signer)
}

/// A sold reservation's first ticket.
async fn sold(w: &World, user: Uuid) -> (region_api::Entry, Uuid, String) {
    let entry = w.hold_for(user, 2, 600_000.0).await;
    let started = w.start(entry).await;
    w.pay(&started, "pm_card_visa").await;
    w.becomes(entry, "sold").await;
    let row = w.sql.query_one("SELECT ticket_id FROM ticket WHERE number = 1", &[]).await.unwrap();
    (entry, row.get(0), started.intent)
}

#[tokio::test]
async fn an_owner_sees_a_ticket_that_the_door_believes() {
    let w = World::new(2).await;
    let (tickets, ring, signer) = tickets(&w);
    let user = Uuid::new_v4();
    let (entry, ticket, _) = sold(&w, user).await;
    let shown = tickets.get(ticket, UserHash::from_uuid(user)).await.unwrap();
    assert_eq!((shown.status, shown.tier.as_str(), shown.concert.as_str()), (TicketStatus::Valid, "A", "demo"));
    assert_eq!(shown.reservation, ID_TEXT, "the same text as its buyer has");
    // A sale of an earlier version: an id of the same place is all that can be given.
    w.sql.execute("UPDATE reservation SET id_text = NULL", &[]).await.unwrap();
    let anew = tickets.get(ticket, UserHash::from_uuid(user)).await.unwrap().reservation;
    let id = ReservationId::parse(&anew, &ring).unwrap();
    assert_eq!((id.entry, id.user, id.quantity), (entry, UserHash::from_uuid(user), 2));
    let code = TicketCode::verify(&shown.code, &[signer.verifier()]).unwrap();
    assert_eq!((code.ticket, code.holder), (ticket, user.into_bytes()));
    assert!(tickets.svg(ticket, UserHash::from_uuid(user)).await.unwrap().contains("<svg"));
    let other = UserHash::from_uuid(Uuid::new_v4());
    assert!(matches!(tickets.get(ticket, other).await, Err(TicketError::NotOwner)));
    assert!(matches!(tickets.svg(ticket, other).await, Err(TicketError::NotOwner)));
    assert!(matches!(tickets.get(Uuid::new_v4(), other).await, Err(TicketError::NotFound)));
}

#[tokio::test]
async fn exactly_one_of_many_doors_lets_a_ticket_in() {
    let w = World::new(2).await;
    let (tickets, _, _) = tickets(&w);
    let user = Uuid::new_v4();
    let (_, ticket, _) = sold(&w, user).await;
    let code = tickets.get(ticket, UserHash::from_uuid(user)).await.unwrap().code;
    let answers = futures::future::join_all((0..32).map(|_| tickets.check(&code))).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| answer.valid && answer.first_used_at == answers[0].first_used_at));
    assert_eq!(answers.iter().filter(|answer| answer.first_use).count(), 1);
    let shown = tickets.get(ticket, UserHash::from_uuid(user)).await.unwrap();
    assert_eq!(shown.status, TicketStatus::Used);
    assert_eq!(w.number("SELECT count(*) FROM ticket WHERE status = 'used'").await, 1);
}

#[tokio::test]
async fn void_forged_and_unknown_tickets_stay_outside() {
    let w = World::new(2).await;
    let (tickets, _, signer) = tickets(&w);
    let user = Uuid::new_v4();
    let (entry, ticket, intent) = sold(&w, user).await;
    let code = tickets.get(ticket, UserHash::from_uuid(user)).await.unwrap().code;
    w.happen(&intent, "refund").await;
    w.becomes(entry, "refunded").await;
    let answer = tickets.check(&code).await.unwrap();
    assert_eq!((answer.valid, answer.first_use, answer.reason), (false, false, Some(TicketRefusal::Void)));
    let mut contents = TicketCode::verify(&code, &[signer.verifier()]).unwrap();
    let forged = tickets.check(&contents.sign(&TicketSigner::from_seed(&[8; 32]))).await.unwrap();
    assert_eq!((forged.valid, forged.reason, forged.ticket), (false, Some(TicketRefusal::Forged), None));
    contents.ticket = Uuid::new_v4();
    let unknown = tickets.check(&contents.sign(&signer)).await.unwrap();
    assert_eq!((unknown.valid, unknown.reason), (false, Some(TicketRefusal::Unknown)));
    assert_eq!(w.number("SELECT count(*) FROM ticket WHERE used_at IS NOT NULL").await, 0);
}
