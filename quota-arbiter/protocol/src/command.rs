//! What may be asked of the issuer and what it answers: closed enums, applied by [`crate::Issuer::apply`]. Commands are
//! what the arbiters' log carries, so they are serialised, and nothing may be removed from them or change its meaning.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    counters::{Column, Counters, Tickets},
    ids::{Epoch, Incarnation, PoolId, RegionId},
    message::{Register, Registered},
};

/// One change of the issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// A new pool, all of it unallocated. Doing it again with the same total changes nothing.
    CreatePool {
        /// The pool.
        pool: PoolId,
        /// How many tickets it has.
        total: Tickets,
    },
    /// Make a region known. Doing it again changes nothing.
    AddRegion {
        /// The region.
        region: RegionId,
    },
    /// Raise what a region was ever granted to a target: a target and not an amount, so that applying it twice is
    /// harmless and proposing it again needs no memory of requests.
    GrantUpTo {
        /// The region.
        region: RegionId,
        /// Its epoch when this was decided.
        epoch: Epoch,
        /// The pool.
        pool: PoolId,
        /// The target: granted ever.
        granted: Tickets,
    },
    /// Take back what a region has given up, up to a target.
    AcceptReturn {
        /// The region.
        region: RegionId,
        /// The epoch under which it was reported.
        epoch: Epoch,
        /// The pool.
        pool: PoolId,
        /// The target: returned ever.
        returned: Tickets,
    },
    /// Remember the furthest that was reported: one command for everything heard in a tick.
    RaiseFloors {
        /// What was heard.
        heard: Vec<Heard>,
    },
    /// A database that is new to the arbiter asks to speak for its region.
    Register(Register),
    /// Give up a region whose database can never commit again.
    WriteOff {
        /// The region.
        region: RegionId,
        /// How its database was fenced, in an operator's words. Not empty.
        fenced: String,
        /// What it sold, counted after it was fenced, over all its databases; for every pool it was granted of.
        sales: Vec<Sales>,
    },
    /// Change how many tickets a pool has, from what it is known to have.
    SetTotal {
        /// The pool.
        pool: PoolId,
        /// The total when this was decided.
        from: Tickets,
        /// The new total.
        to: Tickets,
    },
    /// Stop granting to a region, so that it can give everything back.
    Drain {
        /// The region.
        region: RegionId,
    },
    /// Grant to a drained region again.
    Resume {
        /// The region.
        region: RegionId,
    },
    /// Grant nothing of this pool until it is thawed.
    Freeze {
        /// The pool.
        pool: PoolId,
    },
    /// Grant of this pool again.
    Thaw {
        /// The pool.
        pool: PoolId,
    },
    /// The arbiters were restored from a backup: begin a new incarnation, in which nothing is granted until every
    /// region not written off has registered.
    BeginRecovery {
        /// The new incarnation, [`Incarnation::following`] every earlier one that is known of. If a region knows of a
        /// later one, it registers with nobody until the recovery is begun again above that.
        incarnation: Incarnation,
        /// Every region that ever was, as the operator knows: the backup may be older than some of them, or than what
        /// became of them. Each has to register or to be written off (again) with its sales. Only a region that is
        /// written off in the backup and never started again may be left out.
        regions: Vec<RegionId>,
    },
    /// Every region has registered: recompute what is unallocated and grant again.
    FinishRecovery,
}

/// What was heard of one region's row of one pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heard {
    /// The region.
    pub region: RegionId,
    /// The epoch it reported under.
    pub epoch: Epoch,
    /// The pool.
    pub pool: PoolId,
    /// Its row.
    pub counters: Counters,
}

