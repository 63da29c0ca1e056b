//! The holder in SQL passes the suite that the one in memory passes: each action is the transaction that a region
//! really makes, on a real PostgreSQL.

use quota_protocol::conformance::{self, Snapshot, Subject};
use quota_protocol::holder::OrderState;
use quota_protocol::message::{Answer, AnswerSlice, Registered};
use quota_protocol::{
    Action, Counters, Done, Epoch, Identity, Incarnation, OrderId, PoolId, Refused, RegionId, Tickets,
};
use region_api::{Entry, UserHash};
use region_node::db::allocate::{Batches, Decided, Hold, Place};
use region_node::db::book::{self, Known};
use region_node::db::finals::{self, Ended, Ending};
use region_node::db::holder::{self, HolderError};
use region_node::db::payments::settle::{self, Settled, Spare, Told};
use region_node::payments::notice::Attached;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use uuid::Uuid;

use super::sql::{Node, Sql};

/// An order, by its last hold: a released one that is held again is another reservation of the same person.
struct Made {
    pool: PoolId,
    place: Place,
}

struct SqlHolder {
    runtime: Arc<Runtime>,
    sql: Sql,
    batches: Batches,
    orders: BTreeMap<OrderId, Made>,
    holds: u64,
    real: Identity,
}

impl SqlHolder {
    fn new(runtime: &Arc<Runtime>, region: RegionId, identity: Identity) -> Self {
        let (sql, batches, real) = runtime.block_on(async {
            let sql = Sql::new(region.as_str()).await;
            sql.put(&[0]).await;
            sql.renew(identity.copy).await;
            let batches = Batches::connect(&sql.db).await.unwrap();
            let real = holder::read(&sql.db).await.unwrap().stored.identity;
            (sql, batches, real)
        });
        Self { runtime: runtime.clone(), sql, batches, orders: BTreeMap::new(), holds: 0, real }
    }

    /// The suite's databases differ in their copies; system and timeline are those of the server.
    fn real(&self, identity: Identity) -> Identity {
        Identity { copy: identity.copy, ..self.real }
    }

    fn shown(&self, identity: Identity) -> Identity {
        Identity { system: 7, timeline: 1, copy: identity.copy }
    }

    fn node(epoch: Epoch) -> Node {
        Node(Known { book: 0, epoch: Some(epoch.get()) })
    }

    async fn state(&self, order: OrderId) -> Option<OrderState> {
        let made = self.orders.get(&order)?;
        let client = self.sql.db.client().await.unwrap();
        let select = "SELECT state::text FROM reservation WHERE concert_id = $1 AND entry = $2";
        let row = client.query_one(select, &[&self.sql.id(), &made.place.entry.to_i64()]).await.unwrap();
        Some(match row.get(0) {
            "held" => OrderState::Held,
            "cancelled" => OrderState::Released,
            "sold" => OrderState::Sold,
            "refunded" => OrderState::Refunded,
            other => panic!("an order is {other}"),
        })
    }

    /// What the book's lock says to a node that works under this epoch.
    async fn standing(&self, epoch: Epoch) -> Result<(), Refused> {
        let mut client = self.sql.db.client().await.unwrap();
        let tx = client.transaction().await.unwrap();
        let known = Known { book: 0, epoch: Some(epoch.get()) };
        book::lock(&tx, self.sql.id(), known).await.map(|_| ()).map_err(|error| refused(error.into()))
    }

    async fn granted(&self) -> bool {
        self.sql.count("SELECT granted FROM quota").await > 0
    }

