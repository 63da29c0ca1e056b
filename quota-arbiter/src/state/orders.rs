//! What operators order, applied: each as a whole or not at all, checked against the state at that moment.

use arbiter_api::{ConcertOrder, Place};
use quota_protocol::{
    Command, ConcertId, Outcome, PoolId, RegionId, Tickets, TierId,
    command::{CommandRefused, Ignored, Sales},
    limits::{NAME_SIZE_MAX_BYTES, REPORTED_TICKETS_MAX},
};
use region_api::{Code, ConcertName, InvalidField, Timestamp, body::Checked as _, wire::ConcertDefinition};
use thiserror::Error;

use super::{News, State, Told};
use crate::{command::Order, limits::TOTAL_MAX_TICKETS};

/// What an order did.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// A quota command.
    Quota(Outcome),
    /// Something changed.
    Changed(String),
    /// It was as asked.
    Unchanged(String),
    /// Nothing was done.
    Refused(OrderRefused),
}

/// Why an order was not carried out.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum OrderRefused {
    /// The body is wrong.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// No such concert.
    #[error("there is no concert {0}")]
    NoSuchConcert(ConcertId),
    /// The issuer refuses what a tier's total needs.
    #[error("{pool}: {reason}")]
    Pool {
        /// The pool.
        pool: PoolId,
        /// Why.
        reason: Box<CommandRefused>,
    },
    /// The pool or region has not enough, or takes none.
    #[error("{0}")]
    NotNow(String),
    /// A total beyond what a tier may have.
    #[error("to: at most {TOTAL_MAX_TICKETS} tickets in a tier")]
    TotalTooLarge,
    /// Sales beyond any sale.
    #[error("sales: at most {REPORTED_TICKETS_MAX} tickets each")]
    SalesTooLarge,
    /// From a place to itself.
    #[error("from and to are the same")]
    SamePlace,
}

impl OrderRefused {
    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) | Self::TotalTooLarge | Self::SalesTooLarge | Self::SamePlace => Code::InvalidRequest,
            Self::NoSuchConcert(_) => Code::NotFound,
            Self::Pool { reason, .. } => code(reason),
            Self::NotNow(_) => Code::Conflict,
        }
    }
}

fn code(refused: &CommandRefused) -> Code {
    match refused {
        CommandRefused::NoSuchPool(_) | CommandRefused::NoSuchRegion(_) => Code::NotFound,
        _ => Code::Conflict,
    }
}

impl Effect {
    /// What an operator is told of it.
    pub fn told(&self) -> Told {
        let told = |changed, said: String| Told { changed, refused: None, said };
        let refused = |code, said: String| Told { changed: false, refused: Some(code), said };
        match self {
            Self::Changed(said) => told(true, said.clone()),
            Self::Unchanged(said) => told(false, said.clone()),
            Self::Refused(reason) => refused(reason.code(), reason.to_string()),
            Self::Quota(Outcome::Refused(reason)) => refused(code(reason), reason.to_string()),
            Self::Quota(Outcome::Ignored(Ignored::Reached)) => told(false, "it was so already".to_owned()),
            Self::Quota(Outcome::Ignored(reason)) => refused(Code::Conflict, reason.to_string()),
            Self::Quota(Outcome::Unchanged) => told(false, "it was so already".to_owned()),
            Self::Quota(Outcome::Done) => told(true, "done".to_owned()),
            Self::Quota(Outcome::Granted(tickets)) => told(true, format!("{tickets} tickets granted")),
            Self::Quota(Outcome::Returned(tickets)) => told(true, format!("{tickets} tickets came back")),
            Self::Quota(Outcome::FloorsRaised(floors)) => told(*floors > 0, format!("{floors} floors raised")),
            Self::Quota(Outcome::Registered(registered)) => {
                told(true, format!("registered under epoch {}", registered.epoch))
            }
            Self::Quota(Outcome::WrittenOff(tickets)) => {
                told(true, format!("written off; {tickets} tickets came back into the pools"))
            }
        }
    }
}

fn in_bounds(sales: &Sales) -> bool {
    sales.sold.get() <= REPORTED_TICKETS_MAX && sales.refunded.get() <= REPORTED_TICKETS_MAX
}

