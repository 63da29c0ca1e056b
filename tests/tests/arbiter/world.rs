//! Arbiters as real processes, with certificates of an authority that lives as long as the test.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use ops::local::{
    Lifetime, OwnFolder, free_port, own_address,
    process::{Launch, Started, launch},
    testing::own_folder,
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) pem: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn issue(&self, uris: &[&str], addresses: &[Ipv4Addr]) -> Certificate {
        self.issue_until(uris, addresses, 2100)
    }

    /// Valid until the first of January of that year.
    pub(crate) fn issue_until(&self, uris: &[&str], addresses: &[Ipv4Addr], year: i32) -> Certificate {
        self.issue_to(uris, addresses, rcgen::date_time_ymd(year, 1, 1))
    }

    /// Valid until then.
    pub(crate) fn issue_to(&self, uris: &[&str], addresses: &[Ipv4Addr], end: time::OffsetDateTime) -> Certificate {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names = names.chain(addresses.iter().map(|ip| SanType::IpAddress((*ip).into()))).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = end;
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Certificate { pem, key: key.serialize_pem() }
    }

    /// A client that believes this authority and shows a certificate, or none.
    pub(crate) fn client(&self, certificate: Option<&Certificate>) -> reqwest::Client {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.pem.as_bytes()).unwrap()];
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap())
                    .unwrap()
            }
        };
        let client = reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy();
        client.timeout(Duration::from_secs(15)).redirect(reqwest::redirect::Policy::none()).build().unwrap()
    }
}

/// One arbiter.
pub(crate) struct Arbiter {
    pub(crate) id: u64,
    pub(crate) address: Ipv4Addr,
    machines: u16,
    people: u16,
    pub(crate) folder: PathBuf,
    started: Option<Started>,
}

/// Some arbiters.
pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) operator: reqwest::Client,
    pub(crate) arbiters: BTreeMap<u64, Arbiter>,
    pub(crate) folder: OwnFolder,
    pub(crate) extra: String,
}

/// People with tokens of their own.
pub(crate) const PEOPLE: [(&str, &str); 2] = [("bea", "the-token-of-bea"), ("cem", "the-token-of-cem")];

fn sha256(text: &str) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) const TOKEN: &str = "the-operators-token-of-a-test";

