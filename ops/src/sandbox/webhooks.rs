//! The task that owns time: it delivers events, signed as Stripe signs, again and again until they are taken, and lets
//! money arrive late. It never changes the account except through `Shop`.

use super::limits;
use super::shop::{Event, Job, Shop, fresh, now_s};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Hex HMAC-SHA256 of `t.body`: the value of `v1`.
fn sign(secret: &str, t: i64, body: &str) -> String {
    // HMAC takes keys of every length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(t.to_string().as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The `Stripe-Signature` header: one `v1` per secret, so that secrets can be rotated.
pub fn signature(secrets: &[String], t: i64, body: &str) -> String {
    let signed = secrets.iter().map(|secret| format!(",v1={}", sign(secret, t, body)));
    std::iter::once(format!("t={t}")).chain(signed).collect()
}

enum Due {
    Deliver { event: Event, endpoint: usize, attempt: u32 },
    Arrive { intent: String, only_processing: bool },
}

struct Timed {
    at: Instant,
    number: u64,
    due: Due,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    /// Reversed: the heap gives the earliest first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

struct Postman {
    shop: Arc<Shop>,
    client: reqwest::Client,
    heap: BinaryHeap<Timed>,
    number: u64,
    /// Deliveries of an event that are still to be made.
    open: HashMap<String, usize>,
    posts: JoinSet<(Event, usize, u32, bool)>,
}

/// Runs until `shutdown`. What is not delivered then is in the record and goes out after the next start.
pub(crate) async fn run(shop: Arc<Shop>, mut jobs: mpsc::UnboundedReceiver<Job>, shutdown: CancellationToken) {
    let client = match reqwest::Client::builder().timeout(limits::DELIVERY_TIMEOUT).build() {
        Ok(client) => client,
        Err(error) => return tracing::error!(%error, "no HTTP client, no webhooks"),
    };
    let mut postman =
        Postman { shop, client, heap: BinaryHeap::new(), number: 0, open: HashMap::new(), posts: JoinSet::new() };
    loop {
        postman.start_due();
        let full = postman.posts.len() >= limits::DELIVERIES_IN_FLIGHT_MAX;
        let next = postman.heap.peek().filter(|_| !full).map(|timed| timed.at);
        let sleep = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            job = jobs.recv() => match job {
                Some(job) => postman.take(job),
                None => return,
            },
            Some(posted) = postman.posts.join_next() => if let Ok((event, endpoint, attempt, taken)) = posted {
                postman.posted(event, endpoint, attempt, taken);
            },
            () = sleep => {}
        }
    }
}

impl Postman {
    fn after(&mut self, delay: Duration, due: Due) {
        self.number += 1;
        self.heap.push(Timed { at: Instant::now() + delay, number: self.number, due });
    }

    fn take(&mut self, job: Job) {
        let faults = self.shop.faults();
        match job {
            Job::Arrive(intent, delay, only_processing) => self.after(delay, Due::Arrive { intent, only_processing }),
            Job::TellNow(event) => self.tell(event, 1, |_| Duration::ZERO),
            Job::Tell(event) if rand::random_bool(faults.webhook_drop) => self.shop.told(&event.id, true),
            Job::Tell(event) => self.tell(event, faults.webhook_copies, |_| {
                let jitter = rand::random_range(0..=faults.webhook_jitter_ms);
                Duration::from_millis(faults.webhook_delay_ms + jitter)
            }),
        }
    }

    fn tell(&mut self, event: Event, copies: u32, delay: impl Fn(u32) -> Duration) {
        let endpoints = self.shop.config.webhook_urls.len();
        if endpoints == 0 {
            return self.shop.told(&event.id, true);
        }
        self.open.insert(event.id.clone(), endpoints * copies as usize);
        for copy in 0..copies {
            for endpoint in 0..endpoints {
                self.after(delay(copy), Due::Deliver { event: event.clone(), endpoint, attempt: 0 });
            }
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        while self.posts.len() < limits::DELIVERIES_IN_FLIGHT_MAX && self.heap.peek().is_some_and(|t| t.at <= now) {
            match self.heap.pop().map(|timed| timed.due) {
                Some(Due::Deliver { event, endpoint, attempt }) => self.post(event, endpoint, attempt),
                Some(Due::Arrive { intent, only_processing }) => self.arrive(&intent, only_processing),
                None => return,
            }
        }
    }

    fn arrive(&self, intent: &str, only_processing: bool) {
        let charge = fresh("ch_");
        let arrived = self.shop.change(|account| {
            let now = account.intent(intent)?;
            if only_processing && now.status != super::account::Status::Processing {
                let intent = now.clone();
                return Ok(((), super::account::Done { intent, changes: Vec::new(), told: None }));
            }
            Ok(((), account.succeed(now_s(), intent, charge)?))
        });
        if let Err(error) = arrived {
            tracing::warn!(intent, error = error.message, "the money did not arrive");
        }
    }

    fn post(&mut self, event: Event, endpoint: usize, attempt: u32) {
        let Some(url) = self.shop.config.webhook_urls.get(endpoint) else { return };
        let signature = signature(&self.shop.config.webhook_secrets, now_s(), &event.body);
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json; charset=utf-8")
            .header("stripe-signature", signature)
            .body(event.body.to_string());
        self.posts.spawn(async move {
            let taken = match request.send().await {
                Ok(response) => response.status().is_success(),
                Err(_) => false,
            };
            (event, endpoint, attempt, taken)
        });
    }

    fn posted(&mut self, event: Event, endpoint: usize, attempt: u32, taken: bool) {
        let config = &self.shop.config;
        if !taken && attempt + 1 < config.attempts_max {
            let delay = config.retry_first.saturating_mul(1 << attempt.min(16)).min(config.retry_most);
            return self.after(delay, Due::Deliver { event, endpoint, attempt: attempt + 1 });
        }
        let Some(open) = self.open.get_mut(&event.id) else { return };
        *open -= 1;
        if *open == 0 {
            self.open.remove(&event.id);
            self.shop.told(&event.id, !taken);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn signs_as_stripe_does() {
        // Made with: printf '12345.{"id":"evt"}' | openssl dgst -sha256 -hmac whsec_test
        let v1 = "855315825e238523793596e15e01e30ea52325c0896858878a8a4c120dbaf1e5";
        let header = super::signature(&["whsec_test".into()], 12345, r#"{"id":"evt"}"#);
        assert_eq!(header, format!("t=12345,v1={v1}"));
        let both = super::signature(&["other".into(), "whsec_test".into()], 12345, r#"{"id":"evt"}"#);
        assert!(both.ends_with(&format!(",v1={v1}")) && both.len() == header.len() + 4 + 64);
    }
}
