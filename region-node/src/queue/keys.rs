//! Names of the queue's keys. All keys of a shard share a hash tag, hence a slot of a Redis Cluster.

/// The keys of one shard of one concert.
#[derive(Debug)]
pub(super) struct ShardKeys {
    pub(super) meta: String,
    pub(super) queue: String,
    pub(super) users: String,
    pub(super) samples: String,
    /// Slot of all of them.
    pub(super) slot: u16,
}

impl ShardKeys {
    pub(super) fn new(concert_id: i32, shard: u16) -> Self {
        let key = |what: char| format!("bq{{{concert_id}.{shard}}}{what}");
        let meta = key('m');
        let slot = slot_of(&meta);
        Self { meta, queue: key('q'), users: key('u'), samples: key('s'), slot }
    }

    /// Where the rest of an older generation lies.
    pub(super) fn older(&self, generation: u16) -> String {
        format!("{}:{generation}", self.queue)
    }
}

/// The concert's book number, as a witness of the database's.
pub(super) fn book(concert_id: i32) -> String {
    format!("bq{{{concert_id}}}book")
}

/// A thing that may happen once.
pub(super) fn once(key: &str) -> String {
    format!("bq:once:{key}")
}

/// The cluster slot of a key: CRC16 (XMODEM) of its hash tag, as Redis's cluster specification has it. (The redis
/// crate computes it too, but does not tell the number.)
pub(super) fn slot_of(key: &str) -> u16 {
    let tag =
        match key.find('{').and_then(|open| key[open + 1..].find('}').map(|close| &key[open + 1..open + 1 + close])) {
            Some(tag) if !tag.is_empty() => tag,
            _ => key,
        };
    let crc = tag.bytes().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shards_keys_share_a_slot() {
        for (concert, shard) in [(1, 0), (77, 1023), (i32::MAX, 5)] {
            let keys = ShardKeys::new(concert, shard);
            for key in [&keys.queue, &keys.users, &keys.samples, &keys.older(1), &keys.older(4095)] {
                assert_eq!(slot_of(key), keys.slot, "{key}");
            }
        }
        // The reference value of the cluster specification.
        assert_eq!(slot_of("123456789"), 0x31C3);
        assert_eq!(slot_of("foo{123456789}bar"), 0x31C3);
    }
}
