use std::fs;

use super::*;

const TWO_CONTEXTS: &str = "\
context: home
contexts:
  home:
    endpoints:
    - 10.0.0.2
    - https://cp.example.com
    nodes:
    - 10.0.0.3
    cluster: home-cluster
    proxy-url: direct
    future-key: [1, 2]
  work:
    target: 192.0.2.1
    auth:
      basic:
        username: alice
        password: hunter2
future-top: kept
";

#[test]
fn a_context_is_read_with_its_addresses_and_settings() {
    let config = TalosConfig::parse(TWO_CONTEXTS).unwrap();
    let context = config.context(None).unwrap();
    assert_eq!(context.name, "home");
    assert_eq!(context.endpoints, ["10.0.0.2", "https://cp.example.com"]);
    assert_eq!(context.nodes, ["10.0.0.3"]);
    assert_eq!(context.cluster.as_deref(), Some("home-cluster"));
    assert_eq!(context.proxy, Some(ProxySetting::Direct));
    assert!(context.credentials.ca.is_empty() && context.credentials.client.is_none());
}

#[test]
fn a_legacy_target_is_one_more_endpoint() {
    let config = TalosConfig::parse(TWO_CONTEXTS).unwrap();
    assert_eq!(config.context(Some("work")).unwrap().endpoints, ["192.0.2.1"]);
    let both = "contexts: {a: {endpoints: [x], target: y}, b: {target: ''}}";
    let config = TalosConfig::parse(both).unwrap();
    assert_eq!(config.addresses("a").unwrap().0, ["x", "y"]);
    assert!(config.addresses("b").unwrap().0.is_empty());
}

#[test]
fn passwords_are_neither_shown_nor_lost() {
    let config = TalosConfig::parse(TWO_CONTEXTS).unwrap();
    let context = config.context(Some("work")).unwrap();
    assert!(!format!("{context:?}{config:?}").contains("hunter2"));
    assert_eq!(*context.basic_auth.unwrap().expose_header(), "Basic YWxpY2U6aHVudGVyMg==");
}

