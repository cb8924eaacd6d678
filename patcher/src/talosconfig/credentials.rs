//! Certificates and keys of a context: base64 of PEM.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// What proves both ends to each other.
#[derive(Debug, Default)]
pub struct Credentials {
    /// All CAs of the file: there are several while the CA is being rotated. Empty: those of the system.
    pub ca: Vec<CertificateDer<'static>>,
    /// The client certificate. None for proxies that authenticate otherwise.
    pub client: Option<ClientIdentity>,
}

/// A client certificate with its key.
pub struct ClientIdentity {
    /// The certificate, followed by intermediates if there are any.
    pub chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ClientIdentity {
    /// The private key, for the TLS configuration only.
    pub fn expose_key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

/// Which key is wrong, and how.
pub(crate) type Problem = (&'static str, &'static str);

impl Credentials {
    /// Reads what a config says: base64 of PEM.
    pub(crate) fn decode(ca: Option<&str>, crt: Option<&str>, key: Option<&str>) -> Result<Self, Problem> {
        let ca = ca.map(|text| certificates("ca", text)).transpose()?.unwrap_or_default();
        let client = match (crt, key) {
            (None, None) => None,
            (Some(_), None) => return Err(("crt", "needs the key beside it")),
            (None, Some(_)) => return Err(("key", "needs the crt beside it")),
            (Some(crt), Some(key)) => {
                Some(ClientIdentity { chain: certificates("crt", crt)?, key: private_key(key)? })
            }
        };
        Ok(Self { ca, client })
    }
}

fn certificates(key: &'static str, text: &str) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let pem = decode(key, text)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err((key, "holds no certificate")),
        Ok(certificates) => Ok(certificates),
        Err(_) => Err((key, "is not valid PEM")),
    }
}

/// Talos labels PKCS #8 keys `ED25519 PRIVATE KEY`, which nobody else knows.
fn private_key(text: &str) -> Result<PrivateKeyDer<'static>, Problem> {
    let pem = decode("key", text)?;
    let pem = Zeroizing::new(String::from_utf8_lossy(&pem).replace("ED25519 PRIVATE KEY", "PRIVATE KEY"));
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| ("key", "holds no private key in PEM"))
}

fn decode(key: &'static str, text: &str) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let compact = Zeroizing::new(text.replace(['\n', '\r'], ""));
    STANDARD.decode(compact.as_bytes()).map(Zeroizing::new).map_err(|_| (key, "is not valid base64"))
}
