//! An owner's operation, handed to any member over its UDP port: no daemon, no Talos API.
//!
//! Members answer only what is news to them, and only owners. Silence may mean that nobody is there, that the key is no
//! owner's, or that the answer was lost.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ichor_mesh::crypto::RealCrypto;
use ichor_mesh::hello::{Acted, Ask, Expected, Hello, REQUEST_LEN, Taken};
use ichor_mesh::roster::Item;
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng as _;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::folder::Mesh;
use super::mint;

/// Waits for an answer, one after the other.
const WAITS: [Duration; 4] = [
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
    Duration::from_millis(3200),
];

/// Why it is not known whether a member took an operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ActError {
    /// There is no randomness.
    #[error(transparent)]
    NoRandomness(#[from] mint::NoRandomness),
    /// The operation does not fit.
    #[error("operation does not fit into one datagram")]
    TooLong,
    /// The network cannot be used at all.
    #[error("open a UDP socket")]
    Socket(#[source] std::io::Error),
    /// Nobody answered.
    #[error("no member answered at {}", list(.0))]
    Silence(Vec<SocketAddr>),
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Hands `item`, which an owner of `mesh` has signed, to the members at `to`; who answered first, and what it said.
///
/// # Errors
///
/// [`ActError`].
pub async fn act(
    mesh: &Mesh,
    item: &Item,
    to: &[SocketAddr],
) -> Result<(SocketAddr, Option<Acted>), ActError> {
    let (network, hello_key) = (mesh.network(), mesh.hello);
    let mut rng = ChaCha12Rng::from_seed(*mint::secret()?.expose());
    let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.map_err(ActError::Socket)?;
    // A host without IPv6 reaches members over IPv4.
    let v6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await.ok();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut sequence = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let mut expected: Vec<Expected> = Vec::new();
    for wait in WAITS {
        sequence = sequence.saturating_add(1);
        let hello = Hello {
            signer: mint::owner_key(&mesh.owner).0,
            sequence,
            ask: Ask::Act,
            content: item.to_bytes().to_vec(),
            target: None,
        };
        let sealed = hello.seal(&mesh.owner, &hello_key, &network, &RealCrypto, &mut rng);
        let (datagram, answer) = sealed.ok_or(ActError::TooLong)?;
        expected.push(answer);
        for address in to {
            let socket = if address.is_ipv4() { Some(&v4) } else { v6.as_ref() };
            if let Some(socket) = socket {
                // One that cannot be reached does not keep us from the others.
                let _ = socket.send_to(&datagram, address).await;
            }
        }
        let end = Instant::now() + wait;
        while let Ok((bytes, from)) = timeout_at(end, receive(&v4, v6.as_ref())).await {
            let opened = expected.iter().find_map(|answer| answer.open(&bytes, &RealCrypto));
            if let Some(taken) = opened.and_then(|payload| Taken::decode(&payload)) {
                return Ok((canonical(from), taken.acted));
            }
        }
    }
    Err(ActError::Silence(to.to_vec()))
}

async fn receive(v4: &UdpSocket, v6: Option<&UdpSocket>) -> (Vec<u8>, SocketAddr) {
    let mut first = vec![0; REQUEST_LEN + 1];
    let mut second = vec![0; REQUEST_LEN + 1];
    loop {
        let other = async {
            match v6 {
                Some(v6) => v6.recv_from(&mut second).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // An error is that of one address: what others send still comes.
            received = v4.recv_from(&mut first) => if let Ok((len, from)) = received {
                first.truncate(len);
                return (first, from);
            },
            received = other => if let Ok((len, from)) = received {
                second.truncate(len);
                return (second, from);
            },
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}