impl State {
    pub(super) fn carry_out(&mut self, now: Timestamp, order: &Order, news: &mut News) -> Effect {
        match order {
            Order::Quota(Command::SetTotal { pool, from, to }) => self.set_total(pool, *from, *to, news),
            Order::Quota(Command::WriteOff { sales, .. }) if !sales.iter().all(in_bounds) => {
                Effect::Refused(OrderRefused::SalesTooLarge)
            }
            Order::Quota(command) => Effect::Quota(self.command(command, news)),
            Order::PutConcert { concert, definition } => {
                self.put_concert(concert, definition, news).unwrap_or_else(Effect::Refused)
            }
            Order::CloseConcert { concert } => match self.concerts.get_mut(concert) {
                None => Effect::Refused(OrderRefused::NoSuchConcert(*concert)),
                Some(known) if known.closed_at.is_some() => Effect::Unchanged("it was closed before".to_owned()),
                Some(known) => {
                    known.closed_at = Some(now);
                    self.concerts_changed(news);
                    Effect::Changed("closed; every region ends its sale when it hears of it".to_owned())
                }
            },
            Order::FreezeConcert { concert, frozen } => self.freeze(concert, *frozen, news),
            Order::Move { pool, from, to, tickets } => {
                self.move_tickets(pool, *from, *to, *tickets, news).unwrap_or_else(Effect::Refused)
            }
            Order::Rebalance { concert } => match self.concerts.contains_key(concert) {
                true => Effect::Changed("the next plan is made at once and without patience".to_owned()),
                false => Effect::Refused(OrderRefused::NoSuchConcert(*concert)),
            },
            Order::PutMember { id, .. } if self.retired.contains(id) => {
                Effect::Refused(OrderRefused::NotNow(format!("arbiter {id} was removed; ids are not used again")))
            }
            Order::PutMember { id, address } => {
                let before = self.members.insert(*id, address.clone());
                if before.as_ref() == Some(address) {
                    Effect::Unchanged("it was known there".to_owned())
                } else {
                    Effect::Changed(format!("arbiter {id} is found at {}", address.address))
                }
            }
            Order::Transfer { .. } => Effect::Changed("leadership is to be handed over".to_owned()),
            Order::ForgetMember { id } => match self.members.remove(id) {
                Some(_) => {
                    self.retired.insert(*id);
                    Effect::Changed(format!("arbiter {id} is forgotten"))
                }
                None => Effect::Unchanged(format!("arbiter {id} was not known")),
            },
        }
    }

    fn concerts_changed(&mut self, news: &mut News) {
        self.concerts_version += 1;
        news.everybody = true;
    }

    fn put_concert(
        &mut self,
        concert: &ConcertId,
        definition: &ConcertDefinition,
        news: &mut News,
    ) -> Result<Effect, OrderRefused> {
        let name =
            ConcertName::new(concert.as_str()).map_err(|error| InvalidField::new("concert", error.to_string()))?;
        definition.check_name(&name)?;
        definition.check()?;
        let definition = ConcertDefinition { concert: Some(name), ..definition.clone() };
        let before = self.concerts.get(concert);
        if let Some(before) = before {
            definition.check_change(&before.definition)?;
            if before.definition == definition {
                return Ok(Effect::Unchanged("it was so already".to_owned()));
            }
        }
        let created = before.is_none();
        let closed_at = before.and_then(|before| before.closed_at);
        // Totals change together or not at all.
        let mut issuer = self.issuer.clone();
        for (index, tier) in definition.tiers.iter().enumerate() {
            let wrong = |problem: String| InvalidField::new(format!("tiers[{index}].tier"), problem);
            let tier_id = TierId::new(tier.tier.as_str())
                .map_err(|error| wrong(format!("{error} (at most {NAME_SIZE_MAX_BYTES} bytes)")))?;
            let pool = PoolId { concert: *concert, tier: tier_id };
            let to = Tickets::new(tier.total).map_err(|error| wrong(error.to_string()))?;
            let command = match issuer.pools().get(&pool) {
                None => Command::CreatePool { pool, total: to },
                Some(known) if known.total == to => continue,
                Some(known) => Command::SetTotal { pool, from: known.total, to },
            };
            if let Outcome::Refused(reason) = issuer.apply(&command) {
                return Err(OrderRefused::Pool { pool, reason: Box::new(reason) });
            }
        }
        self.issuer = issuer;
        self.concerts.insert(*concert, ConcertOrder { concert: *concert, definition, closed_at });
        self.concerts_changed(news);
        Ok(Effect::Changed(if created { "created" } else { "changed" }.to_owned()))
    }

