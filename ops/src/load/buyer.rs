//! One buyer from arrival to a final answer.
//!
//! A task per buyer owns everything here; buyers share only the journal, the tally and the HTTP client. A buyer repeats
//! a call only where the contract says that this is safe, and always with the same request id.

use super::client::{CallError, Joined, Phone, Reservation, Wish};
use super::compass::Compass;
use super::journal::{Journal, Record};
use super::plan::{Behaviour, User};
use super::tally::{Outcome, Tally};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::time::{sleep, sleep_until};
use uuid::Uuid;

/// What all buyers of a crowd share.
pub struct Scene {
    /// Concert name.
    pub concert: String,
    /// Its tiers, in order of the definition.
    pub tiers: Vec<String>,
    /// One per region, in the order of the crowd's spread.
    pub phones: Vec<Phone>,
    /// Finds a buyer's region by name, where the plan is not to say.
    pub compass: Option<Compass>,
    /// Start of the crowd's time.
    pub started: Instant,
    /// When everybody goes home.
    pub until: Instant,
    /// How often buyers poll, where not as told.
    pub poll_every: Option<Duration>,
    /// Every `202`.
    pub journal: Journal,
    /// Counts and latencies.
    pub tally: Tally,
}

/// First wait before a repeated call, doubled up to the cap.
const BACKOFF: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// One in so many of those who find their region by name goes on at another one: answers change, and are kept too long.
const WANDERS: u64 = 5;

struct Buyer<'a> {
    user: &'a User,
    scene: &'a Scene,
    phone: &'a Phone,
    session: String,
    patience: Patience,
}

/// How long this buyer waits before a call is repeated.
struct Patience {
    backoff: Duration,
    draws: SmallRng,
}

/// Repeats a call that failed in a way that allows it, until everybody goes home.
macro_rules! insist {
    ($buyer:expr, $call:expr) => {{
        $buyer.patience.backoff = BACKOFF;
        loop {
            match $call.await {
                Ok(answer) => break Ok(answer),
                Err(error) => match $buyer.patience.wait($buyer.scene, error).await {
                    Ok(()) => {}
                    Err(error) => break Err(error),
                },
            }
        }
    }};
}

/// Lives one buyer's evening.
pub async fn live(scene: Arc<Scene>, user: User) {
    sleep_until((scene.started + user.arrives_after).into()).await;
    let outcome = match evening(&scene, &user).await {
        Ok(outcome) => outcome,
        Err(error) => {
            scene.tally.problem(&error);
            if matches!(error, CallError::Refused { .. }) { Outcome::Refused } else { Outcome::Error }
        }
    };
    scene.tally.ended(outcome);
}

async fn evening(scene: &Scene, user: &User) -> Result<Outcome, CallError> {
    let patience = Patience { backoff: BACKOFF, draws: SmallRng::seed_from_u64(user.seed) };
    let mut buyer = Buyer { user, scene, phone: &scene.phones[user.region], session: String::new(), patience };
    let named = match &scene.compass {
        Some(compass) => Some((compass, insist!(buyer, compass.find(user.seed))?)),
        None => None,
    };
    if let Some((_, region)) = named {
        buyer.phone = &scene.phones[region];
    }
    let session = insist!(buyer, buyer.phone.session())?;
    buyer.session = session.session;
    if let Some((compass, region)) = named {
        compass.arrived(region, &session.home_region)?;
        if user.number.is_multiple_of(WANDERS) && scene.phones.len() > 1 {
            buyer.phone = &scene.phones[(region + 1) % scene.phones.len()];
            compass.wandered();
        }
    }
    buyer.buys(&session.user_id, &session.home_region).await
}

