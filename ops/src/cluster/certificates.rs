//! The certificate authority of one cluster and what it issues: who a machine or a person is, towards the arbiters.
//!
//! Everything lies in one folder: `ca.pem`, `ca-key.pem`, and `NAME.pem` with `NAME-key.pem` for everybody else. Keys are
//! PKCS#8, readable by their owner only, never printed. Good for a local cluster and for tests; where a company has an
//! authority of its own, that one issues certificates with the same names in them ([`Role`]) instead.

use super::secrets::write_once;
use anyhow::{Context as _, Result, bail, ensure};
use arbiter_api::Role;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How long the authority's certificate holds: it is renewed with everything below it, by a new `up`.
const AUTHORITY_HOLDS: Duration = Duration::days(3650);
/// How long the others hold: shorter than any browser's limit, longer than a local cluster is left alone.
const LEAF_HOLDS: Duration = Duration::days(365);
/// So long before its end a certificate is made anew by the next `up`.
const RENEWED_BEFORE_END: Duration = Duration::days(30);
/// A certificate begins a little in the past: clocks of machines differ.
const BEGINS_BEFORE_NOW: Duration = Duration::hours(1);

/// Three files, as servers and clients are given them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TlsFiles {
    /// Whom to trust.
    pub ca_file: PathBuf,
    /// Whom to be.
    pub certificate_file: PathBuf,
    /// What proves it.
    pub key_file: PathBuf,
}

/// A certificate authority on disk.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate is to say. Tests ask for wrong ones; a cluster asks for [`Wanted::of`].
#[derive(Debug, Clone)]
pub struct Wanted {
    /// URIs among its names; a proper one has exactly one, its [`Role`].
    pub uris: Vec<String>,
    /// Addresses that it may answer at.
    pub addresses: Vec<IpAddr>,
    /// From when.
    pub not_before: OffsetDateTime,
    /// Until when.
    pub not_after: OffsetDateTime,
}

impl Wanted {
    /// A proper certificate from now on.
    pub fn of(role: &Role, addresses: &[IpAddr]) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            uris: vec![role.to_string()],
            addresses: addresses.to_vec(),
            not_before: now - BEGINS_BEFORE_NOW,
            not_after: now + LEAF_HOLDS,
        }
    }
}

impl Authority {
    /// The authority in this folder; made when it is missing, and made anew (with all that it issued, as they are asked
    /// for) when it is about to end.
    pub fn ensure(folder: &Path) -> Result<Self> {
        make_private_folder(folder)?;
        let (certificate_file, key_file) = (folder.join("ca.pem"), folder.join("ca-key.pem"));
        if !(key_file.exists() && Facts::read(&certificate_file).is_ok_and(|facts| facts.holds_long())) {
            let key = KeyPair::generate().context("making the authority's key")?;
            let now = OffsetDateTime::now_utc();
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, "Boxoffice cluster authority");
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.not_before = now - BEGINS_BEFORE_NOW;
            params.not_after = now + AUTHORITY_HOLDS;
            let certificate = params.self_signed(&key).context("signing the authority's certificate")?;
            // The key first: a certificate without its key would never be made again.
            write_once(&key_file, &key.serialize_pem())?;
            write_once(&certificate_file, &certificate.pem())?;
        }
        let read = |file: &Path| std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()));
        let key = KeyPair::from_pem(&read(&key_file)?).with_context(|| format!("{} is no key", key_file.display()))?;
        let issuer = Issuer::from_ca_cert_pem(&read(&certificate_file)?, key)
            .with_context(|| format!("{} is no certificate", certificate_file.display()))?;
        Ok(Self { folder: folder.to_owned(), issuer })
    }

    /// The files of this name and role; issued when they are missing, about to end, of another role, for other
    /// addresses, or of another authority.
    pub fn ensure_issued(&self, name: &str, role: &Role, addresses: &[IpAddr]) -> Result<TlsFiles> {
        let files = self.files(name);
        let good = |facts: &Facts| {
            facts.holds_long()
                && facts.uris == [role.to_string()]
                && addresses.iter().all(|address| facts.addresses.contains(address))
                && facts.is_signed_by(&files.ca_file)
        };
        if files.key_file.exists() && Facts::read(&files.certificate_file).is_ok_and(|facts| good(&facts)) {
            return Ok(files);
        }
        self.issue(name, &Wanted::of(role, addresses))
    }

    /// Issues what is asked for, in place of what was there.
    pub fn issue(&self, name: &str, wanted: &Wanted) -> Result<TlsFiles> {
        let files = self.files(name);
        let key = KeyPair::generate().context("making a key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        for uri in &wanted.uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().context("a URI has only ASCII")?));
        }
        params.subject_alt_names.extend(wanted.addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (wanted.not_before, wanted.not_after);
        let certificate = params.signed_by(&key, &self.issuer).with_context(|| format!("signing {name}"))?;
        write_once(&files.key_file, &key.serialize_pem())?;
        write_once(&files.certificate_file, &certificate.pem())?;
        Ok(files)
    }

    /// Where the files of this name lie.
    pub fn files(&self, name: &str) -> TlsFiles {
        let at = |file: String| self.folder.join(file);
        TlsFiles {
            ca_file: at("ca.pem".to_owned()),
            certificate_file: at(format!("{name}.pem")),
            key_file: at(format!("{name}-key.pem")),
        }
    }
}

