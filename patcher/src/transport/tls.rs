//! TLS of the Talos API: mTLS with the cluster's CA, and the unauthenticated TLS of maintenance mode.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError,
    RootCertStore, SignatureScheme,
};
use x509_parser::parse_x509_certificate;

use crate::talosconfig::Credentials;

/// The SHA-256 of a certificate's SubjectPublicKeyInfo: what `--cert-fingerprint` takes and a node shows on its
/// console, in standard base64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(certificate).ok()?;
        let digest = ::ring::digest::digest(&::ring::digest::SHA256, certificate.public_key().raw);
        digest.as_ref().try_into().ok().map(Self)
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| FingerprintError)?;
        bytes.try_into().map(Self).map_err(|_| FingerprintError)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is the base64 of 32 bytes, as the node shows it on its console")]
pub struct FingerprintError;

/// Why a TLS connection failed: what decides about the advice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsProblem {
    /// The certificate is not from a CA of the talosconfig. A new cluster has a CA of the same name and another key.
    #[error("its certificate is not signed by the CA of the talosconfig")]
    WrongCa,
    /// The certificate is no longer valid, or the clock here is ahead.
    #[error("its certificate has expired")]
    Expired,
    /// The certificate is not valid yet: one of the clocks is wrong.
    #[error("its certificate is not valid yet")]
    NotYetValid,
    /// The certificate is for other names and addresses.
    #[error("its certificate is for {}, not for this name", presented.join(", "))]
    WrongName {
        /// The names that it is for.
        presented: Vec<String>,
    },
    /// None of the accepted fingerprints.
    #[error("its certificate has the fingerprint {presented}, which is not one of the accepted ones")]
    Fingerprint {
        /// What it showed.
        presented: String,
    },
    /// The other side refused our certificate, or wants one.
    #[error("it refused the client certificate ({0})")]
    ClientRefused(&'static str),
    /// Whoever answers does not speak TLS.
    #[error("it does not speak TLS")]
    NotTls,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl TlsProblem {
    /// Finds out from what rustls says.
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(certificate) => Self::of_certificate(certificate),
            Error::AlertReceived(alert) => match client_alert(*alert) {
                Some(text) => Self::ClientRefused(text),
                None => Self::Other(error.to_string()),
            },
            Error::InvalidMessage(_) => Self::NotTls,
            other => Self::Other(other.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::WrongCa,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::NotValidForNameContext { presented, .. } => {
                Self::WrongName { presented: presented.iter().map(|name| plain_name(name)).collect() }
            }
            CertificateError::Other(OtherError(other)) => match other.downcast_ref::<Unaccepted>() {
                Some(Unaccepted(presented)) => Self::Fingerprint { presented: presented.clone() },
                None => Self::Other(other.to_string()),
            },
            other => Self::Other(other.to_string()),
        }
    }
}

/// What a server says about our certificate. With TLS 1.3 it says so after the handshake.
const fn client_alert(alert: AlertDescription) -> Option<&'static str> {
    match alert {
        AlertDescription::AccessDenied => Some("access denied"),
        AlertDescription::BadCertificate => Some("bad certificate"),
        AlertDescription::CertificateExpired => Some("certificate expired"),
        AlertDescription::CertificateRequired => Some("a certificate is required"),
        AlertDescription::CertificateRevoked => Some("certificate revoked"),
        AlertDescription::CertificateUnknown => Some("certificate unknown"),
        AlertDescription::DecryptError => Some("wrong signature"),
        AlertDescription::UnknownCA => Some("unknown CA"),
        AlertDescription::UnsupportedCertificate => Some("unsupported certificate"),
        _ => None,
    }
}

/// rustls writes the names in a form for programmers: `DnsName("a")`, `IpAddress(10.0.0.1)`.
fn plain_name(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"').to_owned()
}

/// The configuration for a cluster: its CA, or those of the system, and the client certificate if there is one.
///
/// # Errors
///
/// When a CA cannot be used, the system has none, or certificate and key do not belong together.
pub fn mutual(credentials: &Credentials) -> Result<Arc<ClientConfig>, TlsProblem> {
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(credentials)?.into(), provider.clone())
        .build()
        .map_err(|error| TlsProblem::Other(error.to_string()))?;
    config(provider, verifier, credentials)
}

/// The configuration for a node in maintenance mode: no client certificate, and either any server certificate or
/// those with one of the fingerprints.
///
/// # Errors
///
/// None in practice: the provider has the protocol versions.
pub fn maintenance(accepted: Vec<Fingerprint>) -> Result<Arc<ClientConfig>, TlsProblem> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(PinnedVerifier { accepted, provider: provider.clone() });
    config(provider, verifier, &Credentials::default())
}

fn config(
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    credentials: &Credentials,
) -> Result<Arc<ClientConfig>, TlsProblem> {
    let other = |error: Error| TlsProblem::Other(error.to_string());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &credentials.client {
        Some(client) => {
            builder.with_client_auth_cert(client.chain.clone(), client.expose_key()).map_err(other)?
        }
        None => builder.with_no_client_auth(),
    };
    // grpc-go refuses a peer that chose no protocol.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// TLS to an HTTPS proxy: roots of the system, HTTP/1.1.
pub(super) fn to_proxy() -> Result<Arc<ClientConfig>, TlsProblem> {
    let mut config = Arc::unwrap_or_clone(mutual(&Credentials::default())?);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(credentials: &Credentials) -> Result<RootCertStore, TlsProblem> {
    let mut roots = RootCertStore::empty();
    if credentials.ca.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(TlsProblem::Other(
                "the system has no CA certificates, and the context has none".into(),
            ));
        }
    }
    for certificate in &credentials.ca {
        roots.add(certificate.clone()).map_err(|error| {
            TlsProblem::Other(format!("a CA certificate of the context is unusable: {error}"))
        })?;
    }
    Ok(roots)
}

/// Accepts certificates by fingerprint, or any when there are no fingerprints. Signatures are verified either way:
/// a fingerprint proves nothing without the key behind it.
#[derive(Debug)]
struct PinnedVerifier {
    accepted: Vec<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

/// The fingerprint of a certificate that is not accepted.
#[derive(Debug, thiserror::Error)]
#[error("fingerprint {0} is not accepted")]
struct Unaccepted(String);

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.accepted.is_empty() {
            return Ok(ServerCertVerified::assertion());
        }
        let Some(presented) = Fingerprint::of(end_entity) else {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        };
        if self.accepted.contains(&presented) {
            return Ok(ServerCertVerified::assertion());
        }
        let refusal = OtherError(Arc::new(Unaccepted(presented.to_string())));
        Err(Error::InvalidCertificate(CertificateError::Other(refusal)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
