//! A cluster's certificates, made as Talos makes them: an Ed25519 CA named `talos`, whatever the cluster.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, PKCS_ED25519, PublicKeyData as _};
use time::{Duration, OffsetDateTime};
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto::ring};

/// One CA.
pub(crate) struct Pki {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate and its key.
pub(crate) struct Identity {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::OrganizationName, "talos");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// A server certificate that is valid from `begin` for a day.
    pub(crate) fn server_from(&self, names: &[&str], begin: OffsetDateTime) -> Identity {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, begin)
    }

    pub(crate) fn server(&self, names: &[&str]) -> Identity {
        self.server_from(names, OffsetDateTime::now_utc() - Duration::hours(1))
    }

    /// A client certificate with one role, valid from `begin` for a day.
    pub(crate) fn client_from(&self, role: &str, begin: OffsetDateTime) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, role);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, begin)
    }

    fn sign(&self, mut params: CertificateParams, begin: OffsetDateTime) -> Identity {
        params.not_before = begin;
        params.not_after = begin + Duration::days(1);
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { certificate, key }
    }

    pub(crate) fn ca_pem(&self) -> String {
        self.certificate.pem()
    }

    /// A talosconfig with one context, `test`.
    pub(crate) fn talosconfig(&self, endpoints: &[String], nodes: &[&str]) -> String {
        let client = self.client_from("os:admin", OffsetDateTime::now_utc() - Duration::hours(1));
        self.talosconfig_for(&client, endpoints, nodes)
    }

    pub(crate) fn talosconfig_for(&self, client: &Identity, endpoints: &[String], nodes: &[&str]) -> String {
        let key = client.key.serialize_pem().replace("PRIVATE KEY", "ED25519 PRIVATE KEY");
        format!(
            "context: test\ncontexts:\n  test:\n    endpoints: {endpoints:?}\n    nodes: {nodes:?}\n    \
             ca: {}\n    crt: {}\n    key: {}\n",
            STANDARD.encode(self.certificate.pem()),
            STANDARD.encode(client.certificate.pem()),
            STANDARD.encode(key),
        )
    }

    /// apid of a running node: a client certificate of this CA is required.
    pub(crate) fn apid(&self, identity: &Identity) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        finish(builder.with_client_cert_verifier(verifier), identity)
    }
}

/// apid in maintenance mode: nobody is asked who they are.
pub(crate) fn maintenance(identity: &Identity) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    finish(builder.with_no_client_auth(), identity)
}

impl Identity {
    /// What `--cert-fingerprint` takes.
    pub(crate) fn fingerprint(&self) -> String {
        STANDARD.encode(::ring::digest::digest(&::ring::digest::SHA256, &self.key.subject_public_key_info()))
    }
}

fn finish(
    builder: tokio_rustls::rustls::ConfigBuilder<ServerConfig, tokio_rustls::rustls::server::WantsServerCert>,
    identity: &Identity,
) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.serialize_der()));
    let mut config = builder.with_single_cert(vec![identity.certificate.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}
