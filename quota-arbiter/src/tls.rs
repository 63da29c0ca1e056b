//! Certificates: who an arbiter is, whom it believes, and who somebody is who shows a certificate. The files are read
//! again when they change; if the new ones are no good, the last good ones stay, with a warning. Never connects to
//! anything and never says a key.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arbiter_api::Role;
use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use sha2::{Digest, Sha256};
use thiserror::Error;
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer as _, X509Certificate},
};

use crate::config::TlsFiles;

/// Why certificates cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file.
    #[error("{}: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// They do not fit together.
    #[error("certificate and key: {0}")]
    Rustls(#[from] rustls::Error),
    /// The authority's certificate is none.
    #[error("the authority's certificate: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The arbiter's own certificate names another role.
    #[error("{}: it says {found}, and this is boxoffice://arbiter/{id}", path.display())]
    OtherRole {
        /// The certificate.
        path: PathBuf,
        /// What it says.
        found: String,
        /// This arbiter.
        id: u64,
    },
    /// A client for other arbiters.
    #[error("the client for other arbiters: {0}")]
    Client(#[from] reqwest::Error),
}

/// What is made of one state of the files.
pub struct Identity {
    /// For the machines' port: a client certificate of this authority, or no connection.
    pub machines: Arc<ServerConfig>,
    /// For the people's port: no client certificate.
    pub people: Arc<ServerConfig>,
    /// To speak with other arbiters.
    pub client: reqwest::Client,
    digest: [u8; 32],
}

/// The certificates in use.
pub struct Certificates {
    files: TlsFiles,
    id: u64,
    now: ArcSwap<Identity>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn load(files: TlsFiles, id: u64) -> Result<Arc<Self>, TlsError> {
        let identity = Identity::read(&files, id)?;
        Ok(Arc::new(Self { files, id, now: ArcSwap::from_pointee(identity) }))
    }

    /// What holds for new connections.
    pub fn now(&self) -> Arc<Identity> {
        self.now.load_full()
    }

    /// Looks at the files now and then, for as long as the process runs.
    pub async fn watch(&self, every: Duration) {
        let mut refused = None;
        loop {
            tokio::time::sleep(every).await;
            // A few kilobytes, seldom: not worth a thread of its own.
            let digest = digest(&self.files);
            if digest == self.now.load().digest || Some(digest) == refused {
                continue;
            }
            match Identity::read(&self.files, self.id) {
                Ok(identity) => {
                    self.now.store(Arc::new(identity));
                    refused = None;
                    tracing::info!("certificates were read again");
                }
                Err(error) => {
                    refused = Some(digest);
                    tracing::warn!(%error, "the new certificates cannot be used; the last good ones stay");
                }
            }
        }
    }
}

impl Identity {
    fn read(files: &TlsFiles, id: u64) -> Result<Self, TlsError> {
        let digest = digest(files);
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.ca_file)? {
            roots.add(certificate)?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&files.certificate_file)?;
        let role = chain.first().map_or_else(|| Err("no certificate".to_owned()), role);
        if role != Ok(Role::Arbiter(id)) {
            let found = role.map_or_else(|problem| problem, |role| role.to_string());
            return Err(TlsError::OtherRole { path: files.certificate_file.clone(), found, id });
        }
        let key = || {
            PrivateKeyDer::from_pem_file(&files.key_file)
                .map_err(|error| TlsError::File { path: files.key_file.clone(), problem: error.to_string() })
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let server = || {
            let builder = ServerConfig::builder_with_provider(provider.clone());
            builder.with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        };
        let machines = server()?.with_client_cert_verifier(verifier).with_single_cert(chain.clone(), key()?)?;
        let people = server()?.with_no_client_auth().with_single_cert(chain.clone(), key()?)?;
        let client = client(provider, roots, chain, key()?)?;
        Ok(Self { machines: Arc::new(fresh(machines)), people: Arc::new(fresh(people)), client, digest })
    }
}

/// A resumed session would show a certificate that has expired since.
fn fresh(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn client(
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<reqwest::Client, TlsError> {
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(crate::limits::PEER_CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    Ok(client.build()?)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |problem: String| TlsError::File { path: path.into(), problem };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(|error| bad(error.to_string()))?;
    if certificates.is_empty() { Err(bad("there is no certificate in it".to_owned())) } else { Ok(certificates) }
}

/// What the files have, whatever it is.
fn digest(files: &TlsFiles) -> [u8; 32] {
    let mut digest = Sha256::new();
    for path in [&files.ca_file, &files.certificate_file, &files.key_file] {
        let bytes = std::fs::read(path).unwrap_or_default();
        digest.update((bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    }
    digest.finalize().into()
}

/// When a certificate expires, in seconds since 1970.
pub fn not_after(certificate: &CertificateDer<'_>) -> Option<u64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    certificate.validity().not_after.timestamp().try_into().ok()
}

/// Who a certificate says its holder is: the one URI among its subject's alternative names.
///
/// # Errors
/// What it says instead.
pub fn role(certificate: &CertificateDer<'_>) -> Result<Role, String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let names = certificate.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let mut uris = names.flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => uri.parse().map_err(|error: arbiter_api::role::NotARole| error.to_string()),
        (None, _) => Err("it names no role: there is no URI among its subject's alternative names".to_owned()),
        (Some(_), Some(_)) => Err("it names several URIs, and a role is one".to_owned()),
    }
}
