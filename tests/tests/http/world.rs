//! A node of a region in this process, on free ports, with a PostgreSQL database and a Redis of its own.

use ops::local::testing::{self, TestDatabase};
use ops::local::{Redis, own_address};
use region_api::{KeyRing, TicketSigner};
use region_node::config::{Config, Role};
use region_node::node::{self, Listeners};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Operators' token in every test.
pub(crate) const OPERATOR: &str = "operator-token-of-this-test";
/// The door's token in every test.
pub(crate) const DOOR: &str = "door-token-of-this-test";
/// Secrets that no log may show, with the passwords of the servers.
pub(crate) const SECRETS: [&str; 4] = [OPERATOR, DOOR, "sk_test_of_this_test", "whsec_of_this_test"];

/// A running node.
pub(crate) struct World {
    pub(crate) public: String,
    pub(crate) admin: String,
    pub(crate) client: reqwest::Client,
    pub(crate) ring: KeyRing,
    pub(crate) redis: Redis,
    pub(crate) secrets: Vec<String>,
    shutdown: CancellationToken,
    node: Option<JoinHandle<anyhow::Result<()>>>,
    pub(crate) database: TestDatabase,
    _folder: tempfile::TempDir,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e} in {}", self.text))
    }
    /// `code` of a problem, after a look at the rest of it.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let body = self.json();
        assert_eq!(body["status"], self.status, "{self:?}");
        for key in ["type", "title", "detail", "side_effects"] {
            assert!(body[key].is_string(), "{key} in {self:?}");
        }
        assert_eq!(body["retry_after_ms"].is_null(), !self.headers.contains_key("retry-after"), "{self:?}");
        body["code"].as_str().unwrap().to_owned()
    }
}

fn secret(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// What a node is started with.
pub(crate) struct Setup<'a> {
    pub(crate) region: &'a str,
    /// Where it listens for everybody: other regions may have to know it before it starts.
    pub(crate) public: TcpListener,
    /// Names and addresses of the other regions.
    pub(crate) peers: &'a [(&'a str, &'a str)],
    /// Lines before the first table of its configuration.
    pub(crate) first: &'a str,
    /// Lines at its end.
    pub(crate) more: &'a str,
    /// Address of the payment provider.
    pub(crate) provider: &'a str,
}

impl Setup<'_> {
    /// Region `east`, by itself.
    pub(crate) async fn east() -> Self {
        let (region, provider) = ("east", "http://127.0.0.1:9");
        Setup { region, public: place().await, peers: &[], first: "", more: "", provider }
    }
}

/// A free place to listen at.
pub(crate) async fn place() -> TcpListener {
    TcpListener::bind((own_address(), 0)).await.unwrap()
}

impl World {
    /// A node of region `east` with these other regions as peers, and more TOML lines at the end.
    pub(crate) async fn start(peers: &[(&str, &str)], more: &str) -> Self {
        Self::with(Setup { peers, more, ..Setup::east().await }).await
    }

    /// A node.
    pub(crate) async fn with(setup: Setup<'_>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let database = testing::database().await.unwrap();
        let redis = testing::redis().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let ring = KeyRing::new(&[[1; 32], [2; 32], [3; 32], [4; 32]]).unwrap();
        let address = database.address();
        let Setup { region, public, peers, first, more, provider } = setup;
        let admin = place().await;
        let (public_at, admin_at) = (public.local_addr().unwrap(), admin.local_addr().unwrap());
        let peers: String = peers.iter().map(|(region, url)| format!("{region} = \"{url}\"\n")).collect();
        let config = format!(
            "region = '{region}'\nstate_dir = '{state}'\n{first}\n\
             [public]\nlisten = '{public_at}'\nbase_url = 'http://{public_at}'\n\
             [admin]\nlisten = '{admin_at}'\noperator_token_file = '{operator}'\ndoor_token_file = '{door}'\n\
             [postgres]\nhost = '{host}'\nport = {port}\nuser = '{user}'\ndatabase = '{database}'\n\
             password_file = '{password}'\npool_size = 6\n\
             [redis]\nurls = ['{redis}']\npassword_file = '{redis_password}'\n\
             [intake]\nshards = 2\n\
             [keys]\nring_file = '{ring}'\nticket_key_file = '{ticket}'\n\
             [payments]\nprovider = 'sandbox'\napi_url = '{provider}'\nsecret_key_file = '{sk}'\n\
             webhook_secret_file = '{whsec}'\n[peers]\n{peers}{more}",
            state = dir.join("state").display(),
            operator = secret(dir, "operator", OPERATOR),
            door = secret(dir, "door", DOOR),
            host = address.host,
            port = address.port,
            user = address.user,
            database = address.database,
            password = secret(dir, "pg", &address.password),
            redis = redis.url(),
            redis_password = secret(dir, "redis", redis.password()),
            ring = secret(dir, "ring", &ring.to_json()),
            ticket = secret(dir, "ticket", &TicketSigner::from_seed(&[5; 32]).to_pem()),
            sk = secret(dir, "sk", SECRETS[2]),
            whsec = secret(dir, "whsec", SECRETS[3]),
        );
        std::fs::create_dir(dir.join("state")).unwrap();
        let config = Config::from_toml(&config, "test").unwrap();
        let takes_joins = config.has(Role::Intake);
        let shutdown = CancellationToken::new();
        let node = tokio::spawn(node::run(Listeners { public, admin }, config, shutdown.clone()));
        let mut secrets: Vec<String> = SECRETS.map(str::to_owned).to_vec();
        secrets.extend([address.password.clone(), redis.password().to_owned()]);
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let world = Self {
            public: format!("http://{public_at}"),
            admin: format!("http://{admin_at}"),
            client,
            ring,
            redis,
            secrets,
            shutdown,
            node: Some(node),
            database,
            _folder: folder,
        };
        world.ready(takes_joins).await;
        world
    }

