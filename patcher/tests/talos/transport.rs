//! Connections: who is trusted, which endpoint is taken, and what is said when it fails.

use std::sync::Arc;
use std::time::Duration;

use ichorctl::api::{ApiError, Cause, TalosClient};
use ichorctl::talosconfig::{Environment, ProxySetting, TalosConfig};
use ichorctl::transport::{
    ConnectError, Dialer, Endpoint, Pool, ProxyRules, Route, TlsProblem, maintenance, mutual,
};
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tonic::Status;

use crate::apid::Apid;
use crate::node::{Node, Script};
use crate::pki::{self, Pki};
use crate::server::Server;

/// Long enough for a loaded machine, short enough to wait for.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_call_goes_to_the_node_that_it_names_and_says_so_once() {
    let pki = Pki::new();
    let node = Node::new(Script::default());
    let server = Server::start(pki.apid(&pki.server(&["127.0.0.1"])), node.clone()).await;
    let client = client(&pki, &[server.endpoint()]).with_cluster("home").unwrap();
    let version = client.node("10.0.0.9").unwrap().version().await.unwrap();
    assert_eq!(version.version.unwrap().tag, "v1.13.9");

    let seen = node.seen().remove(0).headers;
    assert_eq!(seen["node"], "10.0.0.9");
    assert_eq!(seen["runtime"], "Talos");
    assert_eq!(seen["context"], "home");
    assert!(seen.contains_key("grpc-timeout"));
    assert!(!seen.contains_key("nodes") && !seen.contains_key("grpc-encoding"));
}

#[tokio::test]
async fn basic_credentials_are_sent_and_not_shown() {
    let pki = Pki::new();
    let node = Node::new(Script::default());
    let server = Server::start(pki.apid(&pki.server(&["127.0.0.1"])), node.clone()).await;
    let config = "context: a\ncontexts: {a: {auth: {basic: {username: alice, password: hunter2}}}}";
    let auth = TalosConfig::parse(config).unwrap().context(None).unwrap().basic_auth.unwrap();
    let client = client(&pki, &[server.endpoint()]).with_basic_auth(&auth).unwrap();
    assert!(!format!("{client:?}").contains("YWxpY2U6"));
    client.node("n").unwrap().version().await.unwrap();
    assert_eq!(node.seen()[0].headers["authorization"], "Basic YWxpY2U6aHVudGVyMg==");
}

#[tokio::test]
async fn an_ip_address_and_a_name_are_both_checked_against_the_certificate() {
    let pki = Pki::new();
    let server = Server::start(pki.apid(&pki.server(&["localhost"])), Node::new(Script::default())).await;
    let by_name = client(&pki, &[format!("localhost:{}", server.port())]);
    by_name.node("n").unwrap().version().await.unwrap();
    let error = version_error(&client(&pki, &[server.endpoint()])).await;
    assert_eq!(tls_problem(&error), TlsProblem::WrongName { presented: vec!["localhost".into()] });
}

#[tokio::test]
async fn a_cluster_that_was_made_anew_is_not_trusted() {
    let (old, new) = (Pki::new(), Pki::new());
    let server = Server::start(new.apid(&new.server(&["127.0.0.1"])), Node::new(Script::default())).await;
    let error = version_error(&client(&old, &[server.endpoint()])).await;
    assert_eq!(tls_problem(&error), TlsProblem::WrongCa);
    assert!(error.cause.advice().unwrap().contains("of another cluster"));
    assert!(error.cause.was_not_sent());
}

#[tokio::test]
async fn each_of_several_authorities_is_trusted() {
    use base64::Engine as _;
    let (old, new) = (Pki::new(), Pki::new());
    let server = Server::start(new.apid(&new.server(&["127.0.0.1"])), Node::new(Script::default())).await;
    let both = [old.ca_pem(), new.ca_pem()].concat();
    let text = new.talosconfig(&[server.endpoint()], &[]);
    let only_new = base64::engine::general_purpose::STANDARD.encode(new.ca_pem());
    let text = text.replace(&only_new, &base64::engine::general_purpose::STANDARD.encode(both));
    client_of(&text, &[server.endpoint()]).node("n").unwrap().version().await.unwrap();
}