    async fn hold(&mut self, epoch: Epoch, pool: PoolId, order: OrderId, tickets: Tickets) -> Result<Done, Refused> {
        let number = order.get();
        self.holds += 1;
        let place = Place {
            entry: Entry::new(0, 1, self.holds).unwrap(),
            arrival_ms: 1_000,
            user: UserHash((number + 1).to_be_bytes()),
            request_id: Some(Uuid::from_u128(u128::from(self.holds))),
            identity: None,
            quantity: u16::try_from(tickets.get()).unwrap(),
            tiers: [0].into_iter().collect(),
            any_quantity: false,
        };
        let known = Known { book: 0, epoch: Some(epoch.get()) };
        let ground = match self.batches.open(self.sql.id(), known, std::slice::from_ref(&place), None, 0).await {
            Ok(ground) => ground,
            Err(error) => {
                self.batches.roll_back().await.unwrap();
                // The lock comes before the row is looked at; either forbids it.
                let refused = refused(error.into());
                let no_row = refused != Refused::Halted && !self.granted().await;
                return Err(if no_row { Refused::NoRow } else { refused });
            }
        };
        let available = Tickets::new(ground.stock[0].available()).unwrap();
        let state = self.state(order).await.filter(|state| *state != OrderState::Released);
        let refused = if ground.stock[0].granted == 0 {
            Some(Refused::NoRow)
        } else if tickets.is_zero() {
            Some(Refused::NothingAsked)
        } else if let Some(state) = state {
            assert_eq!(ground.owned.len() as u64, self.rows_of(place.user).await, "the allocator sees its rows");
            Some(Refused::OrderState(state))
        } else {
            (available < tickets).then_some(Refused::TooFew(available))
        };
        if let Some(refused) = refused {
            self.batches.roll_back().await.unwrap();
            return Err(refused);
        }
        let amount = 1_000 * i64::from(place.quantity);
        let hold = Hold { place: 0, tier: 0, quantity: place.quantity, amount, hold_ms: 600_000 };
        let decided = Decided { holds: vec![hold], ..Decided::default() };
        self.batches
            .commit(self.sql.id(), &ground, std::slice::from_ref(&place), &decided, &Notify::new())
            .await
            .unwrap();
        self.orders.insert(order, Made { pool, place });
        assert_eq!(self.state(order).await, Some(OrderState::Held));
        Ok(Done::Changed)
    }

    async fn rows_of(&self, user: UserHash) -> u64 {
        let client = self.sql.db.client().await.unwrap();
        let select = "SELECT count(*) FROM reservation WHERE user_hash = $1";
        client.query_one(select, &[&user.to_uuid()]).await.unwrap().get::<_, i64>(0).unsigned_abs()
    }

    /// The order's place, if it may go on from that state.
    async fn in_state(&self, epoch: Epoch, order: OrderId, from: OrderState) -> Result<Place, Refused> {
        let standing = self.standing(epoch).await;
        let Some(state) = self.state(order).await else {
            return Err(if standing == Err(Refused::Halted) { Refused::Halted } else { Refused::NoSuchOrder });
        };
        if state != from {
            standing?;
            return Err(Refused::OrderState(state));
        }
        // Where the standing forbids it, the real transaction has to find out by itself.
        Ok(self.orders[&order].place.clone())
    }

    async fn release(&self, epoch: Epoch, order: OrderId) -> Result<Done, Refused> {
        let place = self.in_state(epoch, order, OrderState::Held).await?;
        let ended = finals::end(&self.sql.db, self.sql.id(), &place, Ending::Cancel, &Self::node(epoch)).await;
        match ended.map_err(|error| refused(error.into()))? {
            Ended::WhileHeld { .. } => Ok(Done::Changed),
            other => panic!("{other:?}"),
        }
    }

    async fn pay(&self, epoch: Epoch, order: OrderId, undone: bool) -> Result<Done, Refused> {
        let from = if undone { OrderState::Sold } else { OrderState::Held };
        let place = self.in_state(epoch, order, from).await?;
        let attached = Attached { region: "east".into(), concert: "demo".into(), entry: place.entry.to_i64() };
        let intent = format!("pi_{}", place.entry.to_i64());
        let told = Told {
            intent: &intent,
            amount: 1_000 * i64::from(place.quantity),
            currency: "EUR",
            undone,
            attached: Some(&attached),
            event: None,
        };
        let spare = if undone { Spare::After(&[]) } else { Spare::Unasked };
        let settled = settle::settle(&self.sql.db, told, spare, &Self::node(epoch), "sandbox").await;
        match settled.map_err(|error| refused(error.into()))? {
            Settled::Done { .. } => Ok(Done::Changed),
            other => panic!("{other:?}"),
        }
    }

    async fn act(&mut self, epoch: Epoch, action: &Action) -> Result<Done, Refused> {
        let node = Self::node(epoch);
        let did = match action {
            Action::Hold { pool, order, tickets } => return self.hold(epoch, *pool, *order, *tickets).await,
            Action::Release { order } => return self.release(epoch, *order).await,
            Action::Sell { order } => return self.pay(epoch, *order, false).await,
            Action::Refund { order } => return self.pay(epoch, *order, true).await,
            Action::Return { pool, tickets } => {
                let returned = holder::give_back(&self.sql.db, pool, *tickets, &node).await;
                let granted = self.granted().await;
                match returned {
                    // The lock comes before the row is looked at; either forbids it.
                    Err(error) if !granted => {
                        let halted = refused(error) == Refused::Halted;
                        return Err(if halted { Refused::Halted } else { Refused::NoRow });
                    }
                    returned => returned,
                }
            }
            Action::Deliver(answer) => {
                let own = holder::read(&self.sql.db).await.unwrap();
                holder::deliver(&self.sql.db, &own, answer, &node).await
            }
            Action::Observe(incarnation) => Ok(holder::observe(&self.sql.db, *incarnation).await.unwrap().into()),
            Action::Adopt(registered) => {
                let mut registered = registered.clone();
                registered.identity = self.real(registered.identity);
                holder::adopt(&self.sql.db, &registered).await
            }
            Action::Halt(reason) => Ok(holder::halt(&self.sql.db, reason).await.unwrap().into()),
        };
        did.map(|did| did.done).map_err(refused)
    }
}

