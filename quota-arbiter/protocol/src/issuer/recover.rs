//! Arbiters restored from a backup: they have forgotten grants and returns, so nothing is granted until every region
//! has registered again under a new incarnation and said what it was granted and gave back.

use super::{Issuer, RegionState};
use crate::{
    command::{Outcome, RecoveryRefused},
    counters::Tickets,
    ids::{Incarnation, RegionId},
};

impl Issuer {
    pub(super) fn begin_recovery(&mut self, incarnation: Incarnation, regions: &[RegionId]) -> Outcome {
        // Counted, and not compared as a whole: a small number typed by hand has no part that was drawn by chance.
        if incarnation.count() <= self.incarnation.count() {
            return RecoveryRefused::OldIncarnation(self.incarnation).into();
        }
        for region in regions {
            self.add_region(*region);
        }
        self.incarnation = incarnation;
        for pool in self.pools.values_mut() {
            pool.forgotten = None;
        }
        for (id, region) in &mut self.regions {
            region.begin(region.epoch.next());
            if region.state == RegionState::WrittenOff && !regions.contains(id) {
                region.oldest = region.epoch.next();
            } else {
                // Written off in the backup and running again since: what it was granted since is out there. Databases
                // from before the write-off are still too old.
                if region.state == RegionState::WrittenOff {
                    region.state = RegionState::Active;
                }
                // Whichever database speaks for it has to register, and so to say what it was granted.
                region.identity = None;
            }
        }
        let waiting = self.regions.iter().filter(|(_, region)| region.state != RegionState::WrittenOff);
        self.recovery = Some(waiting.map(|(id, _)| *id).collect());
        Outcome::Done
    }

    pub(super) fn finish_recovery(&mut self) -> Outcome {
        let Some(waiting) = &self.recovery else {
            return RecoveryRefused::NotRecovering.into();
        };
        if !waiting.is_empty() {
            return RecoveryRefused::Waiting(waiting.iter().copied().collect()).into();
        }
        let mut pools = Vec::new();
        for (id, pool) in &self.pools {
            let out = pool.slices.values().map(|slice| slice.granted - slice.accepted).sum::<Tickets>();
            let Some(rest) = pool.total.minus(out) else {
                return RecoveryRefused::TotalTooSmall { pool: *id, out, total: pool.total }.into();
            };
            pools.push(rest);
        }
        for (pool, rest) in self.pools.values_mut().zip(pools) {
            pool.pool = rest;
        }
        self.recovery = None;
        Outcome::Done
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Action, ArbitersBehind, Command, Done, Epoch, Holder, Identity, Incarnation, Issuer, Outcome, PoolId, RegionId,
        Tickets,
        command::{Heard, Ignored, RecoveryRefused},
        holder::Contact,
    };

    fn east() -> RegionId {
        "east".parse().unwrap()
    }

    fn pool() -> PoolId {
        "demo/A".parse().unwrap()
    }

    fn tickets(number: u32) -> Tickets {
        Tickets::from_u32(number)
    }

    /// Everything that a region and the arbiters have to say to each other, said once.
    fn talk(issuer: &mut Issuer, database: &mut Holder) {
        let view = issuer.view(&east());
        if database.contact(&view) == Contact::Register {
            database.apply(Epoch::default(), &Action::Observe(view.incarnation)).unwrap();
            let register = Command::Register(database.register_request(&view));
            let Outcome::Registered(registered) = issuer.apply(&register) else { panic!("not registered") };
            assert_eq!(database.apply(Epoch::default(), &Action::Adopt(registered)), Ok(Done::Changed));
        }
        let answer = issuer.answer(&east(), |_| Tickets::ZERO).unwrap();
        database.apply(Epoch::default(), &Action::Deliver(answer)).unwrap();
        let report = database.report(|_| Default::default()).unwrap();
        let (returns, heard) = issuer.read_report(&report);
        for command in returns.into_iter().chain([Command::RaiseFloors { heard }]) {
            issuer.apply(&command);
        }
    }

    fn grant(issuer: &mut Issuer, granted: u32) -> Outcome {
        let epoch = issuer.view(&east()).epoch;
        issuer.apply(&Command::GrantUpTo { region: east(), epoch, pool: pool(), granted: tickets(granted) })
    }

    fn begin(issuer: &mut Issuer, incarnation: Incarnation) -> Outcome {
        issuer.apply(&Command::BeginRecovery { incarnation, regions: vec![east()] })
    }

    /// Ten tickets, a registered region, and what the arbiters were before they granted it six of them.
    fn sold_after_the_backup() -> (Issuer, Issuer, Holder) {
        let mut issuer = Issuer::default();
        issuer.apply(&Command::CreatePool { pool: pool(), total: tickets(10) });
        let mut database = Holder::new(east(), Identity { system: 1, timeline: 1, copy: 1 });
        talk(&mut issuer, &mut database);
        let backup = issuer.clone();
        assert_eq!(grant(&mut issuer, 6), Outcome::Granted(tickets(6)));
        talk(&mut issuer, &mut database);
        assert_eq!(database.counters(&pool()).available(), tickets(6));
        (issuer, backup, database)
    }

