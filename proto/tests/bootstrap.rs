//! The generated code is what the `.proto` files say.
//!
//! `ICHOR_BLESS=1 cargo test -p ichor-proto --test bootstrap` rewrites it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use tonic_prost_build::Builder;

/// Messages whose `Debug` is written by hand, because the derived one would print secrets.
const REDACTED: &[&str] = &[
    ".common.Data",
    ".common.PEMEncodedCertificateAndKey",
    ".cosi.resource.Spec",
    ".machine.ApplyConfigurationRequest",
    ".machine.GenerateClientConfiguration",
    ".machine.ImageServiceCredentials",
    ".machine.MetaWriteRequest",
    ".resource.config.MachineConfigSpec",
];

/// Packages with services: their server modules are behind the feature `server`.
const SERVED: &[&str] = &["cluster", "cosi.resource", "inspect", "machine", "storage", "time"];

#[test]
fn generated_code_is_current() {
    let committed_dir = root().join("src/gen");
    let fresh = generate().unwrap();
    if env::var_os("ICHOR_BLESS").is_some() {
        bless(&committed_dir, &fresh).unwrap();
    }
    let committed = read_dir(&committed_dir).unwrap();
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&committed), names(&fresh), "files in {}", committed_dir.display());
    for (name, text) in &fresh {
        assert!(
            committed[name] == *text,
            "src/gen/{name} is not what proto/talos says; rewrite it with \
             `ICHOR_BLESS=1 cargo test -p ichor-proto --test bootstrap`"
        );
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// File name to text, of everything that the `.proto` files give.
fn generate() -> io::Result<BTreeMap<String, String>> {
    let include = root().join("talos");
    let mut files = Vec::new();
    collect(&include, &include, &mut files)?;
    files.sort();
    let descriptors = protox::compile(&files, [&include]).map_err(io::Error::other)?;

    let out = tempfile::tempdir()?;
    let mut config = prost_build::Config::new();
    config.skip_debug(REDACTED).bytes([".common.Data"]);
    SERVED
        .iter()
        .fold(tonic_prost_build::configure(), gate_server)
        .enum_attribute(".machine.ApplyConfigurationRequest.Mode", "#[derive(Debug)]")
        .build_transport(false)
        .generate_default_stubs(true)
        .emit_rerun_if_changed(false)
        .out_dir(out.path())
        .compile_fds_with_config(descriptors, config)?;
    read_dir(out.path())
}

fn gate_server(builder: Builder, package: &&str) -> Builder {
    builder.server_mod_attribute(package, "#[cfg(feature = \"server\")]")
}

fn collect(include: &Path, dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(include, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path.strip_prefix(include).map_err(io::Error::other)?.to_owned());
        }
    }
    Ok(())
}

fn read_dir(dir: &Path) -> io::Result<BTreeMap<String, String>> {
    fs::read_dir(dir)?
        .map(|entry| {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, fs::read_to_string(&path)?))
        })
        .collect()
}

fn bless(dir: &Path, fresh: &BTreeMap<String, String>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for stale in read_dir(dir)?.keys().filter(|name| !fresh.contains_key(*name)) {
        fs::remove_file(dir.join(stale))?;
    }
    for (name, text) in fresh {
        fs::write(dir.join(name), text)?;
    }
    Ok(())
}