/// What a written-off region sold of one pool, over all its databases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sales {
    /// The pool.
    pub pool: PoolId,
    /// Tickets sold, ever.
    pub sold: Tickets,
    /// Of those, refunded.
    pub refunded: Tickets,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The state changed as asked; nothing to report beyond that.
    Done,
    /// The state already was as asked.
    Unchanged,
    /// A region's grant grew by this much.
    Granted(Tickets),
    /// This much came back into the pool.
    Returned(Tickets),
    /// This many floors were raised.
    FloorsRaised(usize),
    /// The database speaks for its region from now on.
    Registered(Registered),
    /// The region is written off, and this much came back into its pools.
    WrittenOff(Tickets),
    /// Nothing changed, as it should be for a command that came late or twice.
    Ignored(Ignored),
    /// Nothing changed, because the command asks for something that must not be done.
    Refused(CommandRefused),
}

/// Why a command had no effect although nothing is wrong with it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Ignored {
    /// Decided under another epoch of the region.
    #[error("decided under another epoch of the region")]
    OtherEpoch,
    /// Decided in another incarnation of the arbiters.
    #[error("decided in another incarnation of the arbiters")]
    OtherIncarnation,
    /// The target has been reached before.
    #[error("the target has been reached before")]
    Reached,
    /// Less is left in the pool than this would take.
    #[error("the pool does not have that many")]
    PoolTooSmall,
    /// The region is draining, written off, or has no database yet.
    #[error("the region takes no grants")]
    RegionTakesNoGrants,
    /// The pool is frozen, or the arbiters are recovering or have to.
    #[error("frozen")]
    Frozen,
}

/// Why a command was refused. Each says what can be done about it.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandRefused {
    /// No such pool.
    #[error("there is no pool {0}; create the concert first")]
    NoSuchPool(PoolId),
    /// No such region.
    #[error("there is no region {0}")]
    NoSuchRegion(RegionId),
    /// The pool exists with another total.
    #[error("the pool exists with a total of {0}; change the total instead")]
    OtherTotal(Tickets),
    /// The total is another one than the command assumes.
    #[error("the total is {0} now; look again")]
    TotalMoved(Tickets),
    /// The total cannot shrink by more than is unallocated.
    #[error("only {0} are unallocated; ask tickets back from the regions first")]
    TotalInUse(Tickets),
    /// The region is written off.
    #[error("the region is written off; it can start again on an empty database")]
    WrittenOff,
    /// While the arbiters are recovering, or have to.
    #[error("the arbiters are recovering, or have to; this has to wait until every region has registered again")]
    Recovering,
    /// A registration.
    #[error(transparent)]
    Register(#[from] RegisterRefused),
    /// A write-off.
    #[error(transparent)]
    WriteOff(#[from] WriteOffRefused),
    /// A recovery.
    #[error(transparent)]
    Recovery(#[from] RecoveryRefused),
}

/// Why a database may not speak for its region. The region halts with this text.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegisterRefused {
    /// The region is written off and the database is not empty.
    #[error(
        "the region was written off and this database is from before that; start it on an empty database, and keep \
         this one for the accounts"
    )]
    WrittenOff,
    /// Another database has spoken for the region since this one did.
    #[error(
        "this database is an older copy: it is of epoch {database}, and epoch {heard} was already heard from; bring \
         back the newer database, or fence it and write the region off"
    )]
    OlderDatabase {
        /// The database's epoch.
        database: Epoch,
        /// The oldest epoch that may still register.
        heard: Epoch,
    },
    /// The database is of an epoch that was never given out.
    #[error(
        "this database is of epoch {database}, which the arbiters (at {current}) never gave out; if they were restored \
         from a backup, start them in recovery"
    )]
    UnknownEpoch {
        /// The database's epoch.
        database: Epoch,
        /// The region's epoch.
        current: Epoch,
    },
    /// The database has no row of a pool that its region was granted of.
    #[error(
        "this database has no row of {pool}, of which the region was granted {granted}; bring back the region's \
         database or its standby, or fence it and write the region off"
    )]
    WithoutRow {
        /// The pool.
        pool: PoolId,
        /// G
        granted: Tickets,
    },
    /// An empty database while the arbiters do not know what its region was granted.
    #[error("the arbiters are recovering and this database is empty: write the region off, then start it again")]
    EmptyInRecovery,
    /// The database was granted more than the issuer granted.
    #[error(
        "this database says it was granted {database} of {pool}, the arbiters granted {granted}; if the arbiters were \
         restored from a backup, start them in recovery"
    )]
    GrantedTooMuch {
        /// The pool.
        pool: PoolId,
        /// g
        database: Tickets,
        /// G
        granted: Tickets,
    },
    /// The database has forgotten a return that was accepted.
    #[error(
        "this database is an older copy: it returned {database} of {pool}, {accepted} were accepted back; bring back \
         the newer database, or fence it and write the region off"
    )]
    ReturnForgotten {
        /// The pool.
        pool: PoolId,
        /// ret
        database: Tickets,
        /// R
        accepted: Tickets,
    },
    /// The database is behind what was reported from its region.
    #[error(
        "this database is an older copy: {column} of {pool} is {database}, {floor} was reported; bring back the newer \
         database, or fence it and write the region off"
    )]
    BelowFloor {
        /// The pool.
        pool: PoolId,
        /// The column.
        column: Column,
        /// The database's value.
        database: Tickets,
        /// The floor's.
        floor: Tickets,
    },
    /// A row breaks its own rules.
    #[error("this database's row of {0} contradicts itself; it was changed by hand or is damaged")]
    BrokenRow(PoolId),
    /// A row of a pool that the arbiters do not know.
    #[error("this database has a row of {0}, which the arbiters do not know; create that concert again first")]
    UnknownPool(PoolId),
}

