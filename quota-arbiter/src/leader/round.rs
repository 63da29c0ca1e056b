//! One round of the leader: what was reported becomes commands, and now and then the policy says what to move.

use quota_protocol::{
    Command, Issuer, PoolId, RegionId, Tickets,
    command::Heard as Floor,
    issuer::{Pool, RegionState},
    policy::{self, Move, PoolView, Stock},
};

use super::{Leader, current};
use crate::{
    limits::{COMMANDS_PER_ENTRY_MAX, FLOORS_PER_ENTRY_MAX},
    state::State,
};

/// What a round asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Commands to propose, one log entry each.
    pub entries: Vec<Vec<Command>>,
    /// Regions that are asked for something, now or again.
    pub asked: Vec<RegionId>,
}

impl Leader {
    /// Does a round: to be called every tick, and earlier when [`Leader::hurried`].
    pub fn round(&mut self, state: &State, now_ms: u64) -> Round {
        let issuer = state.issuer();
        let (mut commands, mut floors) = self.read_reports(issuer);
        floors.extend(std::mem::take(&mut self.doubts).into_values());
        let mut round = Round::default();
        if issuer.recovering().is_none() {
            commands.extend(self.errand_grants(issuer, now_ms));
            let grants = self.plan_due(state, now_ms, &mut round.asked);
            // Floors first, where they fit: a report that is floored is one that a successor need not wait for.
            if floors.len() + commands.len() + grants.len() < COMMANDS_PER_ENTRY_MAX && !floors.is_empty() {
                commands.push(Command::RaiseFloors { heard: std::mem::take(&mut floors) });
            }
            commands.extend(grants);
        }
        round.entries.extend(commands.chunks(COMMANDS_PER_ENTRY_MAX).map(<[Command]>::to_vec));
        let floors = floors.chunks(FLOORS_PER_ENTRY_MAX).map(<[Floor]>::to_vec);
        round.entries.extend(floors.map(|heard| vec![Command::RaiseFloors { heard }]));
        round
    }

    /// Reports are read until the log has what they ask for. A report of a region that this node does not know that
    /// way yet is kept, too: a leader may hear of an epoch before it has applied it.
    fn read_reports(&mut self, issuer: &Issuer) -> (Vec<Command>, Vec<Floor>) {
        let (mut commands, mut floors) = (Vec::new(), Vec::new());
        let reports = &self.reports;
        self.unread.retain(|region| {
            let Some(heard) = reports.get(region) else { return false };
            let (returns, raised) = issuer.read_report(&heard.report);
            let settled = returns.is_empty() && raised.is_empty() && current(issuer, &heard.report);
            commands.extend(returns);
            floors.extend(raised);
            !settled
        });
        (commands, floors)
    }

    fn plan_due(&mut self, state: &State, now_ms: u64, asked: &mut Vec<RegionId>) -> Vec<Command> {
        let soon = std::mem::take(&mut self.soon);
        let pools = if now_ms >= self.plan_at_ms {
            self.plan_at_ms = now_ms + self.policy.heartbeat_ms;
            state.issuer().pools().keys().copied().collect::<Vec<_>>()
        } else {
            soon.into_iter().collect()
        };
        let mut commands = Vec::new();
        for id in pools {
            if let Some(pool) = state.issuer().pools().get(&id) {
                commands.extend(self.plan(state, &id, pool, now_ms, asked));
            }
        }
        commands
    }

    fn plan(
        &mut self,
        state: &State,
        id: &PoolId,
        pool: &Pool,
        now_ms: u64,
        asked: &mut Vec<RegionId>,
    ) -> Vec<Command> {
        let issuer = state.issuer();
        let view = self.view(state, id, pool, now_ms);
        let memory = self.memory.entry(*id).or_default();
        let (moves, next) = policy::plan(&view, memory, &self.policy);
        *memory = next;
        self.asks.remove(id);
        let mut commands = Vec::new();
        for made in moves {
            match made {
                Move::Grant { region, granted } => {
                    let epoch = issuer.view(&region).epoch;
                    commands.push(Command::GrantUpTo { region, epoch, pool: *id, granted });
                }
                Move::Ask { region, return_up_to } => {
                    asked.push(region);
                    self.asks.entry(*id).or_default().insert(region, return_up_to);
                }
            }
        }
        commands
    }

    fn view(&mut self, state: &State, id: &PoolId, pool: &Pool, now_ms: u64) -> PoolView {
        let issuer = state.issuer();
        let free = if pool.frozen { Tickets::ZERO } else { pool.pool.minus_or_zero(self.promised(issuer, id)) };
        let at_once = self.at_once.remove(id);
        let mut view = PoolView { now_ms, pool: free, at_once, ..PoolView::default() };
        for (region, known) in issuer.regions() {
            if known.state == RegionState::WrittenOff || known.identity.is_none() {
                continue;
            }
            let heard = self.reports.get(region);
            let heard = heard.filter(|heard| current(issuer, &heard.report) && self.fresh(heard, now_ms));
            let slice = pool.slices.get(region).copied().unwrap_or_default();
            let row = heard.and_then(|heard| heard.row(id));
            let stock = Stock {
                draining: known.state == RegionState::Draining,
                silent: heard.is_none(),
                weight: state.weight(&id.concert, region),
                granted: slice.granted,
                row: row.map_or(slice.floor, |row| row.counters),
                demand: row.map(|row| row.demand.clone()).unwrap_or_default(),
            };
            view.regions.insert(*region, stock);
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use quota_protocol::{
        Command, Counters, Epoch, Identity, Incarnation, Report, Tickets,
        message::{Demand, PoolReport, Register},
        policy::Policy,
    };

    use super::*;
    use crate::{
        command::{LogEntry, Work},
        leader::ReportRefused,
        raft::Machine as _,
    };

    fn apply(state: &mut State, commands: Vec<Command>) {
        state.apply(&LogEntry::new(5, Work::Quota(commands)).encode().unwrap()).unwrap();
    }

    #[test]
    fn a_report_of_more_than_was_granted_is_refused_and_stops_the_pool() {
        let (pool, region) = ("demo/A".parse().unwrap(), "east".parse().unwrap());
        let identity = Identity { system: 1, timeline: 1, copy: 1 };
        let (incarnation, epoch) = (Incarnation::default(), Epoch::new(1));
        let register = Register { region, identity, incarnation, epoch_as_read: Epoch::default(), database: None };
        let mut state = State::default();
        let create = Command::CreatePool { pool, total: Tickets::from_u32(10) };
        apply(&mut state, vec![create, Command::Register(register)]);
        let mut leader = Leader::new(Policy::default());
        let counters = Counters { granted: Tickets::from_u32(3), ..Counters::ZERO };
        let row = PoolReport { pool, counters, demand: Demand::default() };
        let heard = leader.hear(state.issuer(), 0, Report { region, incarnation, epoch, pools: vec![row] });
        assert!(matches!(heard, Err(ReportRefused::GrantedTooMuch { .. })), "{heard:?}");
        for commands in leader.round(&state, 0).entries {
            apply(&mut state, commands);
        }
        assert!(state.issuer().forgotten().is_some());
        let grant = Command::GrantUpTo { region, epoch, pool, granted: Tickets::from_u32(5) };
        apply(&mut state, vec![grant]);
        assert_eq!(state.issuer().slice(&region, &pool).granted, Tickets::ZERO);
    }
}
