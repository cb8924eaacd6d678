//! Our description of the Talos API against the official one (`tests/oracle/server`): descriptors, every message, and
//! every call in both directions, through mutual TLS with certificates and a talosconfig of the official making.
#![expect(clippy::unwrap_used, reason = "tests")]

mod api;
mod calls;
mod filler;
mod official;
mod rollout;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ichor_proto::talos::cosi::resource::EventType;
use ichorctl::api::{ConfigId, ListFilter, NodeClient, TalosClient, WatchFilter};
use ichorctl::talosconfig::TalosConfig;
use ichorctl::transport::{Dialer, Pool, ProxyRules, Route, mutual};
use prost::Message as _;
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use api::{API, cover, decode, fields};
use calls::{Caller, Echo, Exchange, call_all, serve_all};
use filler::Filler;
use official::{Answer, Call, Question, base64, official};

/// Each call is made so often, with other messages each time; half of the messages have all fields.
const ROUNDS: u64 = 6;

/// Messages of each type, in each direction.
const MESSAGES: u64 = 40;

/// What our files say otherwise than the API of the newest line, and why that is right.
const DIFFERENCES: &[&str] = &[];

#[test]
fn our_descriptors_are_the_official_ones() {
    let Some(mut official) = official() else { return };
    let descriptors = base64(&API.encoded);
    let answer = official.ask(&Question { op: "compare", descriptors, ..Question::default() });
    assert_eq!(answer.problems, DIFFERENCES);
}

