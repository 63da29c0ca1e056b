//! What the users of the next batch have, looked up while the present one is being written.
//!
//! It stands on a connection of its own and on no lock, so it is only used where nothing can have changed since: rows that
//! make a decision different (holds, releases, revivals) are written under the book's lock, whose number says whether
//! anybody but our own batches was there. Two kinds of rows appear without it, and both are answered when the batch is
//! written, as they would be if they appeared after a look under the lock: somebody queued who cancels or is voided (the
//! unique keys refuse the hold), and a hold that is paid for (active before, so whoever comes again stands for it).
//!
//! Must never: be used over a gap in the book's numbers, or for users who were not looked up.

use super::{Owned, Place, users_of};
use uuid::Uuid;

/// See the head of this file.
#[derive(Debug)]
pub struct Ahead {
    /// Every batch up to this one is in `owned`.
    book: i64,
    /// Who was looked up, in order.
    users: Vec<Uuid>,
    owned: Vec<Owned>,
}

impl Ahead {
    /// `owned` is what `places`' users had at `book`, or later.
    pub(super) fn new(book: i64, places: &[Place], owned: Vec<Owned>) -> Self {
        Self { book, users: users_of(places), owned }
    }

    /// One of our own batches was committed under this number and wrote these rows.
    pub fn follow(&mut self, book: i64, wrote: impl IntoIterator<Item = Owned>) {
        if self.book >= book {
            return; // Committed before it was looked at.
        }
        if self.book + 1 == book {
            self.book = book;
            self.owned.extend(wrote.into_iter().filter(|row| self.users.binary_search(&row.user.to_uuid()).is_ok()));
        }
    }

    /// What may be known without another look by whoever locked the book as `book`, for these places.
    pub(super) fn serves(&self, book: i64, places: &[Place]) -> Option<&[Owned]> {
        let looked_up = |place: &Place| self.users.binary_search(&place.user.to_uuid()).is_ok();
        // What others of an identity hold is not looked up ahead.
        let plain = places.iter().all(|place| place.identity.is_none() && looked_up(place));
        (self.book + 1 == book && plain).then_some(&self.owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use region_api::{Entry, UserHash};

    fn place(user: u8) -> Place {
        Place {
            entry: Entry::new(0, 1, user.into()).unwrap(),
            arrival_ms: 1,
            user: UserHash([user; 16]),
            request_id: None,
            identity: None,
            quantity: 1,
            tiers: [0].into_iter().collect(),
            any_quantity: false,
        }
    }

    fn row(user: u8) -> Owned {
        let place = place(user);
        Owned { user: place.user, entry: place.entry, active: true, sold: 0, request_id: None }
    }

    #[test]
    fn it_serves_the_very_next_book_and_only_whom_it_knows() {
        let ahead = Ahead::new(7, &[place(1), place(2)], vec![row(2)]);
        assert_eq!(ahead.serves(8, &[place(2)]), Some(&[row(2)][..]));
        assert_eq!(ahead.serves(9, &[place(2)]), None, "somebody else had the book");
        assert_eq!(ahead.serves(7, &[place(2)]), None, "the book went back");
        assert_eq!(ahead.serves(8, &[place(2), place(3)]), None, "3 was not looked up");
        let named = Place { identity: Some(region_api::IdentityHash([1; 16])), ..place(2) };
        assert_eq!(ahead.serves(8, &[named]), None);
    }

    #[test]
    fn it_follows_our_own_batches_without_a_gap() {
        let mut ahead = Ahead::new(7, &[place(1), place(2)], vec![]);
        ahead.follow(7, [row(1)]);
        assert_eq!(ahead.serves(8, &[place(1)]), Some(&[][..]), "seen when it was looked up, if there");
        ahead.follow(8, [row(2), row(3)]);
        assert_eq!(ahead.serves(9, &[place(1)]), Some(&[row(2)][..]));
        ahead.follow(10, [row(1)]);
        assert_eq!(ahead.serves(11, &[place(1)]), None, "book 9 was somebody else's");
    }
}
