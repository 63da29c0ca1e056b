//! From a batch of places and the ground read under the book's lock to what the transaction writes. Pure.
//!
//! Order: those who waited first, then the queue, each by arrival. `sale` decides stock and limits; here stand only the
//! cases that need no decision: a row exists already, the person or the request has another row, a range says no.

use crate::db::allocate::{Becomes, CursorMove, Decided, Ground, Hold, Other, Owned, Place};
use foldhash::{HashMap, HashMapExt as _};
use region_api::wire::ConcertDefinition;
use region_api::{Entry, IdentityHash, UserHash};
use sale::allocate::{Candidate, Decision, Limits, Stock, allocate};

/// What a batch became.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// To be written.
    pub(crate) decided: Decided,
    /// How many of the places were decided, from the front; the rest stays in the queue.
    pub(crate) taken: usize,
    /// Whether no tier has stock left.
    pub(crate) dry: bool,
}

/// Decides `places`, of which the first `waited` come from `waiting`. `jitter` (a number below 1 for each hold) spreads
/// the ends of holds over the last few percent.
pub(crate) fn decide(
    definition: &ConcertDefinition,
    ground: &Ground,
    places: &[Place],
    waited: usize,
    mut room: u64,
    mut jitter: impl FnMut() -> f64,
) -> Outcome {
    let known = Known::of(&ground.owned);
    let mut first_of_user: HashMap<UserHash, usize> = HashMap::new();
    let mut steps = Vec::with_capacity(places.len());
    let mut candidates = Vec::with_capacity(places.len());
    for (n, place) in places.iter().enumerate() {
        let step = match known.stands_for(place) {
            Some(Standing::Itself) => Step::Nothing,
            Some(Standing::Other(entry)) => Step::Alias(entry),
            None if n >= waited
                && ground.ranges.iter().any(|range| range.rejects(place.entry, place.need(), &place.tiers)) =>
            {
                Step::Range
            }
            None => {
                candidates.push(candidate(place, &known, ground));
                Step::Candidate(first_of_user.insert(place.user, n))
            }
        };
        steps.push(step);
    }
    let limits = Limits {
        per_order: definition.max_per_order,
        per_person: definition.max_per_person,
        per_identity: definition.max_per_identity,
    };
    let available = Stock::new(ground.stock.iter().map(|tier| tier.available()));
    let unsold = Stock::new(ground.stock.iter().map(|tier| tier.unsold_anywhere().unwrap_or(u64::MAX)));
    let allocation = allocate(&limits, &available, Some(&unsold), &candidates);
    let mut outcome = Outcome { dry: allocation.left.is_dry(), ..Outcome::default() };
    let mut decisions = allocation.decisions.iter();
    let mut held = vec![false; places.len()];
    for (n, step) in steps.iter().enumerate() {
        let decided = &mut outcome.decided;
        match *step {
            Step::Nothing => {}
            Step::Range => decided.settled.push(n),
            Step::Alias(entry) => decided.others.push(Other { place: n, becomes: Becomes::AliasOf(entry) }),
            Step::Candidate(earlier) => {
                let Some(&decision) = decisions.next() else { break };
                let twin = earlier.filter(|&earlier| held[earlier]);
                match (decision, twin) {
                    // One hold a person at a time: the second place of somebody held in this batch is the first one's.
                    // (The very same place can be both in `waiting` and in the queue: put back, then found to have survived.)
                    (_, Some(twin)) if places[twin].entry == places[n].entry => {}
                    (_, Some(twin)) => {
                        let becomes = Becomes::AliasOf(places[twin].entry);
                        decided.others.push(Other { place: n, becomes });
                    }
                    (Decision::Hold { tier, quantity }, None) => {
                        held[n] = true;
                        decided.holds.push(hold(definition, n, tier, quantity, jitter()));
                    }
                    (Decision::Wait, None) if n < waited => {
                        outcome.taken = n + 1;
                        continue;
                    }
                    (Decision::Wait, None) if room == 0 => {
                        decided.others.push(Other { place: n, becomes: Becomes::RejectedSoldOut });
                    }
                    (Decision::Wait, None) => {
                        room -= 1;
                        decided.waits.push(n);
                    }
                    (Decision::RejectLimit, None) => {
                        decided.others.push(Other { place: n, becomes: Becomes::RejectedLimit });
                    }
                    (Decision::RejectSoldOut, None) => {
                        decided.others.push(Other { place: n, becomes: Becomes::RejectedSoldOut });
                    }
                }
            }
        }
        if n < waited {
            decided.done_waiting.push(places[n].entry);
        }
        outcome.taken = n + 1;
    }
    outcome.decided.cursors = cursors(&places[waited.min(outcome.taken)..outcome.taken], ground);
    outcome
}