fn refused(error: HolderError) -> Refused {
    match error {
        HolderError::Refused(refused) => refused,
        other => panic!("{other}"),
    }
}

impl Subject for SqlHolder {
    fn apply(&mut self, node: Epoch, action: &Action) -> Result<Done, Refused> {
        self.runtime.clone().block_on(self.act(node, action))
    }

    fn snapshot(&mut self) -> Snapshot {
        self.runtime.clone().block_on(async {
            let own = holder::read(&self.sql.db).await.unwrap();
            let halted = own.holder().halted().cloned();
            let mut registration = own.stored.registration;
            if let Some(stored) = &mut registration {
                stored.registered_as = self.shown(stored.registered_as);
            }
            let rows = own.stored.rows.iter();
            let rows = rows.map(|(pool, row)| (*pool, (row.counters, row.epoch, self.shown(row.registered_as))));
            let mut orders = BTreeMap::new();
            for (order, made) in &self.orders {
                let tickets = Tickets::from_u32(made.place.quantity.into());
                orders.insert(*order, (made.pool, tickets, self.state(*order).await.unwrap()));
            }
            let rows = rows.collect();
            self.sql.audit().await;
            Snapshot { incarnation: own.stored.incarnation, registration, halted, rows, orders }
        })
    }

    fn move_to(&mut self, identity: Identity) {
        self.runtime.clone().block_on(self.sql.renew(identity.copy));
    }
}

fn runtime() -> Arc<Runtime> {
    Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
}

#[test]
fn the_holder_in_sql_conforms() {
    let runtime = runtime();
    conformance::run(|region, identity| SqlHolder::new(&runtime, region, identity));
}

/// Sold without a payment, so by a transaction of its own.
#[test]
fn what_costs_nothing_is_not_given_away_by_a_database_that_is_not_registered() {
    let runtime = runtime();
    let identity = |copy| Identity { system: 7, timeline: 1, copy };
    let mut holder = SqlHolder::new(&runtime, "east".parse().unwrap(), identity(1));
    let (pool, order, epoch) = ("demo/A".parse().unwrap(), OrderId::new(1), Epoch::new(1));
    let (incarnation, tickets) = (Incarnation::new(1), Tickets::from_u32(2));
    let registered = Registered { incarnation, epoch, identity: identity(1), seeds: BTreeMap::new() };
    let slice = AnswerSlice { pool, granted: tickets, floor: Counters::ZERO, return_up_to: Tickets::ZERO };
    let granted = Action::Deliver(Answer { incarnation, epoch, slices: vec![slice] });
    for action in [Action::Adopt(registered), granted, Action::Hold { pool, order, tickets }] {
        assert_eq!(holder.apply(epoch, &action), Ok(Done::Changed), "{action:?}");
    }
    let entry = holder.orders[&order].place.entry.to_i64();
    let give = |holder: &SqlHolder| {
        let node = SqlHolder::node(epoch);
        runtime.block_on(settle::sell_free(&holder.sql.db, 1, entry, "id", &node)).map_err(|error| error.to_string())
    };
    runtime.block_on(async { holder.sql.execute("UPDATE reservation SET amount = 0").await });
    holder.move_to(identity(2));
    assert!(give(&holder).unwrap_err().contains("not registered"));
    assert_eq!(holder.snapshot().orders[&order].2, OrderState::Held);
    holder.move_to(identity(1));
    assert_eq!(give(&holder), Ok(true));
    assert_eq!(holder.snapshot().orders[&order].2, OrderState::Sold);
}

#[test]
fn the_holder_in_sql_walks_as_the_one_in_memory_does() {
    let runtime = runtime();
    for seed in 0..12 {
        conformance::walk(|region, identity| SqlHolder::new(&runtime, region, identity), seed, 200);
    }
}