#[tokio::test]
async fn clocks_that_differ_are_told_from_strangers() {
    let pki = Pki::new();
    for (begin, problem) in [(-48, TlsProblem::Expired), (48, TlsProblem::NotYetValid)] {
        let identity =
            pki.server_from(&["127.0.0.1"], OffsetDateTime::now_utc() + time::Duration::hours(begin));
        let server = Server::start(pki.apid(&identity), Node::new(Script::default())).await;
        let error = version_error(&client(&pki, &[server.endpoint()])).await;
        assert_eq!(tls_problem(&error), problem);
        assert!(error.cause.advice().unwrap().contains("clocks"));
    }
}

#[tokio::test]
async fn a_client_certificate_that_is_refused_is_said_to_be() {
    let (pki, other) = (Pki::new(), Pki::new());
    let server = Server::start(pki.apid(&pki.server(&["127.0.0.1"])), Node::new(Script::default())).await;
    let expired = pki.client_from("os:admin", OffsetDateTime::now_utc() - time::Duration::days(3));
    let foreign = other.client_from("os:admin", OffsetDateTime::now_utc() - time::Duration::hours(1));
    for (client, expected) in [(&expired, "certificate expired"), (&foreign, "wrong signature")] {
        let text = pki.talosconfig_for(client, &[server.endpoint()], &[]);
        let error = version_error(&client_of(&text, &[server.endpoint()])).await;
        assert_eq!(tls_problem(&error), TlsProblem::ClientRefused(expected));
    }
}

#[tokio::test]
async fn something_else_on_the_port_is_recognized() {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read_u8().await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = version_error(&client(&pki, &[endpoint])).await;
    assert_eq!(tls_problem(&error), TlsProblem::NotTls);
}

#[tokio::test]
async fn a_refused_endpoint_is_skipped_and_named_when_all_fail() {
    let pki = Pki::new();
    let node = Node::new(Script::default());
    let server = Server::start(pki.apid(&pki.server(&["127.0.0.1"])), node.clone()).await;
    let dead = free_address().await;
    let client_with_one = client(&pki, &[dead.clone(), server.endpoint()]);
    for _ in 0..4 {
        client_with_one.node("n").unwrap().version().await.unwrap();
    }
    assert_eq!(node.seen().len(), 4);

    let error = version_error(&client(&pki, &[dead.clone(), free_address().await])).await;
    let Cause::Unreachable(unreachable) = &error.cause else { panic!("{error:?}") };
    assert_eq!(unreachable.attempts.len(), 2);
    assert!(matches!(*unreachable.attempts[0].1, ConnectError::Tcp { .. }));
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(text.contains(&dead) && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn a_silent_endpoint_costs_its_own_timeout_once_for_all_who_wait() {
    let pki = Pki::new();
    let node = Node::new(Script::default());
    let server = Server::start(pki.apid(&pki.server(&["127.0.0.1"])), node.clone()).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = connections.clone();
    let endpoint = silent.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(silent.accept().await.unwrap());
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    });
    let pool = pool(&pki, &[endpoint, server.endpoint()], Duration::from_millis(200));
    let client = TalosClient::new(Arc::new(pool));
    let calls = (0..50).map(|number| {
        let node = client.node(&format!("10.0.0.{number}")).unwrap();
        async move { node.version().await.map(drop) }
    });
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(node.seen().len(), 50);
    assert_eq!(connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_node_that_comes_back_is_connected_again() {
    let pki = Pki::new();
    let identity = pki.server(&["127.0.0.1"]);
    let server = Server::start(pki.apid(&identity), Node::new(Script::default())).await;
    let address = server.endpoint();
    let client = client(&pki, std::slice::from_ref(&address));
    let node = client.node("n").unwrap();
    node.version().await.unwrap();
    server.stop().await;

    let error = node.version().await.unwrap_err();
    assert!(error.cause.is_transient(), "{error:?}");

    let listener = TcpListener::bind(&address).await.unwrap();
    let _server = Server::start_on(listener, pki.apid(&identity), Apid::of_one(Node::new(Script::default())));
    node.version().await.unwrap();
}

#[tokio::test]
async fn a_call_that_has_left_is_never_sent_twice() {
    let pki = Pki::new();
    let slow = Node::new(Script { delay: PATIENCE, ..Script::default() });
    let other = Node::new(Script::default());
    let identity = pki.server(&["127.0.0.1"]);
    let first = Server::start(pki.apid(&identity), slow.clone()).await;
    let second = Server::start(pki.apid(&identity), other.clone()).await;
    let client = client(&pki, &[first.endpoint(), second.endpoint()]);
    let node = client.node("n").unwrap();
    let call = tokio::spawn(async move { node.version().await });
    while slow.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    first.stop().await;
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error.cause, Cause::Lost(_)), "{error:?}");
    assert!(error.cause.is_transient() && !error.cause.was_not_sent());
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let pki = Pki::new();
    let node = Node::new(Script { delay: PATIENCE, ..Script::default() });
    let server = Server::start(pki.apid(&pki.server(&["127.0.0.1"])), node).await;
    let client = client(&pki, &[server.endpoint()]);
    let deadline = Duration::from_millis(100);
    let error = client.node("n").unwrap().with_deadline(deadline).version().await.unwrap_err();
    assert!(matches!(error.cause, Cause::Deadline(after) if after == deadline), "{error:?}");
}