/// Why a region was not written off.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteOffRefused {
    /// No word on how the database was fenced.
    #[error("say how the region's database was fenced: silence is not fencing")]
    NotFenced,
    /// The note is too long to keep for ever.
    #[error("the note on fencing is too long")]
    NoteTooLong,
    /// No sales given for a pool of which the region was granted.
    #[error("say how many the region sold of {0}, counted after it was fenced")]
    SalesMissing(PoolId),
    /// The same pool twice, or one that the region was never granted of.
    #[error("the sales of {0} are not of this region, or given twice")]
    SalesUnexpected(PoolId),
    /// Fewer sold or refunded than was reported.
    #[error("{column} of {pool}: {floor} were reported, {given} is less")]
    BelowFloor {
        /// The pool.
        pool: PoolId,
        /// `sold` or `refunded`.
        column: Column,
        /// What the operator says.
        given: Tickets,
        /// What was reported.
        floor: Tickets,
    },
    /// More refunded than sold.
    #[error("more refunded than sold of {0}")]
    MoreRefundedThanSold(PoolId),
    /// More sold than the region can have had.
    #[error("{sold} sold of {pool}, but the region had only {had}; count again")]
    SoldTooMany {
        /// The pool.
        pool: PoolId,
        /// sold − refunded
        sold: Tickets,
        /// G − R
        had: Tickets,
    },
}

/// Why a recovery did not begin or end.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryRefused {
    /// Not above the one that is.
    #[error("the incarnation is {0} already; begin one that follows it")]
    OldIncarnation(Incarnation),
    /// There is no recovery to finish.
    #[error("the arbiters are not recovering")]
    NotRecovering,
    /// Some regions have not registered.
    #[error("still waiting for {0:?}")]
    Waiting(Vec<RegionId>),
    /// The regions have more than there is.
    #[error("the regions have {out} of {pool}, which has {total}; raise its total first")]
    TotalTooSmall {
        /// The pool.
        pool: PoolId,
        /// Σ(G − R)
        out: Tickets,
        /// T
        total: Tickets,
    },
}

impl From<RegisterRefused> for Outcome {
    fn from(refused: RegisterRefused) -> Self {
        Self::Refused(refused.into())
    }
}

impl From<WriteOffRefused> for Outcome {
    fn from(refused: WriteOffRefused) -> Self {
        Self::Refused(refused.into())
    }
}

impl From<RecoveryRefused> for Outcome {
    fn from(refused: RecoveryRefused) -> Self {
        Self::Refused(refused.into())
    }
}

impl From<Ignored> for Outcome {
    fn from(ignored: Ignored) -> Self {
        Self::Ignored(ignored)
    }
}
