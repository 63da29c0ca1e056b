//! What payments need of the rest of the region: witnesses of the book numbers, and where queues end.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;

use crate::books::Books;
use crate::catalog::Catalog;
use crate::db::book::{Floor, Known};
use crate::db::payments::settle::Tail;
use crate::payments::Surroundings;

/// Books and catalog, as payments see them.
pub struct Around {
    /// The witnesses.
    pub books: Arc<Books>,
    /// How many shards a concert has.
    pub catalog: Arc<Catalog>,
}

impl Floor for Around {
    fn of(&self, concert_id: i32) -> Known {
        self.books.of(concert_id)
    }
}

impl Surroundings for Around {
    fn note_book<'a>(&'a self, concert_id: i32, book: i64) -> BoxFuture<'a, ()> {
        self.books.note_book(concert_id, u64::try_from(book).unwrap_or(0));
        futures::future::ready(()).boxed()
    }

    fn may_hold(&self) -> bool {
        self.books.standing.may_hold()
    }

    fn tails<'a>(&'a self, concert_id: i32) -> BoxFuture<'a, Result<Vec<Tail>, String>> {
        async move {
            let view = self.catalog.views().values().find(|view| view.concert_id() == concert_id).cloned();
            let queue = view.ok_or("the concert is not known yet")?.queue();
            let shards = self.books.queue.shards(queue).await.map_err(|error| error.to_string())?;
            let tail = |state: &crate::queue::ShardState| Tail {
                shard: state.shard,
                generation: state.generation,
                tail_seq: state.tail_seq,
            };
            Ok(shards.iter().map(tail).collect())
        }
        .boxed()
    }
}
