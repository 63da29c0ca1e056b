//! The search: depth first through everything (little memory), or breadth first (the shortest way to a mutant's fault).
//! States are told apart by 64 bits of a hash; among ten million states, the chance that any two are confused is about
//! one in four hundred thousand.

use std::collections::{HashMap, VecDeque};

use super::{
    step::{Step, Wrong},
    world::{Bounds, World},
};

/// What a finished search saw.
#[derive(Debug)]
pub(super) struct Searched {
    pub(super) states: usize,
    pub(super) steps: usize,
    pub(super) deepest: usize,
}

/// The way to a state in which something is wrong.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) wrong: Wrong,
    pub(super) way: Vec<(usize, Step)>,
    pub(super) shown: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    DepthFirst,
    BreadthFirst,
}

struct Waiting {
    world: World,
    print: u64,
    depth: usize,
}

/// Visits every state within the bounds, or stops at the first in which something is wrong.
pub(super) fn search(bounds: &Bounds, order: Order) -> Result<Searched, Box<Found>> {
    let first = World::new(bounds);
    let print = first.fingerprint();
    let mut from: HashMap<u64, Option<(u64, u8, Step)>, foldhash::fast::FixedState> = HashMap::default();
    from.insert(print, None);
    let mut waiting = VecDeque::from([Waiting { world: first, print, depth: 0 }]);
    let mut searched = Searched { states: 1, steps: 0, deepest: 0 };
    let pop = |waiting: &mut VecDeque<Waiting>| match order {
        Order::DepthFirst => waiting.pop_back(),
        Order::BreadthFirst => waiting.pop_front(),
    };
    while let Some(Waiting { world, print, depth }) = pop(&mut waiting) {
        searched.deepest = searched.deepest.max(depth);
        for site in 0..world.sites.len() {
            for step in world.steps(site, bounds) {
                let mut next = world.clone();
                let changed = next.take(site, step, bounds);
                if changed == Ok(false) {
                    continue;
                }
                next.after_step(site, bounds);
                searched.steps += 1;
                let then = next.fingerprint();
                let judged = changed.and_then(|_| next.check(Some(&world)));
                let new = !from.contains_key(&then);
                let judged = judged.and_then(|()| if new { next.check_rest(bounds) } else { Ok(()) });
                if new {
                    from.insert(then, Some((print, site as u8, step)));
                    searched.states += 1;
                }
                if let Err(wrong) = judged {
                    let mut way = way_to(&from, print);
                    way.push((site, step));
                    return Err(Box::new(Found { wrong, way, shown: next.to_string() }));
                }
                if new {
                    waiting.push_back(Waiting { world: next, print: then, depth: depth + 1 });
                }
            }
        }
    }
    Ok(searched)
}

fn way_to(
    from: &HashMap<u64, Option<(u64, u8, Step)>, foldhash::fast::FixedState>,
    mut print: u64,
) -> Vec<(usize, Step)> {
    let mut way = Vec::new();
    while let Some(Some((before, site, step))) = from.get(&print) {
        way.push((usize::from(*site), *step));
        print = *before;
    }
    way.reverse();
    way
}