#[test]
fn a_missing_context_names_those_that_exist() {
    let config = TalosConfig::parse(TWO_CONTEXTS).unwrap();
    let message = |name| config.context(Some(name)).unwrap_err().to_string();
    assert_eq!(message("wrok"), r#"context "wrok" is not defined (there are home, work)"#);
    let config = TalosConfig::parse("contexts: {a: {}}").unwrap();
    let message = config.context(None).unwrap_err().to_string();
    assert_eq!(message, "talosconfig has no current context (there are a)");
    assert!(matches!(TalosConfig::parse("").unwrap().context(None), Err(TalosConfigError::Empty)));
    assert!(matches!(
        TalosConfig::parse("context: ''\n").unwrap().context(None),
        Err(TalosConfigError::Empty)
    ));
}

#[test]
fn siderov1_is_refused_by_name() {
    let config =
        TalosConfig::parse("context: omni\ncontexts: {omni: {auth: {siderov1: {identity: a@b}}}}").unwrap();
    let error = config.context(None).unwrap_err();
    assert!(matches!(&error, TalosConfigError::SideroV1 { name } if name == "omni"), "{error}");
}

#[test]
fn values_of_the_wrong_kind_are_named_by_key() {
    for (text, key) in [
        ("[]", "a document"),
        ("context: [a]", "context"),
        ("contexts: [a]", "contexts"),
        ("contexts: {a: b}", "contexts.a"),
        ("contexts: {a: {endpoints: x}}", "contexts.a.endpoints"),
        ("contexts: {a: {nodes: [1]}}", "contexts.a.nodes"),
        ("contexts: {a: {ca: {}}}", "contexts.a.ca"),
        ("contexts: {a: {auth: {basic: {password: []}}}}", "contexts.a.auth.basic.password"),
    ] {
        let error = TalosConfig::parse(text).unwrap_err();
        assert!(
            matches!(&error, TalosConfigError::Shape { key: found, .. } if found == key),
            "{text}: {error}"
        );
    }
    assert!(matches!(TalosConfig::parse("{"), Err(TalosConfigError::Syntax { .. })));
    assert!(matches!(TalosConfig::parse("a: 1\na: 2"), Err(TalosConfigError::Syntax { .. })));
}

#[test]
fn talos_keys_are_pkcs8_under_their_own_label() {
    let config = with_credentials("ED25519 PRIVATE KEY", 2);
    let context = config.context(None).unwrap();
    assert_eq!(context.credentials.ca.len(), 2, "all blocks of a rotated CA");
    let client = context.credentials.client.unwrap();
    assert!(matches!(client.expose_key(), tokio_rustls::rustls::pki_types::PrivateKeyDer::Pkcs8(_)));
    assert!(!format!("{client:?}").contains("key"));
    assert!(with_credentials("PRIVATE KEY", 1).context(None).is_ok());
}

#[test]
fn damaged_credentials_are_named() {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let problem = |ca: &str, crt: &str, key: &str| {
        let text = format!("context: a\ncontexts: {{a: {{ca: '{ca}', crt: '{crt}', key: '{key}'}}}}");
        TalosConfig::parse(&text).unwrap().context(None).unwrap_err().to_string()
    };
    assert_eq!(problem("%%", "", ""), r#"context "a" has ca, which is not valid base64"#);
    assert_eq!(problem(&encode("x"), "", ""), r#"context "a" has ca, which holds no certificate"#);
    assert_eq!(problem("", "eA==", ""), r#"context "a" has crt, which needs the key beside it"#);
    assert_eq!(problem("", "", "eA=="), r#"context "a" has key, which needs the crt beside it"#);
    let truncated = "-----BEGIN CERTIFICATE-----\nMIIB";
    assert_eq!(problem(&encode(truncated), "", ""), r#"context "a" has ca, which is not valid PEM"#);
}

#[test]
fn an_explicit_path_must_exist_and_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nothing");
    let error = TalosConfig::open(Some(&path), &Environment::default()).unwrap_err();
    assert!(matches!(error, TalosConfigError::Missing { .. }), "{error}");
    assert!(!path.exists());
}

#[test]
fn the_first_usual_place_that_exists_wins() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("context: {name}\n")).unwrap();
        path
    };
    let mut environment = Environment {
        talosconfig: Some(dir.path().join("absent")),
        talos_home: Some("relative".into()),
        home: Some(dir.path().join("home")),
        service_account: dir.path().join("pod"),
        ..Environment::default()
    };
    let open = |environment: &Environment| TalosConfig::open(None, environment);
    let error = open(&environment).unwrap_err();
    assert!(matches!(&error, TalosConfigError::NotFound { searched } if searched.len() == 3), "{error}");

    let pod = file("pod/config");
    assert_eq!(open(&environment).unwrap().location().unwrap().path, pod);
    assert!(matches!(open(&environment).unwrap().save(), Err(TalosConfigError::ReadOnly { .. })));

    let home = file("home/.talos/config");
    let location = open(&environment).unwrap().location().unwrap().clone();
    assert_eq!((location.path, location.writable), (home, true));
    assert_eq!(location.passed_over, environment.talosconfig, "TALOSCONFIG names a file that is not there");

    let talos_home = file("talos-home/config");
    environment.talos_home = Some(dir.path().join("talos-home"));
    assert_eq!(open(&environment).unwrap().location().unwrap().path, talos_home);

    environment.talosconfig = Some(file("named"));
    let location = open(&environment).unwrap().location().unwrap().clone();
    assert_eq!((Some(location.path), location.passed_over), (environment.talosconfig, None));
}

#[test]
fn a_huge_file_and_binary_garbage_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    let open = || TalosConfig::open(Some(&path), &Environment::default());
    fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    assert!(matches!(open(), Err(TalosConfigError::Read { .. })));
    fs::write(&path, [0u8, 159, 146, 150]).unwrap();
    assert!(matches!(open(), Err(TalosConfigError::Read { .. })));
}

#[test]
fn a_rewrite_keeps_what_it_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    fs::write(&path, TWO_CONTEXTS).unwrap();
    let mut config = TalosConfig::open(Some(&path), &Environment::default()).unwrap();
    config.set_endpoints(None, &["10.0.0.9".to_owned()]).unwrap();
    config.set_nodes(None, &[]).unwrap();
    config.set_proxy(None, "").unwrap();
    config.set_current("work").unwrap();
    config.save().unwrap();
    let expected = "\
context: work
contexts:
  home:
    endpoints:
    - 10.0.0.9
    cluster: home-cluster
    future-key:
    - 1
    - 2
  work:
    auth:
      basic:
        username: alice
        password: hunter2
    endpoints:
    - 192.0.2.1
future-top: kept
";
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
}

#[test]
fn merging_renames_what_is_taken_and_follows_the_current_context() {
    let mut config =
        TalosConfig::parse("context: a\ncontexts: {a: {endpoints: [1.1.1.1]}, a-1: {}}").unwrap();
    let other = TalosConfig::parse("context: a\ncontexts: {a: {endpoints: [2.2.2.2]}, b: {}}").unwrap();
    let renames = config.merge(&other);
    assert_eq!(renames, [Rename { from: "a".into(), to: "a-2".into() }]);
    assert_eq!(config.context_names(), ["a", "a-1", "a-2", "b"]);
    assert_eq!(config.context(None).unwrap().endpoints, ["2.2.2.2"]);
}

#[test]
fn a_first_context_can_be_added_where_there_was_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let environment = Environment { home: Some(dir.path().into()), ..Environment::default() };
    let mut config = TalosConfig::open_or_new(None, &environment).unwrap();
    config.add("new", NewContext { ca: Some(b"pem"), client: None });
    config.set_current("new").unwrap();
    config.save().unwrap();
    let text = fs::read_to_string(dir.path().join(".talos/config")).unwrap();
    assert_eq!(text, "contexts:\n  new:\n    endpoints: []\n    ca: cGVt\ncontext: new\n");
    assert!(config.remove("new") && !config.remove("new"));
}

fn with_credentials(label: &str, authorities: usize) -> TalosConfig {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
    let pem = key.serialize_pem().replace(" PRIVATE KEY", &format!(" {label}")).replace("  ", " ");
    let text = format!(
        "context: a\ncontexts: {{a: {{ca: '{}', crt: '{}', key: '{}'}}}}",
        encode(&certificate.repeat(authorities)),
        encode(&certificate),
        encode(&pem),
    );
    TalosConfig::parse(&text).unwrap()
}
