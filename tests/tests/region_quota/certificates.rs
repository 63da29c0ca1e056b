//! Certificates of a cluster, as its authority signs them: who may act as what is in their names.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use region_node::config::Arbiter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// Certificate and key for a role, valid at a loopback address.
    fn sign(&self, role: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.push(SanType::URI(role.try_into().unwrap()));
        if role.starts_with("boxoffice://arbiter/") {
            params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        }
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Writes a region's files and says how a node is told of them.
    pub(crate) fn files(&self, folder: &Path, role: &str, urls: &[String], autonomy_ms: u64) -> Arbiter {
        let file = |name: &str| folder.join(name);
        std::fs::write(file("ca.pem"), self.issuer.pem()).unwrap();
        self.renew(folder, role);
        Arbiter {
            urls: urls.iter().map(|url| url.parse().unwrap()).collect(),
            ca_file: file("ca.pem"),
            certificate_file: file("region.pem"),
            key_file: file("region-key.pem"),
            autonomy_ms,
        }
    }

    /// Another certificate for the same files.
    pub(crate) fn renew(&self, folder: &Path, role: &str) {
        let (certificate, key) = self.sign(role);
        // Key first: whoever reads in between finds a pair that does not fit, and keeps what it had.
        std::fs::write(folder.join("region-key.pem"), key).unwrap();
        std::fs::write(folder.join("region.pem"), certificate).unwrap();
    }

    /// How an arbiter listens: with its own certificate, and only to those of this authority.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        let (certificate, key) = self.sign("boxoffice://arbiter/1");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.issuer.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        Arc::new(config)
    }
}

/// As a node's configuration says it.
pub(crate) fn as_toml(arbiter: &Arbiter) -> String {
    let path = |path: &PathBuf| format!("{:?}", path.display().to_string());
    let urls: Vec<String> = arbiter.urls.iter().map(|url| format!("{:?}", url.as_str())).collect();
    format!(
        "\n[arbiter]\nurls = [{}]\nca_file = {}\ncertificate_file = {}\nkey_file = {}\nautonomy_ms = {}\n",
        urls.join(", "),
        path(&arbiter.ca_file),
        path(&arbiter.certificate_file),
        path(&arbiter.key_file),
        arbiter.autonomy_ms
    )
}