impl Arbiter {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}:{}{path}", self.address, self.machines)
    }

    pub(crate) fn people_url(&self, path: &str) -> String {
        format!("https://{}:{}{path}", self.address, self.people)
    }

    pub(crate) fn machines(&self) -> (Ipv4Addr, u16) {
        (self.address, self.machines)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("arbiter.toml")
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut started) = self.started.take() {
            started.stop(Signal::SIGKILL, Duration::from_secs(10));
        }
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut started) = self.started.take() {
            started.stop(Signal::SIGTERM, Duration::from_secs(20));
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.started.as_ref().unwrap().record.pid()
    }

    pub(crate) fn running(&self) -> bool {
        self.started.is_some()
    }

    pub(crate) async fn exits_within(&mut self, most: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + most;
        loop {
            let ended = self.started.as_mut().and_then(Started::ended);
            if ended.is_some() || Instant::now() > end {
                return ended;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn start_with(&mut self, env: &[(&str, &str)]) {
        let program = ops::stage::program("quota-arbiter").unwrap();
        let mut env = env.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect::<Vec<_>>();
        env.push(("BOXOFFICE_LOG".into(), "info".into()));
        let started = launch(&Launch {
            program: &program,
            args: vec!["--config".into(), self.config().into()],
            env,
            cwd: &self.folder,
            log: &self.folder.join("log"),
            record: &self.folder.join("record"),
            user: None,
            lifetime: Lifetime::WithOwner(Signal::SIGKILL),
        });
        self.started = Some(started.unwrap());
    }
}

impl World {
    /// That many arbiters that run and have a leader. `extra` goes into every configuration, before the first section.
    pub(crate) async fn start(count: u64, extra: &str) -> Self {
        let mut world = Self::prepare(count, extra);
        for arbiter in world.arbiters.values_mut() {
            arbiter.start_with(&[]);
        }
        world.leader().await;
        world
    }

    pub(crate) fn prepare(count: u64, extra: &str) -> Self {
        let authority = Authority::new("the cluster's");
        let operator = authority.client(Some(&authority.issue(&["boxoffice://operator/ann"], &[])));
        let folder = own_folder("arbiters").unwrap();
        let mut world = Self { authority, operator, arbiters: BTreeMap::new(), folder, extra: extra.to_owned() };
        for id in 1..=count {
            world.place(id);
        }
        let members = world.members();
        for id in 1..=count {
            world.configure(id, &members, false);
        }
        world
    }

    pub(crate) fn members(&self) -> Vec<Value> {
        let member =
            |arbiter: &Arbiter| json!({"id": arbiter.id, "address": arbiter.url(""), "people": arbiter.people_url("")});
        self.arbiters.values().map(member).collect()
    }

    /// Room for an arbiter, with certificates.
    pub(crate) fn place(&mut self, id: u64) {
        let folder = self.folder.path().join(id.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let address = own_address();
        let (machines, people) = (free_port(address).unwrap(), free_port(address).unwrap());
        let certificate = self.authority.issue(&[&format!("boxoffice://arbiter/{id}")], &[address]);
        write_certificates(&folder, &self.authority.pem, &certificate);
        write_secret(&folder.join("token"), TOKEN);
        self.arbiters.insert(id, Arbiter { id, address, machines, people, folder, started: None });
    }

    pub(crate) fn configure(&self, id: u64, members: &[Value], join: bool) {
        let arbiter = &self.arbiters[&id];
        let folder = arbiter.folder.display();
        let members = members.iter().map(|member| {
            format!("{{ id = {}, address = {}, people = {} }}", member["id"], member["address"], member["people"])
        });
        let people = PEOPLE.iter().map(|(name, token)| {
            format!("[[operators.people]]\nname = \"{name}\"\ntoken_sha256 = \"{}\"\n", sha256(token))
        });
        let people = people.collect::<String>();
        let text = format!(
            "id = {id}\ndata_dir = \"{folder}/data\"\nmachines = \"{0}:{1}\"\npeople = \"{0}:{2}\"\n{3}\n[tls]\n\
             ca_file = \"{folder}/ca.pem\"\ncertificate_file = \"{folder}/cert.pem\"\nkey_file = \"{folder}/key.pem\"\n\
             [operators]\ntoken_file = \"{folder}/token\"\n{people}[cluster]\njoin = {join}\nregions = [\"east\", \"west\"]\n\
             members = [{4}]\n",
            arbiter.address,
            arbiter.machines,
            arbiter.people,
            self.extra,
            members.collect::<Vec<_>>().join(", "),
        );
        std::fs::write(arbiter.config(), text).unwrap();
    }

    /// The id of an arbiter that answers a linearizable read itself.
    pub(crate) async fn leader(&self) -> u64 {
        self.leader_within(Duration::from_secs(30)).await.unwrap_or_else(|| {
            let logs = self.arbiters.values().map(Arbiter::log).collect::<Vec<_>>();
            panic!("no leader\n{}", logs.join("\n---\n"))
        })
    }

    pub(crate) async fn leader_within(&self, most: Duration) -> Option<u64> {
        let end = Instant::now() + most;
        loop {
            for arbiter in self.arbiters.values().filter(|arbiter| arbiter.running()) {
                let asked = self.operator.get(arbiter.url("/v1/cluster")).timeout(Duration::from_secs(2));
                if asked.send().await.is_ok_and(|answer| answer.status() == 200) {
                    return Some(arbiter.id);
                }
            }
            if Instant::now() > end {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks whoever leads, again while nobody does.
    pub(crate) async fn ask(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let leader = self.leader().await;
            let mut request = self.operator.request(method.clone(), self.arbiters[&leader].url(path));
            if let Some(body) = body {
                request = request.json(body);
            }
            if let Ok(answer) = request.send().await
                && ![307, 503].contains(&answer.status().as_u16())
            {
                return (answer.status().as_u16(), answer.json().await.unwrap_or_default());
            }
            assert!(Instant::now() < end, "{path} is not answered");
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(reqwest::Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Creates or changes a concert with these tiers.
    pub(crate) async fn concert(&self, name: &str, total: u64) -> Value {
        let definition = json!({"title": "A night", "sale_opens_at": "2030-01-01T00:00:00Z",
            "tiers": [{"tier": "A", "price": {"amount": 100, "currency": "EUR"}, "total": total}]});
        let (status, body) = self.ask(reqwest::Method::PUT, &format!("/v1/concerts/{name}"), Some(&definition)).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    /// The names of the concerts that one arbiter has, linearizable or not.
    pub(crate) async fn concerts_of(&self, id: u64) -> Vec<String> {
        let url = self.arbiters[&id].url("/v1/concerts?stale=true");
        let Ok(answer) = self.operator.get(url).send().await else { return Vec::new() };
        let body: Value = answer.json().await.unwrap_or_default();
        let concerts = body["concerts"].as_array().cloned().unwrap_or_default();
        concerts.iter().filter_map(|concert| concert["concert"].as_str().map(str::to_owned)).collect()
    }

    /// Waits until one arbiter has a concert.
    pub(crate) async fn has(&self, id: u64, concert: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        while !self.concerts_of(id).await.iter().any(|known| known == concert) {
            assert!(Instant::now() < end, "arbiter {id} does not hear of {concert}\n{}", self.arbiters[&id].log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(crate) fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub(crate) fn write_certificates(folder: &Path, ca: &str, certificate: &Certificate) {
    std::fs::write(folder.join("ca.pem"), ca).unwrap();
    std::fs::write(folder.join("cert.pem"), &certificate.pem).unwrap();
    write_secret(&folder.join("key.pem"), &certificate.key);
}

/// A region of the test: its certificate and what it would report.
pub(crate) struct Region {
    pub(crate) name: &'static str,
    pub(crate) client: reqwest::Client,
    pub(crate) epoch: Option<u64>,
}

pub(crate) const IDENTITY: &str = "7:1:000102030405060708090a0b0c0d0e0f";

impl Region {
    pub(crate) fn new(world: &World, name: &'static str) -> Self {
        let certificate = world.authority.issue(&[&format!("boxoffice://region/{name}")], &[]);
        Self { name, client: world.authority.client(Some(&certificate)), epoch: None }
    }

    pub(crate) fn sync_body(&self, rows: Value) -> Value {
        json!({"sync": {"version": 1, "region": self.name, "identity": IDENTITY, "incarnation": 0,
            "epoch": self.epoch, "pools": rows}})
    }

    pub(crate) fn row(pool: &str, granted: u64, queued: u64) -> Value {
        json!({"pool": pool,
            "counters": {"granted": granted, "returned": 0, "held_in": 0, "released": 0, "sold": 0, "refunded": 0},
            "demand": {"queued": queued, "head_quantities": if queued > 0 { vec![2] } else { vec![] }, "rate_per_min": 0}})
    }

    pub(crate) async fn post(&self, world: &World, path: &str, body: &Value) -> (u16, Value) {
        let leader = world.leader().await;
        let url = world.arbiters[&leader].url(&format!("/v1/regions/{}/{path}", self.name));
        let answer = self.client.post(url).json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// Registers an empty database.
    pub(crate) async fn register(&mut self, world: &World) {
        let mut look = self.sync_body(json!([]));
        look["look"] = json!(true);
        let (status, view) = self.post(world, "sync", &look).await;
        assert_eq!(status, 200, "{view}");
        let body = json!({"version": 1, "register": {"region": self.name, "identity": IDENTITY, "incarnation": 0,
            "epoch_as_read": view["sync"]["epoch"], "database": null}});
        let (status, answer) = self.post(world, "register", &body).await;
        assert_eq!(status, 200, "{answer}");
        self.epoch = Some(answer["answer"]["registered"]["epoch"].as_u64().unwrap_or_else(|| panic!("{answer}")));
    }
}
