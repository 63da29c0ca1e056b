//! Invariants of money: the region's payments against its reservations, and both against the provider's own record.

use super::books::Books;
use super::problem::Found;
use super::proof::{self, Lost};
use crate::sandbox::PaymentRow as ProviderRow;
use region_api::wire::books::{PaymentRow, PaymentStatus, RowState};
use std::collections::{HashMap, HashSet};

/// Every sold reservation has exactly one payment of its amount that is kept; every payment that succeeded and bought
/// nothing has a refund in full.
pub fn invariant_payments(books: &Books, found: &mut Found) {
    const NAME: &str = "invariant_payments";
    let place = books.place();
    let refunded: HashMap<&str, i64> = books.refunds.iter().map(|row| (row.intent.as_str(), row.amount)).collect();
    let mut kept: HashMap<i64, Vec<&PaymentRow>> = HashMap::new();
    for payment in &books.payments {
        match refunded.get(payment.intent.as_str()) {
            Some(amount) if *amount != payment.amount => {
                let detail = format!("{} took {} and gives back {amount}", payment.intent, payment.amount);
                found.add(NAME, &place, detail);
            }
            Some(_) => {}
            None if payment.status == PaymentStatus::Succeeded => kept.entry(payment.entry).or_default().push(payment),
            None => {}
        }
    }
    for row in &books.reservations {
        let payments = kept.remove(&row.entry).unwrap_or_default();
        let price = row.amount.unwrap_or(0);
        if row.state == RowState::Sold {
            let paid: i64 = payments.iter().map(|payment| payment.amount).sum();
            if paid != price || payments.len() > 1 {
                let intents: Vec<(&str, i64)> = payments.iter().map(|p| (p.intent.as_str(), p.amount)).collect();
                found.add(
                    NAME,
                    &place,
                    format!("entry {} is sold for {price}, kept payments are {intents:?}", row.entry),
                );
            }
        } else if let Some(payment) = payments.first() {
            let (intent, amount) = (&payment.intent, payment.amount);
            found.add(
                NAME,
                &place,
                format!("{intent} keeps {amount} of entry {}, which is {:?}", row.entry, row.state),
            );
        }
    }
    for (entry, payments) in kept {
        found.add(NAME, &place, format!("{} is kept for entry {entry}, which does not exist", payments[0].intent));
    }
}

/// What the provider says it took and gave back is what the books say, intent by intent.
pub fn invariant_provider(books: &[Books], provider: &[ProviderRow], lost: &mut Lost, found: &mut Found) {
    const NAME: &str = "invariant_provider";
    let theirs: HashMap<&str, &ProviderRow> = provider.iter().map(|row| (row.intent.as_str(), row)).collect();
    let mut ours: HashSet<&str> = HashSet::new();
    for books in books {
        let place = books.place();
        let refunds: HashMap<&str, bool> =
            books.refunds.iter().map(|row| (row.intent.as_str(), row.done_at.is_some())).collect();
        let sold: HashSet<i64> =
            books.reservations.iter().filter(|row| row.state == RowState::Sold).map(|row| row.entry).collect();
        for payment in &books.payments {
            ours.insert(&payment.intent);
            let Some(row) = theirs.get(payment.intent.as_str()) else {
                found.add(NAME, &place, format!("the provider does not know {}", payment.intent));
                continue;
            };
            if row.amount != payment.amount {
                found.add(
                    NAME,
                    &place,
                    format!("{}: {} at the provider, {} here", row.intent, row.amount, payment.amount),
                );
            }
            let due_back = refunds.contains_key(payment.intent.as_str());
            if row.kept > 0 && !due_back && !sold.contains(&payment.entry) {
                found.add(
                    NAME,
                    &place,
                    format!("the provider keeps {} of {}, which bought nothing", row.kept, row.intent),
                );
            }
            if row.kept == 0 && payment.status == PaymentStatus::Succeeded && !due_back {
                found.add(
                    NAME,
                    &place,
                    format!("{} counts as paid here, the provider keeps nothing of it", row.intent),
                );
            }
            if refunds.get(payment.intent.as_str()) == Some(&true) && row.kept != 0 {
                found.add(
                    NAME,
                    &place,
                    format!("{} counts as given back, the provider keeps {}", row.intent, row.kept),
                );
            }
        }
    }
    for row in provider.iter().filter(|row| row.kept > 0 && !ours.contains(row.intent.as_str())) {
        let known = row
            .metadata
            .get("concert")
            .is_some_and(|name| books.iter().any(|books| books.state.concert.as_str() == name));
        if !known {
            continue;
        }
        let begun_ms = row.created_s.unsigned_abs() * 1_000;
        if proof::region_of(&row.metadata).is_some_and(|region| lost.has(region.as_str(), begun_ms)) {
            lost.payments += 1;
        } else {
            found.add(NAME, "provider", format!("keeps {} of {}, which no region knows", row.kept, row.intent));
        }
    }
}
