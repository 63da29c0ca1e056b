//! Sharing out whole tickets by weight.

use crate::counters::Tickets;

/// Cuts `whole` in proportion to `weights`, by largest remainder; ties go to the earlier one. The parts add up to the
/// whole, unless all weights are zero: then everybody gets nothing.
pub fn split(whole: Tickets, weights: &[u64]) -> Vec<Tickets> {
    let sum = weights.iter().map(|weight| u128::from(*weight)).sum::<u128>();
    if sum == 0 {
        return vec![Tickets::ZERO; weights.len()];
    }
    let whole_wide = u128::from(whole.get());
    let mut parts = Vec::with_capacity(weights.len());
    let mut remainders = Vec::with_capacity(weights.len());
    for (at, weight) in weights.iter().enumerate() {
        let share = whole_wide * u128::from(*weight);
        parts.push((share / sum) as u64);
        remainders.push((std::cmp::Reverse(share % sum), at));
    }
    let left = whole.get() - parts.iter().sum::<u64>();
    remainders.sort();
    for (_, at) in remainders.into_iter().take(left as usize) {
        parts[at] += 1;
    }
    parts.into_iter().map(|part| Tickets::new(part).unwrap_or(whole)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_add_up_and_follow_the_weights(
            whole in 0_u64..1_000_000_000,
            weights in prop::collection::vec(0_u64..1_000_000, 1..40),
        ) {
            let parts = split(Tickets::new(whole).unwrap(), &weights);
            let sum = weights.iter().sum::<u64>();
            let got = parts.iter().map(|part| part.get()).sum::<u64>();
            prop_assert_eq!(got, if sum == 0 { 0 } else { whole });
            for (part, weight) in parts.iter().zip(&weights) {
                let exact = u128::from(whole) * u128::from(*weight);
                let off = (u128::from(part.get()) * u128::from(sum)).abs_diff(exact);
                prop_assert!(off <= u128::from(sum), "{part} of {whole} for {weight} of {sum}");
            }
        }
    }
}
