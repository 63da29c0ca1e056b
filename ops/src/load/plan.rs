//! What a crowd will do, decided before it starts: who arrives when, where, wanting what, and how they behave.
//!
//! Pure and seeded: the same seed gives the same crowd. Arrivals are fixed points in time, so the crowd is open-loop: a
//! slow server does not make people come later.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

/// How a crowd arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Curve {
    /// Half of the people in the first tenth of the time, then ever fewer: an opening.
    Spike,
    /// Evenly over the time.
    Flat,
    /// All at once.
    Burst,
}

/// What a user does once tickets are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Pays at once.
    Pays,
    /// Has one card declined, then pays with another.
    DeclinedThenPays,
    /// Starts a payment that the bank sits on for a while.
    PaysSlowly,
    /// Lets the hold lapse.
    Lapses,
    /// Starts a payment and lets the hold lapse all the same.
    StartsAndLapses,
    /// Cancels, while queued or held.
    Cancels,
}

/// One user of the crowd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// 0-based.
    pub number: u64,
    /// When they arrive, from the start.
    pub arrives_after: Duration,
    /// Index of the region that they go to.
    pub region: usize,
    /// Tickets.
    pub quantity: u8,
    /// Indices of tiers in order of preference.
    pub tiers: Vec<usize>,
    /// Fewer are welcome.
    pub any_quantity: bool,
    /// Sends every request that they may repeat twice, at once, with the same id.
    pub doubles: bool,
    /// What they do with held tickets.
    pub behaviour: Behaviour,
    /// Request id, as a UUID's 128 bits.
    pub request_id: u128,
    /// Seed of everything that this user draws later.
    pub seed: u64,
}

/// What a crowd is made of. Shares are parts of 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Crowd {
    /// Users.
    pub users: u64,
    /// Everything is drawn from this.
    pub seed: u64,
    /// Weight of each region.
    pub spread: Vec<f64>,
    /// Tiers that the concert has.
    pub tiers: usize,
    /// Largest order.
    pub quantity_max: u8,
    /// Time over which they arrive.
    pub over: Duration,
    /// How they arrive.
    pub curve: Curve,
    /// Share that lets holds lapse.
    pub lapse: f64,
    /// Share that cancels.
    pub cancel: f64,
    /// Share that sends everything twice.
    pub double: f64,
}

/// Share of those who pay that meet a declined card first, and share whose bank is slow.
const DECLINED_SHARE: f64 = 0.05;
const SLOW_SHARE: f64 = 0.02;
/// Share of those who lapse that had started a payment.
const STARTED_SHARE: f64 = 0.3;

impl Crowd {
    /// All users, in order of arrival.
    pub fn plan(&self) -> Vec<User> {
        let mut draws = SmallRng::seed_from_u64(self.seed);
        let mut users: Vec<User> = (0..self.users).map(|number| self.user(number, &mut draws)).collect();
        users.sort_by_key(|user| (user.arrives_after, user.number));
        users
    }

    fn user(&self, number: u64, draws: &mut SmallRng) -> User {
        let first = draws.random_range(0..self.tiers.max(1));
        // Most people name two tiers where there are two: the one they want and the one they would take.
        let named = if draws.random_bool(0.7) { self.tiers.min(2) } else { 1 };
        let tiers = (0..named.max(1)).map(|i| (first + i) % self.tiers.max(1)).collect();
        User {
            number,
            arrives_after: self.over.mul_f64(arrival(self.curve, draws.random())),
            region: pick(&self.spread, draws.random()),
            quantity: draws.random_range(1..=self.quantity_max.max(1)),
            tiers,
            any_quantity: draws.random_bool(0.2),
            doubles: draws.random_bool(self.double),
            behaviour: self.behaviour(draws),
            request_id: draws.random(),
            seed: draws.random(),
        }
    }

    fn behaviour(&self, draws: &mut SmallRng) -> Behaviour {
        let at: f64 = draws.random();
        let within: f64 = draws.random();
        if at < self.cancel {
            Behaviour::Cancels
        } else if at < self.cancel + self.lapse {
            if within < STARTED_SHARE { Behaviour::StartsAndLapses } else { Behaviour::Lapses }
        } else if within < DECLINED_SHARE {
            Behaviour::DeclinedThenPays
        } else if within < DECLINED_SHARE + SLOW_SHARE {
            Behaviour::PaysSlowly
        } else {
            Behaviour::Pays
        }
    }
}

/// Arrival as a part of the time, from a uniform draw.
fn arrival(curve: Curve, draw: f64) -> f64 {
    match curve {
        Curve::Burst => 0.0,
        Curve::Flat => draw,
        // Inverse of 1 − exp(−kx), cut at 1, with k such that x = 0.1 at one half.
        Curve::Spike => {
            let k = 2f64.ln() / 0.1;
            let all = 1.0 - (-k).exp();
            -(1.0 - draw * all).ln() / k
        }
    }
}

fn pick(weights: &[f64], draw: f64) -> usize {
    let total: f64 = weights.iter().sum();
    let mut left = draw * total;
    for (index, weight) in weights.iter().enumerate() {
        if left < *weight {
            return index;
        }
        left -= weight;
    }
    weights.len().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(curve: Curve) -> Crowd {
        Crowd {
            users: 10_000,
            seed: 7,
            spread: vec![8.0, 1.0, 1.0],
            tiers: 3,
            quantity_max: 4,
            over: Duration::from_secs(100),
            curve,
            lapse: 0.15,
            cancel: 0.05,
            double: 0.1,
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_crowd_and_another_seed_another() {
        assert_eq!(crowd(Curve::Spike).plan(), crowd(Curve::Spike).plan());
        assert_ne!(crowd(Curve::Spike).plan(), Crowd { seed: 8, ..crowd(Curve::Spike) }.plan());
    }

    #[test]
    fn a_spike_brings_half_of_the_people_in_the_first_tenth_of_the_time() {
        let early = crowd(Curve::Spike).plan().iter().filter(|u| u.arrives_after < Duration::from_secs(10)).count();
        assert!((4_800..=5_200).contains(&early), "{early}");
        let late = crowd(Curve::Spike).plan().iter().filter(|u| u.arrives_after > Duration::from_secs(100)).count();
        assert_eq!(late, 0);
    }

    #[test]
    fn regions_and_behaviours_come_in_the_shares_asked_for() {
        let users = crowd(Curve::Flat).plan();
        let east = users.iter().filter(|u| u.region == 0).count();
        assert!((7_800..=8_200).contains(&east), "{east}");
        let cancels = users.iter().filter(|u| u.behaviour == Behaviour::Cancels).count();
        assert!((400..=600).contains(&cancels), "{cancels}");
        let doubles = users.iter().filter(|u| u.doubles).count();
        assert!((850..=1_150).contains(&doubles), "{doubles}");
        assert!(users.iter().all(|u| (1..=4).contains(&u.quantity) && !u.tiers.is_empty()));
        assert!(users.iter().all(|u| u.tiers.len() < 2 || u.tiers[0] != u.tiers[1]));
    }
}