#[tokio::test]
async fn an_endpoint_to_avoid_is_taken_only_when_there_is_no_other() {
    let pki = Pki::new();
    let (near, far) = (Node::new(Script::default()), Node::new(Script::default()));
    let near_server = Server::start(pki.apid(&pki.server(&["localhost"])), near.clone()).await;
    let far_server = Server::start(pki.apid(&pki.server(&["127.0.0.1"])), far.clone()).await;
    let endpoints = [format!("localhost:{}", near_server.port()), far_server.endpoint()];
    let client = client(&pki, &endpoints);
    let node = client.node("n").unwrap().avoiding(&["localhost".into()]);
    for _ in 0..3 {
        node.version().await.unwrap();
    }
    assert_eq!((near.seen().len(), far.seen().len()), (0, 3));
    far_server.stop().await;
    // The first may find out the hard way that its connection is gone.
    let _ = node.version().await;
    node.version().await.unwrap();
    assert!(!near.seen().is_empty());
}

#[tokio::test]
async fn statuses_of_a_node_become_causes_with_their_text() {
    let pki = Pki::new();
    let node = Node::new(Script::default());
    let server = Server::start(pki.apid(&pki.server(&["127.0.0.1"])), node.clone()).await;
    let client = client(&pki, &[server.endpoint()]);
    for (status, text) in [
        (Status::unavailable("dial tcp 10.0.0.9:50000: i/o timeout"), "the node is not available: dial tcp"),
        (Status::permission_denied("no request forwarding"), "the endpoint does not forward calls"),
        (Status::permission_denied("not authorized"), "permission denied: not authorized"),
        (Status::unimplemented("unknown method"), "the node does not support this call: unknown method"),
        (
            Status::unknown("service \"apid\" doesn't support restart operation via API"),
            "service \"apid\" doesn't",
        ),
    ] {
        node.script.lock().unwrap().failure = Some(status);
        let error = anyhow::Error::from(version_error(&client).await);
        let text = format!("Version on 10.0.0.9 failed: {text}");
        assert!(format!("{error:#}").starts_with(&text), "{error:#}");
    }
}

#[tokio::test]
async fn an_empty_reply_is_an_error() {
    let pki = Pki::new();
    let node = Node::new(Script { empty: true, ..Script::default() });
    let server = Server::start(pki.apid(&pki.server(&["127.0.0.1"])), node).await;
    let error = version_error(&client(&pki, &[server.endpoint()])).await;
    assert!(matches!(error.cause, Cause::Incomplete(_)), "{error:?}");
}

#[tokio::test]
async fn a_node_in_maintenance_mode_is_dialled_itself_and_can_be_pinned() {
    let pki = Pki::new();
    let identity = pki.server(&["maintenance-service.talos.dev"]);
    let node = Node::new(Script::default());
    let server = Server::start(pki::maintenance(&identity), node.clone()).await;

    direct(&[]).node(&server.endpoint()).unwrap().version().await.unwrap();
    assert!(!node.seen()[0].headers.contains_key("node"));

    let other = pki.server(&["x"]).fingerprint();
    let pinned = direct(&[other.clone(), identity.fingerprint()]);
    pinned.node(&server.endpoint()).unwrap().version().await.unwrap();

    let error = direct(&[other]).node(&server.endpoint()).unwrap().version().await.unwrap_err();
    assert_eq!(tls_problem(&error), TlsProblem::Fingerprint { presented: identity.fingerprint() });
}

