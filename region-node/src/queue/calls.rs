//! Everything of the queue but joining: generations, reading and trimming, final states, samples, witnesses.
//!
//! All of it may be repeated; each call follows a slot that moves. None of it shares a connection with joins.

use super::codec;
use super::failure::CallError;
use super::functions::{BEGIN, NOTE_BOOK, PEEK, SETTLE, STATE, TRIM};
use super::keys;
use super::limits::{LAPSE_COOL_DOWN, LAPSES_MAX, SETTLE_ITEMS_MAX, VOID_COOL_DOWN};
use super::types::{
    ConcertQueue, JoinError, JoinItem, JoinOutcome, Joined, QueueEntry, QueueError, Sample, Settle, ShardState,
};
use super::{Queue, Shard, shard_of};
use foldhash::HashMap;
use redis::{Cmd, Pipeline, Value};
use std::sync::Arc;
use std::time::Duration;

impl Queue {
    /// What a join of this item would find, without joining: the user's place while one is waiting or held, or the place
    /// that this very request had. Only reads; an answer may come while joins are refused.
    pub async fn find(&self, concert: ConcertQueue, item: JoinItem) -> Result<Option<Joined>, JoinError> {
        let shard = self.inner.shard(concert, shard_of(&item.user, concert.shards));
        let mut call = redis::cmd("HGET");
        call.arg(&shard.keys.users).arg(&item.user.0[..]);
        let value = self.try_call(shard.keys.slot, call).await.map_err(JoinError::from)?;
        if value == Value::Nil {
            return Ok(None);
        }
        let unreadable = |error: QueueError| JoinError::Unavailable(error.to_string());
        let stored = bytes(value).map_err(unreadable)?;
        let (is_final, place, same) = codec::stored_place(&stored, shard.shard, &item).map_err(unreadable)?;
        let same_request = place.item.request_id == item.request_id;
        if same_request && !same {
            return Err(JoinError::Conflict);
        }
        let outcome = match (is_final, same_request) {
            (true, false) => return Ok(None),
            (true, true) => JoinOutcome::Final,
            (false, _) => JoinOutcome::Repeat,
        };
        let (entry, arrival_ms) = (place.entry, place.arrival_ms);
        Ok(Some(Joined { entry, arrival_ms, item: place.item_for(&item), outcome }))
    }

    /// State of every shard that has a generation, by shard. A shard that is missing has none: Redis is new or was
    /// emptied, see [`Queue::begin_generation`].
    pub async fn shards(&self, concert: ConcertQueue) -> Result<Vec<ShardState>, QueueError> {
        let shards = self.inner.shards(concert);
        let states = futures::future::try_join_all(shards.iter().map(|shard| self.shard_state(shard))).await?;
        Ok(states.into_iter().flatten().collect())
    }

    async fn shard_state(&self, shard: &Arc<Shard>) -> Result<Option<ShardState>, QueueError> {
        let call = function(STATE, &[&shard.keys.meta, &shard.keys.queue]);
        let bytes = bytes(self.call(shard.keys.slot, call).await?)?;
        codec::shard_state(shard.shard, &bytes)
    }

    /// Makes `generation` the shard's current one, unless it has that or a later one already. Numbers begin at 1 again;
    /// what is left of the one before stays readable under its own number.
    pub async fn begin_generation(
        &self,
        concert: ConcertQueue,
        shard: u16,
        generation: u16,
    ) -> Result<ShardState, QueueError> {
        let shard = self.inner.shard(concert, shard);
        loop {
            let before = self.shard_state(&shard).await?.map_or(0, |state| state.generation);
            let keys = &shard.keys;
            let mut call = function(BEGIN, &[&keys.meta, &keys.queue, &keys.older(before)]);
            call.arg(generation).arg(before);
            match self.try_call(keys.slot, call).await {
                // Somebody else began another one in between.
                Err(CallError::Declined(_)) => {}
                Err(error) => return Err(error.into()),
                Ok(value) => {
                    let state = codec::shard_state(shard.shard, &bytes(value)?)?;
                    return state.ok_or(QueueError::Corrupt("a generation without a state"));
                }
            }
        }
    }

    /// Tells this node how far a shard's numbers are known to have come (the database's `tail_seq`): joins are refused
    /// with [`super::JoinError::NoGeneration`] while Redis is behind that.
    pub fn note_given_out(&self, concert: ConcertQueue, shard: u16, generation: u16, sequence: u64) {
        self.inner.shard(concert, shard).note_seen(generation, sequence);
    }

    /// Entries of a generation after `after_seq`, in order, at most `most`. Empty for a generation of which nothing is left.
    pub async fn peek(
        &self,
        concert: ConcertQueue,
        shard: u16,
        generation: u16,
        after_seq: u64,
        most: usize,
    ) -> Result<Vec<QueueEntry>, QueueError> {
        let shard = self.inner.shard(concert, shard);
        let keys = &shard.keys;
        let mut call = function(PEEK, &[&keys.meta, &keys.queue, &keys.older(generation)]);
        call.arg(generation).arg(after_seq).arg(most);
        let Value::Array(found) = self.call(keys.slot, call).await? else {
            return Err(QueueError::Corrupt("an answer to peek"));
        };
        let mut entries = Vec::with_capacity(most.min(found.len() * 64));
        for pair in found.chunks(2) {
            let [Value::BulkString(last), Value::BulkString(value)] = pair else {
                return Err(QueueError::Corrupt("an answer to peek"));
            };
            let last = std::str::from_utf8(last).ok().and_then(|last| last.parse().ok());
            let last = last.ok_or(QueueError::Corrupt("a stream entry's id"))?;
            codec::stream_entry(&mut entries, (shard.shard, generation), last, value, after_seq, most)?;
        }
        Ok(entries)
    }