impl TlsFiles {
    /// A client that trusts this authority alone and shows this certificate; redirects are left to the caller, who knows
    /// where it may go.
    pub fn client(&self) -> Result<reqwest::ClientBuilder> {
        // Somebody else in this process may have chosen already; that choice is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let read = |file: &Path| std::fs::read(file).with_context(|| format!("reading {}", file.display()));
        // Two while the authority is being replaced.
        let ca = reqwest::Certificate::from_pem_bundle(&read(&self.ca_file)?)
            .with_context(|| format!("reading the certificates in {}", self.ca_file.display()))?;
        ensure!(!ca.is_empty(), "{} has no certificate", self.ca_file.display());
        let both = [read(&self.certificate_file)?, read(&self.key_file)?].concat();
        let identity = reqwest::Identity::from_pem(&both)
            .with_context(|| format!("{} and its key do not fit", self.certificate_file.display()))?;
        let builder = reqwest::Client::builder().tls_certs_only(ca).identity(identity).https_only(true).no_proxy();
        Ok(builder.redirect(reqwest::redirect::Policy::none()))
    }
}

/// What is looked at in a certificate on disk.
struct Facts {
    der: Vec<u8>,
    not_after: OffsetDateTime,
    uris: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Facts {
    fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(&text)
            .map_err(|error| anyhow::anyhow!("{} is not PEM: {error}", file.display()))?;
        let der = pem.contents;
        let (_, certificate) = X509Certificate::from_der(&der)
            .map_err(|error| anyhow::anyhow!("{} is no certificate: {error}", file.display()))?;
        let not_after = certificate.validity().not_after.to_datetime();
        let (mut uris, mut addresses) = (Vec::new(), Vec::new());
        let names = certificate.subject_alternative_name().ok().flatten();
        for name in names.map(|names| names.value.general_names.clone()).unwrap_or_default() {
            match name {
                GeneralName::URI(uri) => uris.push(uri.to_owned()),
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Ok(Self { not_after, uris, addresses, der })
    }

    fn holds_long(&self) -> bool {
        self.not_after > OffsetDateTime::now_utc() + RENEWED_BEFORE_END
    }

    /// By its signature: authorities of different clusters have the same name.
    fn is_signed_by(&self, ca_file: &Path) -> bool {
        let Ok(ca) = Self::read(ca_file) else { return false };
        let (Ok((_, ca)), Ok((_, us))) = (X509Certificate::from_der(&ca.der), X509Certificate::from_der(&self.der))
        else {
            return false;
        };
        us.verify_signature(Some(ca.public_key())).is_ok()
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(four.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}

fn make_private_folder(folder: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("making {}", folder.display()))?;
    let mode = std::fs::metadata(folder)?.permissions().mode();
    if mode & 0o022 != 0 {
        bail!("{} can be written to by others (mode {:o}): make it 0700", folder.display(), mode & 0o777);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const HERE: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)];

    fn role(text: &str) -> Role {
        text.parse().unwrap()
    }

    #[test]
    fn a_second_start_keeps_what_is_good_and_keys_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("tls");
        let authority = Authority::ensure(&folder).unwrap();
        let files = authority.ensure_issued("arbiter-1", &role("boxoffice://arbiter/1"), &HERE).unwrap();
        let before = std::fs::read(&files.certificate_file).unwrap();
        let again = Authority::ensure(&folder).unwrap();
        let same = again.ensure_issued("arbiter-1", &role("boxoffice://arbiter/1"), &HERE).unwrap();
        assert_eq!((std::fs::read(&same.certificate_file).unwrap(), same), (before, files));
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }

    #[test]
    fn a_certificate_is_made_anew_when_it_no_longer_fits() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::ensure(folder.path()).unwrap();
        let east = role("boxoffice://region/east");
        let renewed = |wanted: &Wanted, addresses: &[IpAddr]| {
            let files = authority.issue("east", wanted).unwrap();
            let before = std::fs::read(&files.certificate_file).unwrap();
            authority.ensure_issued("east", &east, addresses).unwrap();
            before != std::fs::read(&files.certificate_file).unwrap()
        };
        let good = Wanted::of(&east, &[]);
        assert!(!renewed(&good, &[]));
        assert!(renewed(&good, &HERE), "it lacks an address");
        assert!(renewed(&Wanted { not_after: OffsetDateTime::now_utc() + Duration::days(20), ..good.clone() }, &[]));
        assert!(renewed(&Wanted::of(&role("boxoffice://region/west"), &[]), &[]));
        // Of another authority with the same name.
        let files = authority.issue("east", &good).unwrap();
        for file in ["ca.pem", "ca-key.pem"] {
            std::fs::remove_file(folder.path().join(file)).unwrap();
        }
        let other = Authority::ensure(folder.path()).unwrap();
        let before = std::fs::read(&files.certificate_file).unwrap();
        other.ensure_issued("east", &east, &[]).unwrap();
        assert_ne!(before, std::fs::read(&files.certificate_file).unwrap());
    }

    #[test]
    fn the_files_make_a_client() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::ensure(folder.path()).unwrap();
        let files = authority.ensure_issued("operator", &role("boxoffice://operator/local"), &[]).unwrap();
        files.client().unwrap().build().unwrap();
        std::fs::write(&files.key_file, "no key").unwrap();
        assert!(files.client().is_err());
    }
}