#[tokio::test]
async fn a_proxy_is_asked_for_a_tunnel_with_its_credentials() {
    let pki = Pki::new();
    let server = Server::start(pki.apid(&pki.server(&["127.0.0.1"])), Node::new(Script::default())).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://alice:hunter2@{}", listener.local_addr().unwrap());
    let asked = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut header = String::new();
        while !header.ends_with("\r\n\r\n") {
            stream.read_line(&mut header).await.unwrap();
        }
        let target = header.split(' ').nth(1).unwrap().to_owned();
        let mut onward = TcpStream::connect(target).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n").await.unwrap();
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut onward).await });
        header
    });
    let rules = ProxyRules::new(Some(&ProxySetting::Url(proxy)), &Environment::default()).unwrap();
    let client = TalosClient::new(Arc::new(pool_with(&pki, &[server.endpoint()], Route::Network(rules))));
    client.node("n").unwrap().version().await.unwrap();
    let header = asked.await.unwrap();
    assert!(header.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", server.endpoint())), "{header}");
    assert!(header.contains("\r\nProxy-Authorization: Basic YWxpY2U6aHVudGVyMg==\r\n"), "{header}");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_without_its_password() {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://alice:hunter2@{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read_u8().await;
        let _ = stream.write_all(b"HTTP/1.1 407 Proxy \x1b[2J Authentication\r\n\r\n").await;
    });
    let rules = ProxyRules::new(Some(&ProxySetting::Url(proxy)), &Environment::default()).unwrap();
    let client = TalosClient::new(Arc::new(pool_with(&pki, &["10.0.0.1".into()], Route::Network(rules))));
    let text = format!("{:#}", anyhow::Error::from(version_error(&client).await));
    assert!(text.contains("refused: HTTP/1.1 407 Proxy \\u{1b}[2J"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn nodes_are_bare_names() {
    let pki = Pki::new();
    let client = client(&pki, &["10.0.0.1".into()]);
    for name in ["10.0.0.2:50000", "https://x", "", "a b", "[::1]", "-x"] {
        assert!(client.node(name).is_err(), "{name:?}");
    }
    for name in ["10.0.0.2", "2001:db8::1", "cp-1", "cp.example.com"] {
        assert!(client.node(name).is_ok(), "{name:?}");
    }
}

#[test]
fn certificate_and_key_must_belong_together() {
    let pki = Pki::new();
    let mut client = pki.client_from("os:admin", OffsetDateTime::now_utc());
    client.key = pki.server(&[]).key;
    let text = pki.talosconfig_for(&client, &[], &[]);
    let context = TalosConfig::parse(&text).unwrap().context(None).unwrap();
    assert!(mutual(&context.credentials).is_err());
}

fn client(pki: &Pki, endpoints: &[String]) -> TalosClient {
    client_of(&pki.talosconfig(endpoints, &[]), endpoints)
}

fn client_of(talosconfig: &str, endpoints: &[String]) -> TalosClient {
    let context = TalosConfig::parse(talosconfig).unwrap().context(None).unwrap();
    let route = Route::Network(ProxyRules::default());
    let dialer = Dialer { route, tls: mutual(&context.credentials).unwrap(), timeout: PATIENCE };
    TalosClient::new(Arc::new(Pool::new(dialer, parse(endpoints), 0)))
}

fn pool(pki: &Pki, endpoints: &[String], timeout: Duration) -> Pool {
    let mut dialer = dialer(pki, Route::Network(ProxyRules::default()));
    dialer.timeout = timeout;
    Pool::new(dialer, parse(endpoints), 0)
}

fn pool_with(pki: &Pki, endpoints: &[String], route: Route) -> Pool {
    Pool::new(dialer(pki, route), parse(endpoints), 0)
}

fn dialer(pki: &Pki, route: Route) -> Dialer {
    let context = TalosConfig::parse(&pki.talosconfig(&[], &[])).unwrap().context(None).unwrap();
    Dialer { route, tls: mutual(&context.credentials).unwrap(), timeout: PATIENCE }
}

fn direct(fingerprints: &[String]) -> TalosClient {
    let accepted = fingerprints.iter().map(|text| text.parse().unwrap()).collect();
    let route = Route::Network(ProxyRules::default());
    TalosClient::direct(Dialer { route, tls: maintenance(accepted).unwrap(), timeout: PATIENCE })
}

fn parse(endpoints: &[String]) -> Vec<Endpoint> {
    endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect()
}

async fn version_error(client: &TalosClient) -> ApiError {
    client.node("10.0.0.9").unwrap().version().await.unwrap_err()
}

fn tls_problem(error: &ApiError) -> TlsProblem {
    match &error.cause {
        Cause::Unreachable(unreachable) => {
            unreachable.tls_problem().cloned().unwrap_or_else(|| panic!("{error:?}"))
        }
        _ => panic!("{error:?}"),
    }
}

/// An address on which nothing listens.
async fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}
