//! Which tickets flowed between two looks at a concert's quota.
//!
//! Grants and returns only ever grow, so the difference between two looks is what moved; what one region gave back while
//! another was granted some is shown as one flow between the two.

use arbiter_api::{Place, QuotaView};
use quota_protocol::{Tickets, TierId};
use serde::Serialize;

/// Tickets that went from one place to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Flow {
    /// The tier.
    pub(super) tier: TierId,
    /// From where.
    pub(super) from: Place,
    /// To where.
    pub(super) to: Place,
    /// How many.
    pub(super) tickets: Tickets,
}

/// What flowed from `before` to `after`.
pub(super) fn between(before: &QuotaView, after: &QuotaView) -> Vec<Flow> {
    let mut flows = Vec::new();
    for now in &after.tiers {
        let Some(then) = before.tiers.iter().find(|then| then.tier == now.tier) else { continue };
        let (mut gave, mut got) = (Vec::new(), Vec::new());
        for (region, row) in &now.regions {
            let earlier = then.regions.get(region).map_or((Tickets::ZERO, Tickets::ZERO), |e| (e.granted, e.returned));
            gave.push((Place::Region(*region), row.returned.minus_or_zero(earlier.1)));
            got.push((Place::Region(*region), row.granted.minus_or_zero(earlier.0)));
        }
        for (from, given) in &mut gave {
            for (to, taken) in &mut got {
                let tickets = (*given).min(*taken);
                if from != to && !tickets.is_zero() {
                    flows.push(Flow { tier: now.tier, from: *from, to: *to, tickets });
                    (*given, *taken) = (*given - tickets, *taken - tickets);
                }
            }
        }
        let back = gave.into_iter().map(|(from, tickets)| Flow { tier: now.tier, from, to: Place::Pool, tickets });
        let out = got.into_iter().map(|(to, tickets)| Flow { tier: now.tier, from: Place::Pool, to, tickets });
        flows.extend(back.chain(out).filter(|flow| !flow.tickets.is_zero()));
    }
    flows
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::json;

    /// A view in which each region has (granted, returned).
    fn view(regions: &[(&str, u64, u64)]) -> QuotaView {
        let row = |granted: u64, returned: u64| {
            json!({"granted": granted, "returned": returned, "held": 0, "sold": 0, "refunded": 0, "available": 0,
                "queue": 0, "earmark": 0, "last_report": null, "silent": false, "state": "active"})
        };
        let regions: serde_json::Map<_, _> =
            regions.iter().map(|(name, granted, returned)| ((*name).to_owned(), row(*granted, *returned))).collect();
        serde_json::from_value(json!({"node": 1, "term": 1, "index": 1, "as_of": "2030-01-01T00:00:00Z",
            "concert": "demo", "moves": [], "tiers": [{"tier": "A", "total": 100, "pool": 0, "frozen": false,
            "quarantined": 0, "sold_out": false, "regions": regions}]}))
        .unwrap()
    }

    fn check(before: &[(&str, u64, u64)], after: &[(&str, u64, u64)], expected: Expect) {
        let flows = between(&view(before), &view(after));
        let text: Vec<String> =
            flows.iter().map(|flow| format!("{} -{}-> {}", flow.from, flow.tickets, flow.to)).collect();
        expected.assert_eq(&text.join(", "));
    }

    #[test]
    fn what_one_gave_and_another_got_is_one_flow_and_the_rest_goes_by_the_pool() {
        check(&[("east", 10, 0), ("west", 10, 0)], &[("east", 10, 0), ("west", 10, 0)], expect![""]);
        check(&[("east", 10, 0), ("west", 10, 0)], &[("east", 10, 4), ("west", 14, 0)], expect!["east -4-> west"]);
        check(
            &[("east", 10, 0), ("west", 10, 0)],
            &[("east", 10, 6), ("west", 14, 0)],
            expect!["east -4-> west, east -2-> pool"],
        );
        check(&[("east", 10, 0)], &[("east", 25, 0), ("west", 5, 0)], expect!["pool -15-> east, pool -5-> west"]);
    }
}