impl Buyer<'_> {
    /// From the join to the end.
    async fn buys(&mut self, user_id: &str, home: &str) -> Result<Outcome, CallError> {
        let joined = self.join(user_id).await?;
        if joined.region != home {
            return Err(CallError::Broken(format!("a session of {home} got a place in {}", joined.region)));
        }
        self.lives_with(joined).await.map_err(|error| match error.code() {
            "not_found" => CallError::Broken(format!("an accepted place is not known any more: {error}")),
            _ => error,
        })
    }

    /// From the place in the queue to the end.
    async fn lives_with(&mut self, joined: Joined) -> Result<Outcome, CallError> {
        if self.user.behaviour == Behaviour::Cancels && self.patience.draws.random_bool(0.5) {
            let gone = self.cancel(&joined.reservation).await?;
            return self.ended(gone);
        }
        let ended = self.wait_and_act(joined).await?;
        self.ended(ended)
    }

    async fn join(&mut self, user_id: &str) -> Result<Joined, CallError> {
        let (user, scene) = (self.user, self.scene);
        let wish = Wish {
            concert: &scene.concert,
            request_id: Uuid::from_u128(user.request_id),
            quantity: user.quantity,
            tiers: user.tiers.iter().map(|tier| scene.tiers[*tier].as_str()).collect(),
            any_quantity: user.any_quantity,
        };
        // A `200` too: the `202` before it was lost on the way, and the place is this buyer's all the same.
        let joined = insist!(self, self.join_once(&wish))?;
        self.note(Record::Accepted {
            concert: wish.concert.into(),
            reservation: joined.reservation.clone(),
            user: user_id.into(),
            request_id: wish.request_id.to_string(),
            quantity: wish.quantity,
        })?;
        scene.tally.accepted.fetch_add(1, Relaxed);
        Ok(joined)
    }

    async fn join_once(&self, wish: &Wish<'_>) -> Result<Joined, CallError> {
        let sent = Instant::now();
        let joined = if self.user.doubles {
            both(tokio::join!(self.phone.join(&self.session, wish), self.phone.join(&self.session, wish)))?
        } else {
            self.phone.join(&self.session, wish).await?.0
        };
        self.scene.tally.latency(sent.elapsed());
        Ok(joined)
    }

    fn note(&self, record: Record) -> Result<(), CallError> {
        self.scene.journal.note(&record).map_err(|e| CallError::Broken(format!("{e:#}")))
    }

    /// Where the reservation stands then: cancelled, or however it ended before that.
    async fn cancel(&mut self, reservation: &str) -> Result<Reservation, CallError> {
        match insist!(self, self.phone.cancel(&self.session, reservation)) {
            Err::<_, CallError>(error) if error.code() == "conflict" => self.poll(reservation).await,
            answered => answered,
        }
    }

    async fn poll(&mut self, reservation: &str) -> Result<Reservation, CallError> {
        self.scene.tally.polls.fetch_add(1, Relaxed);
        insist!(self, self.phone.poll(&self.session, reservation))
    }

    /// Polls as told until a final state, doing once, when held, what this buyer does.
    async fn wait_and_act(&mut self, joined: Joined) -> Result<Reservation, CallError> {
        let mut wait_ms = joined.poll_after_ms.unwrap_or(1_000);
        let mut acted = false;
        loop {
            let wait = self
                .scene
                .poll_every
                .unwrap_or(Duration::from_millis(wait_ms))
                .mul_f64(self.patience.draws.random_range(1.0..1.2));
            if Instant::now() + wait > self.scene.until {
                return self.poll(&joined.reservation).await;
            }
            sleep(wait).await;
            let mut seen = self.poll(&joined.reservation).await?;
            if seen.status == "held" && !acted {
                acted = true;
                if let Some(after) = self.act(&joined.reservation).await? {
                    seen = after;
                }
            }
            if seen.is_final() {
                return Ok(seen);
            }
            wait_ms = seen.poll_after_ms.unwrap_or(1_000);
        }
    }

    async fn act(&mut self, reservation: &str) -> Result<Option<Reservation>, CallError> {
        match self.user.behaviour {
            Behaviour::Lapses => {}
            Behaviour::Cancels => return self.cancel(reservation).await.map(Some),
            Behaviour::StartsAndLapses => {
                self.start(reservation).await?;
            }
            Behaviour::Pays => self.pay(reservation, &["pm_card_visa"]).await?,
            Behaviour::PaysSlowly => self.pay(reservation, &["pm_card_processing"]).await?,
            Behaviour::DeclinedThenPays => {
                self.pay(reservation, &["pm_card_visa_chargeDeclined", "pm_card_visa"]).await?;
            }
        }
        Ok(None)
    }

    /// Starts the payment; `None` when the hold ended first.
    async fn start(&mut self, reservation: &str) -> Result<Option<super::client::Payment>, CallError> {
        match insist!(self, self.phone.payment(&self.session, reservation)) {
            Ok(payment) => Ok(Some(payment)),
            Err::<_, CallError>(error) if error.code() == "conflict" => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn pay(&mut self, reservation: &str, methods: &[&str]) -> Result<(), CallError> {
        let Some(payment) = self.start(reservation).await? else { return Ok(()) };
        if payment.is_free() {
            return Ok(());
        }
        for method in methods {
            // A provider that does not answer may have taken the money: the hold's own end settles that.
            match insist!(self, self.phone.confirm(&payment, method)) {
                Ok(true) => {
                    self.note(Record::Paid { reservation: reservation.into(), intent: payment.intent.clone() })?;
                    return Ok(());
                }
                Ok(false) => {}
                Err::<_, CallError>(error) => {
                    self.scene.tally.problem(&error);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn ended(&self, seen: Reservation) -> Result<Outcome, CallError> {
        self.note(Record::Ended {
            reservation: seen.reservation.clone(),
            status: seen.status.clone(),
            tickets: seen.tickets.clone(),
        })?;
        Outcome::of(&seen)
    }
}

impl Patience {
    /// Waits before the call is repeated, or gives the error back where repeating is not allowed or too late.
    async fn wait(&mut self, scene: &Scene, error: CallError) -> Result<(), CallError> {
        let wait = error.retry_after().unwrap_or(self.backoff).mul_f64(self.draws.random_range(1.0..1.5));
        if !error.retryable() || Instant::now() + wait > scene.until {
            return Err(error);
        }
        scene.tally.repeats.fetch_add(1, Relaxed);
        sleep(wait).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        Ok(())
    }
}

type JoinAnswer = Result<(Joined, bool), CallError>;

/// Two joins sent at once with one request id must lead to one place, given once.
fn both((first, second): (JoinAnswer, JoinAnswer)) -> Result<Joined, CallError> {
    match (first, second) {
        (Ok((a, a_fresh)), Ok((b, b_fresh))) => {
            if a.reservation != b.reservation {
                return Err(CallError::Broken(format!("one request, two places: {} {}", a.reservation, b.reservation)));
            }
            if a_fresh && b_fresh {
                return Err(CallError::Broken(format!("one request accepted twice: {}", a.reservation)));
            }
            Ok(a)
        }
        (Ok((joined, _)), Err(_)) | (Err(_), Ok((joined, _))) => Ok(joined),
        (Err(error), Err(_)) => Err(error),
    }
}
