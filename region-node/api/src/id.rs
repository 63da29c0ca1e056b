//! Reservation ids: everything that any node of any region needs to know about a reservation, signed.
//!
//! An id is on the path of every join and every poll: one allocation to sign (the text), none to parse. Nothing in it
//! is believed before its signature has been checked. The user stands in it as a keyed hash only.

use crate::codec::Reader;
use crate::keys::KeyRing;
use crate::limits;
use crate::names::{ConcertName, Entry, IdentityHash, RegionName, TierNo, UserHash};
use crate::seal::{self, HEAD_BYTES, Kind, SealError, TAG_BYTES};
use smallvec::SmallVec;

/// Tiers that a reservation names, in order of preference.
pub type Tiers = SmallVec<[TierNo; 8]>;

/// What a reservation id says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservationId {
    /// Home region.
    pub region: RegionName,
    /// Concert.
    pub concert: ConcertName,
    /// Place in that region's queue for the concert.
    pub entry: Entry,
    /// When the place was given, by the queue's clock, milliseconds since 1970; 48 bits.
    pub arrival_ms: u64,
    /// Whose.
    pub user: UserHash,
    /// Tickets asked for, 1..=100.
    pub quantity: u8,
    /// Tier numbers in order of preference, 1..=8 of them, each once, each 0..=63.
    pub tiers: Tiers,
    /// Down to one ticket is welcome.
    pub any_quantity: bool,
    /// Hashed identity where the concert asks for one.
    pub identity: Option<IdentityHash>,
}

/// Why an id was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text or its signature.
    #[error("reservation id: {0}")]
    Seal(#[from] SealError),
    /// Signed by us, yet its contents make no sense: another program has our key.
    #[error("reservation id: signed, but out of bounds")]
    Contents,
}

const ANY_QUANTITY: u8 = 1;
const IDENTITY: u8 = 1 << 1;
const TIERS_SHIFT: u8 = 2;

/// Longest id, decoded: head, flags, quantity, region, concert, entry, arrival, user, tiers, identity, tag.
const MAX_BYTES: usize = HEAD_BYTES
    + 2
    + 1
    + RegionName::LEN_MAX
    + 1
    + ConcertName::LEN_MAX
    + 8
    + 6
    + 16
    + limits::TIERS_PER_REQUEST_MAX
    + 16
    + TAG_BYTES;

impl ReservationId {
    /// Longest id, in characters; longer texts are refused unread.
    pub const TEXT_MAX: usize = MAX_BYTES.div_ceil(3) * 4;
    /// Highest arrival: 48 bits, the year 10889.
    pub const ARRIVAL_MS_MAX: u64 = (1 << 48) - 1;

    /// Signs with the ring's current key.
    ///
    /// # Panics
    /// When a field is out of the bounds that it documents: such an id could never be parsed again, and the request
    /// that it stands for must not have been accepted.
    pub fn sign(&self, ring: &KeyRing) -> String {
        assert!(self.in_bounds(), "a reservation id out of bounds: {self:?}");
        let mut writer = seal::begin::<MAX_BYTES>(Kind::Reservation, ring);
        let any_quantity = if self.any_quantity { ANY_QUANTITY } else { 0 };
        let identity = if self.identity.is_some() { IDENTITY } else { 0 };
        writer
            .u8(any_quantity | identity | (self.tiers.len() as u8) << TIERS_SHIFT)
            .u8(self.quantity)
            .short(self.region.as_str())
            .short(self.concert.as_str())
            .put(&self.entry.to_i64().to_be_bytes())
            .u48(self.arrival_ms)
            .put(&self.user.0)
            .put(&self.tiers);
        if let Some(identity) = self.identity {
            writer.put(&identity.0);
        }
        seal::finish(Kind::Reservation, ring, writer)
    }

    /// Checks the signature, in constant time, then reads. Knows every key of the ring.
    pub fn parse(text: &str, ring: &KeyRing) -> Result<ReservationId, IdError> {
        let mut buffer = [0; MAX_BYTES];
        let body = seal::open(Kind::Reservation, text, ring, &mut buffer)?;
        let id = Self::read(body).ok_or(IdError::Contents)?;
        if id.in_bounds() { Ok(id) } else { Err(IdError::Contents) }
    }

    fn read(body: &[u8]) -> Option<ReservationId> {
        let mut reader = Reader::new(body);
        let flags = reader.u8()?;
        let quantity = reader.u8()?;
        let region = RegionName::new(reader.short()?).ok()?;
        let concert = ConcertName::new(reader.short()?).ok()?;
        let entry = Entry::from_i64(i64::from_be_bytes(reader.array()?))?;
        let arrival_ms = reader.u48()?;
        let user = UserHash(reader.array()?);
        let tiers = Tiers::from_slice(reader.take(usize::from(flags >> TIERS_SHIFT))?);
        let identity = if flags & IDENTITY == 0 { None } else { Some(IdentityHash(reader.array()?)) };
        reader.end()?;
        let any_quantity = flags & ANY_QUANTITY != 0;
        Some(ReservationId { region, concert, entry, arrival_ms, user, quantity, tiers, any_quantity, identity })
    }

    fn in_bounds(&self) -> bool {
        let each_once = |(index, tier)| !self.tiers[..index].contains(tier);
        (1..=limits::QUANTITY_MAX).contains(&u16::from(self.quantity))
            && self.arrival_ms <= Self::ARRIVAL_MS_MAX
            && (1..=limits::TIERS_PER_REQUEST_MAX).contains(&self.tiers.len())
            && self.tiers.iter().all(|&tier| usize::from(tier) < limits::TIERS_PER_CONCERT_MAX)
            && self.tiers.iter().enumerate().all(each_once)
    }
}