    #[test]
    fn arbiters_put_back_without_a_recovery_grant_nothing_once_a_region_has_spoken() {
        let (_, mut issuer, mut database) = sold_after_the_backup();
        let last = issuer.incarnation();
        talk(&mut issuer, &mut database);
        let forgotten = issuer.forgotten().unwrap();
        assert_eq!((forgotten.database, forgotten.granted), (tickets(6), Tickets::ZERO));
        assert!(forgotten.to_string().contains("begin a recovery"), "{forgotten}");
        assert_eq!(grant(&mut issuer, 10), Outcome::Ignored(Ignored::Frozen));
        assert_eq!(database.halted(), None);
        assert_eq!(begin(&mut issuer, last.following(3)), Outcome::Done);
        talk(&mut issuer, &mut database);
        assert_eq!(issuer.apply(&Command::FinishRecovery), Outcome::Done);
        assert_eq!((issuer.forgotten(), issuer.pools()[&pool()].pool), (None, tickets(4)));
        assert_eq!(grant(&mut issuer, 10), Outcome::Granted(tickets(4)));
    }

    #[test]
    fn arbiters_put_back_take_no_return_of_what_they_have_forgotten() {
        let (_, mut issuer, mut database) = sold_after_the_backup();
        let node = database.epoch().unwrap();
        database.apply(node, &Action::Return { pool: pool(), tickets: tickets(5) }).unwrap();
        let returned = database.counters(&pool()).returned;
        let back = Command::AcceptReturn { region: east(), epoch: node, pool: pool(), returned };
        assert_eq!(issuer.apply(&back), Outcome::Ignored(Ignored::Frozen));
        assert!(issuer.forgotten().is_some());
        assert_eq!(issuer.pools()[&pool()].pool, tickets(10));
    }

    #[test]
    fn a_report_of_what_was_granted_is_no_sign_of_forgetting() {
        let (mut issuer, _, mut database) = sold_after_the_backup();
        talk(&mut issuer, &mut database);
        let (epoch, counters) = (database.epoch().unwrap(), database.counters(&pool()));
        let heard = vec![Heard { region: east(), epoch, pool: pool(), counters }];
        issuer.apply(&Command::RaiseFloors { heard });
        assert_eq!(issuer.forgotten(), None);
        assert_eq!(grant(&mut issuer, 7), Outcome::Granted(tickets(1)));
    }

    #[test]
    fn arbiters_restored_again_from_the_same_backup_are_followed_once_they_are_above_what_regions_know() {
        let (_, backup, mut database) = sold_after_the_backup();
        let (mut issuer, mut again) = (backup.clone(), backup);
        let first = issuer.incarnation().following(9);
        assert_eq!(begin(&mut issuer, first), Outcome::Done);
        talk(&mut issuer, &mut database);
        assert_eq!(issuer.apply(&Command::FinishRecovery), Outcome::Done);
        // Somebody who knows nothing of that restores the backup once more.
        let lower = again.incarnation().following(4);
        assert_eq!(begin(&mut again, lower), Outcome::Done);
        let behind = ArbitersBehind { known: first, arbiters: lower };
        let view = again.view(&east());
        assert_eq!(database.contact(&view), Contact::ArbitersBehind(behind));
        assert_eq!(again.behind(database.incarnation()), Some(behind));
        let register = Command::Register(database.register_request(&view));
        assert_eq!(again.apply(&register), Outcome::Ignored(Ignored::OtherIncarnation));
        let waiting = RecoveryRefused::Waiting(vec![east()]);
        assert_eq!(again.apply(&Command::FinishRecovery), waiting.into());
        assert_eq!(database.halted(), None, "the database is not at fault");
        assert_eq!(begin(&mut again, behind.known.following(1)), Outcome::Done);
        talk(&mut again, &mut database);
        assert_eq!(again.apply(&Command::FinishRecovery), Outcome::Done);
        assert_eq!(again.pools()[&pool()].pool, tickets(4));
    }

    #[test]
    fn an_incarnation_made_up_by_hand_is_refused() {
        let mut issuer = Issuer::default();
        let refused = Outcome::from(RecoveryRefused::OldIncarnation(Incarnation::default()));
        assert_eq!(begin(&mut issuer, Incarnation::new(7)), refused);
        let first = Incarnation::default().following(7);
        assert_eq!(begin(&mut issuer, first), Outcome::Done);
        assert_eq!(
            begin(&mut issuer, Incarnation::default().following(8)),
            RecoveryRefused::OldIncarnation(first).into()
        );
    }
}