    /// Lets go of entries up to `upto_seq`. With `clear_dedupe` their users' places are forgotten too (they were told
    /// no, and may join again); else the places stay until [`Queue::settle`].
    pub async fn trim(
        &self,
        concert: ConcertQueue,
        shard: u16,
        generation: u16,
        upto_seq: u64,
        clear_dedupe: bool,
    ) -> Result<(), QueueError> {
        let shard = self.inner.shard(concert, shard);
        let keys = &shard.keys;
        loop {
            let names = [&keys.meta, &keys.queue, &keys.older(generation), &keys.users, &keys.samples];
            let mut call = function(TRIM, &names);
            call.arg(generation).arg(upto_seq).arg(u8::from(clear_dedupe));
            // One call does a bounded part, so that joins do not wait for millions of places to go.
            if number(&self.call(keys.slot, call).await?)? == 0 {
                return Ok(());
            }
        }
    }

    /// Marks places as final. An item whose user has another place by now, or whose place is final already, changes
    /// nothing.
    pub async fn settle(&self, concert: ConcertQueue, items: &[Settle]) -> Result<(), QueueError> {
        let mut by_shard: HashMap<u16, Vec<&Settle>> = HashMap::default();
        for item in items {
            by_shard.entry(item.entry.shard()).or_default().push(item);
        }
        for (shard, items) in by_shard {
            let shard = self.inner.shard(concert, shard);
            for part in items.chunks(SETTLE_ITEMS_MAX) {
                let mut packed = Vec::with_capacity(part.len() * 24);
                part.iter().for_each(|item| codec::put_settle(&mut packed, item));
                let mut call = function(SETTLE, &[&shard.keys.users]);
                call.arg(packed).arg(LAPSES_MAX).arg(ms(LAPSE_COOL_DOWN)).arg(ms(VOID_COOL_DOWN));
                self.call(shard.keys.slot, call).await?;
            }
        }
        Ok(())
    }

    /// How the shard's numbers grew, about one sample a second, oldest first; thinned out when there are thousands.
    pub async fn samples(&self, concert: ConcertQueue, shard: u16) -> Result<Vec<Sample>, QueueError> {
        let shard = self.inner.shard(concert, shard);
        let mut call = redis::cmd("LRANGE");
        call.arg(&shard.keys.samples).arg(0).arg(-1);
        let Value::Array(found) = self.call(shard.keys.slot, call).await? else {
            return Err(QueueError::Corrupt("the samples"));
        };
        found.into_iter().map(|value| codec::sample(&bytes(value)?)).collect()
    }

    /// Witnesses the book number of a concert; never goes down.
    pub async fn note_book(&self, concert: ConcertQueue, book: u64) -> Result<(), QueueError> {
        let key = keys::book(concert.concert_id);
        let mut call = function(NOTE_BOOK, &[&key]);
        call.arg(book);
        self.call(keys::slot_of(&key), call).await.map(|_| ())
    }

    /// The highest book number witnessed, if any.
    pub async fn book(&self, concert: ConcertQueue) -> Result<Option<u64>, QueueError> {
        let key = keys::book(concert.concert_id);
        let mut call = redis::cmd("GET");
        call.arg(&key);
        match self.call(keys::slot_of(&key), call).await? {
            Value::Nil => Ok(None),
            value => {
                let text = bytes(value)?;
                let book = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
                book.map(Some).ok_or(QueueError::Corrupt("the book number"))
            }
        }
    }

    /// True the first time that `key` is seen within `ttl` (challenge nonces). When the answer is lost, asking again may
    /// say `false`: a nonce is then spent.
    pub async fn once(&self, key: &str, ttl: Duration) -> Result<bool, QueueError> {
        let key = keys::once(key);
        let mut call = redis::cmd("SET");
        call.arg(&key).arg(1).arg("NX").arg("PX").arg(ms(ttl).max(1));
        Ok(self.call(keys::slot_of(&key), call).await? != Value::Nil)
    }

    async fn call(&self, slot: u16, command: Cmd) -> Result<Value, QueueError> {
        Ok(self.try_call(slot, command).await?)
    }

    async fn try_call(&self, slot: u16, command: Cmd) -> Result<Value, CallError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command);
        let mut values = self.inner.router.call(slot, &pipeline).await?;
        values.pop().ok_or_else(|| CallError::Unknown("no answer".to_owned()))
    }
}

fn function(name: &str, keys: &[&String]) -> Cmd {
    let mut command = redis::cmd("FCALL");
    command.arg(name).arg(keys.len()).arg(keys);
    command
}

fn bytes(value: Value) -> Result<Vec<u8>, QueueError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        _ => Err(QueueError::Corrupt("an answer of another shape")),
    }
}

fn number(value: &Value) -> Result<i64, QueueError> {
    match value {
        Value::Int(number) => Ok(*number),
        _ => Err(QueueError::Corrupt("an answer of another shape")),
    }
}

fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}