    /// Waits until it is ready; without the role `intake`, until that is all that it lacks.
    async fn ready(&self, takes_joins: bool) {
        for _ in 0..200 {
            if let Ok(answer) = self.client.get(format!("{}/readyz", self.public)).send().await {
                let (ready, text) = (answer.status() == 200, answer.text().await.unwrap());
                let only_that = text.contains("role intake") && !text.contains("postgres") && !text.contains("redis");
                if ready || !takes_joins && only_that {
                    return;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the node did not become ready: {:?}", self.get("/readyz", None).await);
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        assert!(headers.contains_key("x-request-id") || !answer.url().as_str().starts_with(&self.public));
        Answer { status, headers, text: answer.text().await.unwrap() }
    }

    pub(crate) fn request(&self, method: &str, path: &str, session: Option<&str>) -> reqwest::RequestBuilder {
        let request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.public));
        match session {
            Some(session) => request.bearer_auth(session),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str, session: Option<&str>) -> Answer {
        self.send(self.request("GET", path, session)).await
    }
    pub(crate) async fn post(&self, path: &str, session: Option<&str>, body: &Value) -> Answer {
        self.send(self.request("POST", path, session).json(body)).await
    }
    pub(crate) async fn operator(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.admin));
        let request = request.bearer_auth(OPERATOR);
        self.send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    /// A guest's session.
    pub(crate) async fn guest(&self) -> String {
        let answer = self.post("/v1/session", None, &json!({})).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["session"].as_str().unwrap().to_owned()
    }

    /// A concert with one tier `A`; `change` overrides fields of its definition.
    pub(crate) async fn concert(&self, name: &str, change: Value) {
        let mut definition = json!({
            "title": "A concert", "venue": "A hall", "sale_opens_at": "2020-01-01T00:00:00Z",
            "tiers": [{ "tier": "A", "title": "Floor", "price": { "amount": 1200, "currency": "EUR" }, "total": 100 }],
        });
        for (key, value) in change.as_object().unwrap() {
            definition[key] = value.clone();
        }
        let answer = self.operator("PUT", &format!("/v1/concerts/{name}"), Some(&definition)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// A join as somebody would send it.
    pub(crate) fn wish(quantity: u64) -> Value {
        json!({ "request_id": uuid::Uuid::new_v4(), "quantity": quantity, "tiers": ["A"] })
    }

    /// Asks until a reservation is in one of these states; slowly enough not to be voided.
    pub(crate) async fn until(&self, session: &str, reservation: &str, states: &[&str]) -> Value {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let answer = self.get(&format!("/v1/reservations/{reservation}"), Some(session)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let seen = answer.json();
            if states.iter().any(|state| seen["status"] == *state) {
                return seen;
            }
            assert!(std::time::Instant::now() < deadline, "waited for {states:?}: {seen}");
            tokio::time::sleep(std::time::Duration::from_millis(550)).await;
        }
    }

    /// One number from its database.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.database.connect().await.unwrap().query_one(query, &[]).await.unwrap().get(0)
    }

    /// Joins, and returns the reservation's id.
    pub(crate) async fn join(&self, concert: &str, session: &str) -> String {
        let answer = self.post(&format!("/v1/concerts/{concert}/reservations"), Some(session), &Self::wish(2)).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()["reservation"].as_str().unwrap().to_owned()
    }

    /// Ends the node and waits for it.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        if let Some(node) = self.node.take() {
            tokio::time::timeout(std::time::Duration::from_secs(30), node).await.unwrap().unwrap().unwrap();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