enum Step {
    /// Its row exists: cancelled or voided while queued.
    Nothing,
    /// Told no by a range.
    Range,
    /// Stands for another row.
    Alias(Entry),
    /// To be decided; an earlier place of the same user in this batch.
    Candidate(Option<usize>),
}

enum Standing {
    Itself,
    Other(Entry),
}

/// Rows that the batch's users have already.
struct Known<'a>(HashMap<UserHash, Vec<&'a Owned>>);

impl<'a> Known<'a> {
    fn of(owned: &'a [Owned]) -> Self {
        let mut by_user: HashMap<UserHash, Vec<&Owned>> = HashMap::new();
        for row in owned {
            by_user.entry(row.user).or_default().push(row);
        }
        Self(by_user)
    }

    fn stands_for(&self, place: &Place) -> Option<Standing> {
        let rows = self.0.get(&place.user)?;
        if rows.iter().any(|row| row.entry == place.entry) {
            return Some(Standing::Itself);
        }
        let same_request = |row: &&&Owned| row.request_id.is_some() && row.request_id == place.request_id;
        let other = rows.iter().find(same_request).or_else(|| rows.iter().find(|row| row.active));
        other.map(|row| Standing::Other(row.entry))
    }

    fn sold_to(&self, user: UserHash) -> u16 {
        self.0.get(&user).map_or(0, |rows| rows.iter().fold(0, |sum, row| sum.saturating_add(row.sold)))
    }
}

fn candidate(place: &Place, known: &Known<'_>, ground: &Ground) -> Candidate {
    let of = |identity: IdentityHash| ground.identities.iter().find(|(other, _)| *other == identity);
    Candidate {
        user: place.user.0,
        identity: place.identity.map(|identity| identity.0),
        quantity: place.quantity,
        tiers: place.tiers.clone(),
        any_quantity: place.any_quantity,
        owned_by_user: known.sold_to(place.user),
        owned_by_identity: place.identity.and_then(of).map_or(0, |(_, tickets)| *tickets),
    }
}

fn hold(definition: &ConcertDefinition, place: usize, tier: u8, quantity: u16, jitter: f64) -> Hold {
    /// Holds made in one batch end spread over this part of their time, so that they do not all come back at once.
    const SPREAD: f64 = 0.05;
    let price = definition.tiers.get(usize::from(tier)).map_or(0, |tier| tier.price.amount);
    let hold_ms = definition.hold_ms as f64 * (1.0 + SPREAD * jitter.clamp(0.0, 1.0));
    Hold { place, tier, quantity, amount: price * i64::from(quantity), hold_ms: hold_ms as i64 }
}

/// How far each shard's cursor goes.
fn cursors(taken: &[Place], ground: &Ground) -> Vec<CursorMove> {
    let mut furthest: Vec<(u16, u16, u64)> = Vec::new();
    for place in taken {
        let (shard, generation, sequence) = (place.entry.shard(), place.entry.generation(), place.entry.sequence());
        match furthest.iter_mut().find(|(s, g, _)| (*s, *g) == (shard, generation)) {
            Some((_, _, furthest)) => *furthest = sequence.max(*furthest),
            None => furthest.push((shard, generation, sequence)),
        }
    }
    let cursor = |shard, generation| {
        ground.generations.iter().find(|g| (g.shard, g.generation) == (shard, generation)).map_or(0, |g| g.cursor_seq)
    };
    furthest
        .into_iter()
        .map(|(shard, generation, to_seq)| CursorMove {
            shard,
            generation,
            from_seq: cursor(shard, generation),
            to_seq,
            tail_seq: to_seq,
        })
        .collect()
}
