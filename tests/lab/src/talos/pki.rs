//! Certificates of a simulated cluster, made as Talos makes them: Ed25519, one CA, roles as organizations.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData as _,
};
use time::{Duration, OffsetDateTime};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};

use super::role::Role;

/// How long certificates are valid before they are made: clocks of clients may be a little behind.
const SLACK: Duration = Duration::hours(1);
const CA_LIFETIME: Duration = Duration::days(3650);
const CLIENT_LIFETIME: Duration = Duration::days(365);
const SERVER_LIFETIME: Duration = Duration::days(1);
/// The name of a server in maintenance mode.
const MAINTENANCE_NAME: &str = "maintenance-service.talos.dev";

/// A certificate that could not be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// It could not be made.
    #[error("failed to make a certificate")]
    Make(#[from] rcgen::Error),
    /// It cannot be used for TLS.
    #[error("failed to set up TLS")]
    Tls(#[from] rustls::Error),
    /// The CA cannot be used to check clients.
    #[error("failed to set up the check of clients")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The CA of a cluster. Its key lives as long as this, in memory only.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pki")
    }
}

/// A certificate and its key.
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Pki {
    /// A new CA.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn new() -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "talos");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        lasts(&mut params, CA_LIFETIME);
        let certificate = params.self_signed(&key)?;
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// The CA's certificate.
    pub(crate) fn ca_pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate of a client.
    pub(crate) fn client(&self, roles: &[Role], lifetime: Option<Duration>) -> Result<Identity, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for role in roles {
            params.distinguished_name.push(DnType::OrganizationName, role.name());
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        lasts(&mut params, lifetime.unwrap_or(CLIENT_LIFETIME));
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate: certificate.der().clone(), pem: certificate.pem(), key })
    }

    /// TLS of a running node with these names and addresses, which wants to see certificates of this CA.
    pub(crate) fn server(&self, hostname: &str, sans: Vec<String>) -> Result<Arc<ServerConfig>, PkiError> {
        let mut params = CertificateParams::new(sans)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, hostname);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        lasts(&mut params, SERVER_LIFETIME);
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let identity = Identity { certificate: certificate.der().clone(), pem: String::new(), key };
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots()?.into(), provider()).build()?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![identity.certificate.clone()], identity.private_key())?;
        Ok(with_http2(config))
    }

    /// TLS with which one node calls another on behalf of somebody.
    pub(crate) fn impersonator(&self) -> Result<Arc<ClientConfig>, PkiError> {
        let identity = self.client(&[Role::Impersonator], None)?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(vec![identity.certificate.clone()], identity.private_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// A talosconfig with one context.
    ///
    /// # Errors
    ///
    /// When the certificate in it cannot be made.
    pub fn talosconfig(
        &self,
        context: &str,
        roles: &[Role],
        endpoints: &[String],
        nodes: &[String],
    ) -> Result<String, PkiError> {
        Ok(self.talosconfig_of(context, &self.client(roles, None)?, endpoints, nodes))
    }

    /// The same of a client that has a certificate.
    pub(crate) fn talosconfig_of(
        &self,
        context: &str,
        client: &Identity,
        endpoints: &[String],
        nodes: &[String],
    ) -> String {
        let list = |items: &[String]| serde_json::to_string(items).unwrap_or_default();
        format!(
            "context: {context}\ncontexts:\n    {context}:\n        endpoints: {}\n        nodes: {}\n        \
             ca: {}\n        crt: {}\n        key: {}\n",
            list(endpoints),
            list(nodes),
            STANDARD.encode(self.ca_pem()),
            STANDARD.encode(client.pem()),
            STANDARD.encode(client.key_pem()),
        )
    }

    fn roots(&self) -> Result<RootCertStore, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone())?;
        Ok(roots)
    }
}

/// TLS of a node in maintenance mode, which anybody may call, and its fingerprint.
pub(crate) fn maintenance(sans: Vec<String>) -> Result<(Arc<ServerConfig>, String), PkiError> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = CertificateParams::new(sans)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, MAINTENANCE_NAME);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    lasts(&mut params, SERVER_LIFETIME);
    let certificate = params.self_signed(&key)?;
    let hash = ring::digest::digest(&ring::digest::SHA256, &key.subject_public_key_info());
    let identity = Identity { certificate: certificate.der().clone(), pem: String::new(), key };
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], identity.private_key())?;
    Ok((with_http2(config), STANDARD.encode(hash)))
}

impl Identity {
    /// The certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// The key with the label that Talos uses.
    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem().replace("PRIVATE KEY", "ED25519 PRIVATE KEY")
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn with_http2(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

fn lasts(params: &mut CertificateParams, lifetime: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SLACK;
    params.not_after = now + lifetime;
}