    /// A pool's total, also where the concert's definition states it.
    fn set_total(&mut self, pool: &PoolId, from: Tickets, to: Tickets, news: &mut News) -> Effect {
        if to > Tickets::from_u32(TOTAL_MAX_TICKETS) {
            return Effect::Refused(OrderRefused::TotalTooLarge);
        }
        let outcome = self.command(&Command::SetTotal { pool: *pool, from, to }, news);
        if outcome == Outcome::Done
            && let Some(concert) = self.concerts.get_mut(&pool.concert)
            && let Some(tier) =
                concert.definition.tiers.iter_mut().find(|tier| tier.tier.as_str() == pool.tier.as_str())
        {
            tier.total = to.get();
            self.concerts_changed(news);
        }
        Effect::Quota(outcome)
    }

    fn freeze(&mut self, concert: &ConcertId, frozen: bool, news: &mut News) -> Effect {
        let pools = self.issuer.pools().keys().filter(|pool| pool.concert == *concert).copied().collect::<Vec<_>>();
        if pools.is_empty() {
            return Effect::Refused(OrderRefused::NoSuchConcert(*concert));
        }
        let command = |pool| if frozen { Command::Freeze { pool } } else { Command::Thaw { pool } };
        let changed = pools.into_iter().filter(|pool| self.command(&command(*pool), news) == Outcome::Done).count();
        let said = format!("{changed} tiers {}", if frozen { "frozen" } else { "thawed" });
        if changed > 0 { Effect::Changed(said) } else { Effect::Unchanged(said) }
    }

    fn move_tickets(
        &mut self,
        pool: &PoolId,
        from: Place,
        to: Place,
        tickets: Tickets,
        news: &mut News,
    ) -> Result<Effect, OrderRefused> {
        if tickets.is_zero() {
            return Err(InvalidField::new("tickets", "must be at least 1").into());
        }
        if from == to {
            return Err(OrderRefused::SamePlace);
        }
        let unknown = |reason| OrderRefused::Pool { pool: *pool, reason: Box::new(reason) };
        let known = self.issuer.pools().get(pool).ok_or(unknown(CommandRefused::NoSuchPool(*pool)))?;
        for place in [from, to] {
            if let Place::Region(region) = place
                && !self.issuer.regions().contains_key(&region)
            {
                return Err(unknown(CommandRefused::NoSuchRegion(region)));
            }
        }
        match (from, to) {
            (Place::Pool, Place::Region(region)) => {
                let left = known.pool;
                if left < tickets {
                    return Err(OrderRefused::NotNow(format!("{pool}: the pool has only {left}")));
                }
                Ok(Effect::Quota(self.grant_more(pool, region, tickets, news)))
            }
            (Place::Region(region), _) => {
                let slice = self.issuer.slice(&region, pool);
                let out = slice.granted.minus_or_zero(slice.accepted);
                if out < tickets {
                    return Err(OrderRefused::NotNow(format!("{pool}: {region} has only {out}, sold ones included")));
                }
                Ok(Effect::Changed(format!("{region} is asked for {tickets}; it returns what it can spare")))
            }
            (Place::Pool, Place::Pool) => Err(OrderRefused::SamePlace),
        }
    }

    fn grant_more(&mut self, pool: &PoolId, region: RegionId, tickets: Tickets, news: &mut News) -> Outcome {
        let granted = self.issuer.slice(&region, pool).granted + tickets;
        let epoch = self.issuer.view(&region).epoch;
        self.command(&Command::GrantUpTo { region, epoch, pool: *pool, granted }, news)
    }
}