#[test]
fn every_message_survives_the_way_there_and_back() {
    let Some(mut official) = official() else { return };
    let mut filler = Filler::new(0x1c40);
    let (mut ours, mut theirs, mut all) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for descriptor in API.messages() {
        let name = descriptor.full_name().to_owned();
        all.extend(fields(&descriptor));
        for seed in 0..MESSAGES {
            let message = filler.message(descriptor.clone(), seed % 2 == 0);
            let data = base64(&message.encode_to_vec());
            let back = official.ask(&Question { op: "decode", r#type: &name, data, ..Question::default() });
            assert_eq!(back.unknown, 0, "{message:?}");
            assert_eq!(
                decode(descriptor.clone(), &back.data),
                decode(descriptor.clone(), &message.encode_to_vec())
            );
            cover(&message, &mut ours);

            let made = official.ask(&Question { op: "random", r#type: &name, seed, ..Question::default() });
            let message = decode(descriptor.clone(), &made.data);
            cover(&message, &mut theirs);
        }
    }
    let missing: Vec<_> = all.difference(&ours).chain(all.difference(&theirs)).collect();
    assert!(missing.is_empty() && all.len() > 500, "{} fields, never sent: {missing:?}", all.len());
}

#[test]
fn our_clients_are_understood_by_official_servers() {
    let Some(mut official) = official() else { return };
    let runtime = runtime();
    let access = official.access.clone();
    let mut exercised = BTreeSet::new();
    let link = runtime.block_on(async {
        let pool = pool(&access, &access.echo);
        pool.connect(&mut pool.search(), &[]).await.unwrap()
    });
    for seed in 0..ROUNDS {
        let mut check = |exchange: Exchange| {
            let calls = official.ask(&Question { op: "calls", ..Question::default() }).calls;
            assert_eq!((calls.len(), &*calls[0].node), (1, "10.0.0.2"), "{}", exchange.path);
            compare(&exchange, &calls[0]);
            exercised.insert(calls[0].method.clone());
        };
        let mut caller =
            Caller { channel: link.channel(), filler: Filler::new(seed), seed, check: &mut check };
        runtime.block_on(call_all(&mut caller));
    }
    assert_eq!(exercised, API.methods(), "every call of proto/ is in the list");
}

#[test]
fn official_clients_are_understood_by_our_servers() {
    let Some(mut official) = official() else { return };
    let runtime = runtime();
    let echo = Echo::new(0x1c41);
    let address = runtime.block_on(serve(&official.access, &echo));
    for method in API.methods() {
        for seed in 0..ROUNDS {
            let question =
                Question { op: "call", address: &address, method: &method, seed, ..Question::default() };
            let calls = official.ask(&question).calls;
            let seen = echo.take();
            assert_eq!((calls.len(), seen.len()), (1, 1), "{method}");
            assert_eq!(seen[0].path, method);
            compare(&seen[0], &calls[0]);
        }
    }
}

#[test]
fn resources_of_the_official_state_are_read_and_watched() {
    let Some(mut official) = official() else { return };
    let runtime = runtime();
    let text = "# a comment that must arrive\nversion: v1alpha1\nmachine:\n    type: worker\ncluster: null\n";
    let changed = text.replace("worker", "controlplane");
    for id in ["v1alpha1", "persistent"] {
        official.ask(&Question { op: "put", id, text, ..Question::default() });
    }
    let node = node(&official.access, &official.access.state);
    let kind = "MachineConfigs.config.talos.dev";

    let active = runtime.block_on(node.machine_config(ConfigId::Active)).unwrap();
    assert_eq!(active.machine_config().unwrap().as_str(), text);
    assert_eq!((active.metadata.id.as_str(), active.metadata.version.as_str()), ("v1alpha1", "1"));
    let listed = runtime.block_on(node.list("config", kind, ListFilter::default())).unwrap();
    assert_eq!(listed.len(), 2);
    let matching = ListFilter { id: Some("^pers".into()), ..ListFilter::default() };
    assert_eq!(runtime.block_on(node.list("config", kind, matching)).unwrap().len(), 1);
    assert!(runtime.block_on(node.find("config", kind, "nothing")).unwrap().is_none());

    let filter = WatchFilter { bootstrap: true, ..WatchFilter::default() };
    let mut watch = runtime.block_on(node.watch("config", kind, filter)).unwrap();
    let mut next = |count: usize| {
        let mut seen = Vec::new();
        while seen.len() < count {
            let events = runtime.block_on(watch.next()).unwrap().unwrap();
            seen.extend(events.into_iter().map(|event| {
                let version = event.resource.map(|resource| resource.metadata.version);
                (event.kind, version.filter(|version| !version.is_empty()))
            }));
        }
        seen
    };
    let version = |version: &str| Some(version.to_owned());
    let first = [(EventType::Created, version("1")), (EventType::Created, version("1"))];
    let seen = next(3);
    assert_eq!((&seen[..2], seen[2].0), (&first[..], EventType::Bootstrapped));
    official.ask(&Question { op: "put", id: "v1alpha1", text: &changed, ..Question::default() });
    assert_eq!(next(1), [(EventType::Updated, version("2"))]);
    official.ask(&Question { op: "destroy", id: "persistent", ..Question::default() });
    assert_eq!(next(1)[0].0, EventType::Destroyed);
}

/// What both sides of a call saw must be the same, and known to both.
fn compare(ours: &Exchange, theirs: &Call) {
    let method = API.method_at(&ours.path);
    assert_eq!((&ours.path, theirs.unknown), (&theirs.method, 0));
    for (kind, ours, theirs) in [
        (method.input(), &ours.requests, &theirs.requests),
        (method.output(), &ours.replies, &theirs.replies),
    ] {
        assert_eq!(ours.len(), theirs.len(), "{} of {}", kind.full_name(), method.full_name());
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert_eq!(decode(kind.clone(), ours), decode(kind.clone(), theirs), "{}", method.full_name());
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A connection as `ichorctl` makes it, with the official talosconfig.
fn pool(access: &Answer, endpoint: &str) -> Pool {
    let context = TalosConfig::parse(&access.talosconfig).unwrap().context(None).unwrap();
    let tls = mutual(&context.credentials).unwrap();
    let dialer =
        Dialer { route: Route::Network(ProxyRules::default()), tls, timeout: Duration::from_secs(30) };
    Pool::new(dialer, vec![endpoint.parse().unwrap()], 0)
}

fn node(access: &Answer, endpoint: &str) -> NodeClient {
    TalosClient::new(Arc::new(pool(access, endpoint))).node("127.0.0.1").unwrap()
}

/// Starts our servers with the official certificates, and asks for a client certificate as apid does.
async fn serve(access: &Answer, echo: &Echo) -> String {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(access)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (ready, incoming) = mpsc::channel(4);
    tokio::spawn(serve_all(Server::builder(), echo).serve_with_incoming(ReceiverStream::new(incoming)));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let (mut inside, outside) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move { copy_bidirectional(&mut stream, &mut inside).await });
            ready.send(Ok::<_, std::io::Error>(outside)).await.unwrap();
        }
    });
    address
}

fn server_config(access: &Answer) -> ServerConfig {
    // The label that Talos gives to its keys is not the usual one.
    let key = access.key.replace("ED25519 PRIVATE KEY", "PRIVATE KEY");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let certificate = CertificateDer::from_pem_slice(access.certificate.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(access.ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config =
        builder.with_client_cert_verifier(verifier).with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}
