//! The extension image: what it is refused for, what the official library and skopeo say to it, and that it is made
//! the same way twice.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use ichor_tests::extension::oracle::{self, LINES, Question};
use ichor_tests::extension::registry::TestRegistry;
use ichor_tests::extension::{BINARY, SPEC, faults, files, program, write};
use ichorctl::extension::{self, MANIFEST, Machine, SERVICE, Tree};
use ichorctl::image::{
    self, Credentials, Descriptor, Image, Inputs, Reference, Registry, write_archive, write_directory,
};
use ichorctl::schematic::{Meta, Overlay, Schematic, canonical, id};
use serde_json::json;

const LOCK: &str = include_str!("../Cargo.lock");

fn build() -> Image {
    let (amd64, arm64) = (program(Machine::Amd64), program(Machine::Arm64));
    image::build(&Inputs {
        binaries: [&amd64, &arm64],
        lock: LOCK,
        manifest: MANIFEST,
        service: SERVICE,
        seconds: 1_700_000_000,
    })
    .unwrap()
}

fn question(tree: &Tree, directory: &Path) -> Question {
    write(tree, directory).unwrap();
    let spec = directory.join(SPEC);
    let specs = if spec.exists() { vec![spec.display().to_string()] } else { Vec::new() };
    Question { directory: directory.display().to_string(), specs, schematic: None }
}

#[test]
fn our_extension_has_no_fault_on_any_machine() {
    for machine in Machine::ALL {
        assert_eq!(extension::check(&files(machine).unwrap(), machine).faults, []);
    }
}

#[test]
fn every_planted_fault_is_refused_with_its_file_and_rule() {
    let planted = faults::all();
    assert!(planted.len() >= 30, "{}", planted.len());
    for fault in planted {
        let mut tree = files(Machine::Amd64).unwrap();
        (fault.plant)(&mut tree).unwrap();
        let found = extension::check(&tree, Machine::Amd64).faults;
        let named = found.iter().any(|it| it.file == fault.file && it.rule == fault.rule);
        assert!(named, "{}: {} at {} expected, found {found:?}", fault.name, fault.rule, fault.file);
    }
}

#[test]
fn the_official_library_refuses_what_the_table_says_and_takes_our_extension() {
    let directory = tempfile::tempdir().unwrap();
    let good = directory.path().join("good");
    std::fs::create_dir(&good).unwrap();
    let mut questions = vec![question(&files(Machine::Amd64).unwrap(), &good)];
    let planted = faults::all();
    for (index, fault) in planted.iter().enumerate() {
        let mut tree = files(Machine::Amd64).unwrap();
        (fault.plant)(&mut tree).unwrap();
        let place = directory.path().join(index.to_string());
        std::fs::create_dir(&place).unwrap();
        questions.push(question(&tree, &place));
    }
    for line in LINES {
        let Some(answers) = oracle::ask(line, &questions).unwrap() else {
            println!("skipped: there is no Go");
            return;
        };
        assert_eq!(answers[0].errors, [""; 0], "Talos {line} refuses our extension");
        for (fault, answer) in planted.iter().zip(&answers[1..]) {
            println!("{line} | {} | {} | {:?}", fault.name, fault.rule, answer.errors);
            assert_eq!(!answer.errors.is_empty(), fault.official, "Talos {line}, {}: {answer:?}", fault.name);
        }
    }
}

#[test]
fn the_image_is_the_same_twice_and_an_inspection_finds_nothing() {
    let tar = |image: &Image| {
        let mut bytes = Vec::new();
        write_archive(image, &mut bytes).unwrap();
        bytes
    };
    let (one, two) = (build(), build());
    assert_eq!(tar(&one), tar(&two));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.tar");
    std::fs::write(&path, tar(&one)).unwrap();
    write_directory(&one, &directory.path().join("layout")).unwrap();
    for path in [path, directory.path().join("layout")] {
        let inspection = image::inspect(&image::open(&path).unwrap()).unwrap();
        assert_eq!(inspection.faults().count(), 0, "{:?}", inspection.faults().collect::<Vec<_>>());
        assert_eq!(inspection.digest, Some(one.descriptor().digest));
        let machines: Vec<Machine> = inspection.platforms.iter().map(|report| report.machine).collect();
        assert_eq!(machines, Machine::ALL);
        for report in &inspection.platforms {
            assert_eq!(report.manifest.as_ref().unwrap().name, "ichor");
            assert_eq!(report.files, 4);
            assert!(report.labels.contains_key("org.opencontainers.image.source"));
        }
    }
}

#[test]
fn a_fault_in_what_goes_in_stops_the_build_and_is_named() {
    let (amd64, arm64) = (program(Machine::Amd64), program(Machine::Arm64));
    let inputs =
        Inputs { binaries: [&amd64, &amd64], lock: LOCK, manifest: MANIFEST, service: SERVICE, seconds: 0 };
    let error = image::build(&inputs).unwrap_err().to_string();
    assert!(error.contains(BINARY) && error.contains("binary: "), "{error}");
    let service = SERVICE.replace("restart: always", "restart: never");
    let error =
        image::build(&Inputs { binaries: [&amd64, &arm64], service: &service, ..inputs }).unwrap_err();
    assert!(error.to_string().contains(&format!("{SPEC}:")), "{error}");
}

#[test]
fn a_damaged_layout_is_refused_and_never_a_panic() {
    let mut bytes = Vec::new();
    write_archive(&build(), &mut bytes).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.tar");
    for at in (0..bytes.len()).step_by(97) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        std::fs::write(&path, damaged).unwrap();
        let Ok(store) = image::open(&path) else { continue };
        if let Ok(inspection) = image::inspect(&store) {
            // What is not hashed is padding, times of the tar, or the name of the version.
            assert!(inspection.platforms.len() <= 2);
        }
    }
}

#[tokio::test]
async fn a_push_to_an_open_and_a_closed_registry_is_read_back_as_it_was() {
    let built = build();
    for is_closed in [false, true] {
        let registry = TestRegistry::start(is_closed).await.unwrap();
        let reference: Reference = format!("{}/you/ichor:0.1.0", registry.address).parse().unwrap();
        let credentials = || {
            is_closed.then(|| Credentials::Basic { user: "me".into(), password: "secret".to_owned().into() })
        };
        let mut client = Registry::new(&reference, credentials(), true).unwrap();
        let digest = client.push(&built.store(), "0.1.0").await.unwrap();
        assert_eq!(digest, built.descriptor().digest);
        let uploads = registry.uploads();
        client.push(&built.store(), "again").await.unwrap();
        assert_eq!(registry.uploads(), uploads, "what is there is not sent again");
        let mut reader = Registry::new(&reference, credentials(), true).unwrap();
        let inspection = image::inspect(&reader.pull(&reference).await.unwrap()).unwrap();
        assert_eq!(inspection.digest, Some(digest));
        assert_eq!(inspection.faults().count(), 0);
        if is_closed {
            let mut stranger = Registry::new(&reference, None, true).unwrap();
            let error = stranger.pull(&reference).await.unwrap_err().to_string();
            assert!(error.contains("401"), "{error}");
        }
    }
}

/// Runs skopeo; none where it is missing and not required.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn skopeo(args: &[&str]) -> Option<String> {
    let is_required = std::env::var_os("ICHOR_REQUIRE_NETNS").is_some_and(|value| value == "1");
    // Without this there must be a policy file in /etc.
    let Ok(output) = Command::new("skopeo").arg("--insecure-policy").args(args).output() else {
        assert!(!is_required, "skopeo is required and missing");
        println!("skipped: there is no skopeo");
        return None;
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "skopeo {args:?}: {error}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn skopeo_reads_copies_and_digests_our_layout() {
    let built = build();
    let directory = tempfile::tempdir().unwrap();
    let tar = directory.path().join("image.tar");
    write_archive(&built, std::fs::File::create(&tar).unwrap()).unwrap();
    let layout = directory.path().join("layout");
    write_directory(&built, &layout).unwrap();
    let copy = directory.path().join("copy");
    let places = [format!("oci:{}", layout.display()), format!("oci-archive:{}", tar.display())];
    for (index, place) in places.into_iter().enumerate() {
        let place = format!("{place}:{}", built.version());
        let Some(raw) = skopeo(&["inspect", "--raw", &place]) else { return };
        assert_eq!(image::Digest::of(raw.as_bytes()), built.descriptor().digest);
        for architecture in ["amd64", "arm64"] {
            let text = skopeo(&["--override-arch", architecture, "inspect", &place]).unwrap();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["Architecture"], architecture);
            assert!(value["Labels"]["org.opencontainers.image.source"].is_string());
        }
        let to = format!("oci:{}-{index}:copied", copy.display());
        skopeo(&["copy", "--all", "--preserve-digests", &place, &to]).unwrap();
        let raw = skopeo(&["inspect", "--raw", &to]).unwrap();
        assert_eq!(image::Digest::of(raw.as_bytes()), built.descriptor().digest);
    }
}

#[tokio::test]
async fn skopeo_reads_our_push_and_we_read_its_own() {
    let built = build();
    let registry = TestRegistry::start(false).await.unwrap();
    let reference: Reference = format!("{}/you/ichor:0.1.0", registry.address).parse().unwrap();
    let mut client = Registry::new(&reference, None, true).unwrap();
    client.push(&built.store(), "0.1.0").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let copy = format!("oci:{}:copied", directory.path().join("copy").display());
    let source = format!("docker://{reference}");
    let theirs = format!("docker://{}/you/theirs:0.1.0", registry.address);
    let done = tokio::task::spawn_blocking(move || {
        let raw = skopeo(&["inspect", "--tls-verify=false", "--raw", &source])?;
        skopeo(&["copy", "--all", "--preserve-digests", "--src-tls-verify=false", &source, &copy])?;
        skopeo(&["copy", "--all", "--preserve-digests", "--dest-tls-verify=false", &copy, &theirs])?;
        Some(raw)
    });
    let Some(raw) = done.await.unwrap() else { return };
    assert_eq!(image::Digest::of(raw.as_bytes()), built.descriptor().digest);
    let theirs: Reference = format!("{}/you/theirs:0.1.0", registry.address).parse().unwrap();
    let mut reader = Registry::new(&theirs, None, true).unwrap();
    let inspection = image::inspect(&reader.pull(&theirs).await.unwrap()).unwrap();
    assert_eq!(inspection.digest, Some(built.descriptor().digest));
    assert_eq!(inspection.faults().count(), 0);
}

fn schematics() -> Vec<Schematic> {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let args = words(&[
        "net.ifnames=0",
        "ip=10.0.0.2::10.0.0.1:255.255.255.0::eth0:off",
        "console=ttyS0,115200n8",
        "talos.config=http://10.0.0.1:8080/c.yaml",
        "a:b",
        "_x",
        "a=1_000",
        "v1.10",
        "x@y",
        "a+b",
        "a-",
        "0x",
        "1a",
    ]);
    let overlay = Overlay { image: "siderolabs/sbc-raspberrypi".into(), name: "rpi_generic".into() };
    vec![
        Schematic::default(),
        Schematic { kernel_args: args, ..Schematic::default() },
        Schematic { overlay: Some(overlay), owner: Some("me".into()), ..Schematic::default() },
        Schematic {
            meta: vec![Meta { key: 0, value: "a".into() }, Meta { key: 255, value: "b=c".into() }],
            extensions: words(&["siderolabs/iscsi-tools", "ichor-mesh/ichor"]),
            bootloader: Some("sd-boot".into()),
            enroll_keys: Some("if-safe".into()),
            well_known_certificates: true,
            sector_size: Some(4096),
            ..Schematic::default()
        },
    ]
}

#[test]
fn schematics_are_written_and_hashed_as_go_does() {
    let questions: Vec<Question> = schematics()
        .iter()
        .map(|it| {
            let meta: Vec<_> =
                it.meta.iter().map(|meta| json!({"key": meta.key, "value": meta.value})).collect();
            let overlay = it.overlay.as_ref().map(|it| json!({"image": it.image, "name": it.name}));
            let schematic = json!({
                "owner": it.owner,
                "overlay": overlay,
                "customization": {
                    "extraKernelArgs": it.kernel_args,
                    "meta": meta,
                    "systemExtensions": {"officialExtensions": it.extensions},
                    "bootloader": it.bootloader,
                    "secureboot": {
                        "enrollKeys": it.enroll_keys,
                        "includeWellKnownCertificates": it.well_known_certificates,
                    },
                    "diskImage": {"sectorSize": it.sector_size},
                },
            });
            Question { schematic: Some(schematic), ..Question::default() }
        })
        .collect();
    for line in LINES {
        let Some(answers) = oracle::ask(line, &questions).unwrap() else {
            println!("skipped: there is no Go");
            return;
        };
        for (schematic, answer) in schematics().iter().zip(answers) {
            assert_eq!(canonical(schematic).unwrap(), answer.text, "Talos {line}");
            assert_eq!(id(schematic).unwrap(), answer.id, "Talos {line}");
        }
    }
}

#[test]
fn the_files_for_bldr_agree_with_manifest_and_workspace() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let (pkgfile, package) = (read("Pkgfile"), read("pkg.yaml"));
    assert!(
        pkgfile.starts_with("# syntax = ghcr.io/siderolabs/bldr:v"),
        "BuildKit finds the frontend by line 1"
    );
    let yaml = |text: &str| yaml_serde::from_str::<yaml_serde::Value>(text).unwrap();
    let (vars, package) = (yaml(&pkgfile), yaml(&package));
    let version = vars["vars"]["ICHOR_VERSION"].as_str().unwrap();
    let (manifest, _) = extension::Manifest::parse("manifest.yaml", MANIFEST.as_bytes());
    let manifest = manifest.unwrap();
    assert_eq!(version, manifest.version);
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    assert_eq!(vars["format"], "v1alpha2");
    assert_eq!(package["name"], *manifest.name);
    assert_eq!(package["variant"], "scratch");
    let targets: Vec<&str> =
        package["finalize"].as_sequence().unwrap().iter().map(|it| it["to"].as_str().unwrap()).collect();
    assert_eq!(targets, ["/rootfs", "/"]);
    // The same places as in the image that we make ourselves, on both machines by bldr's own name for them.
    let install = package["steps"][0]["install"][0].as_str().unwrap();
    assert!(install.contains("dist/{{ .ARCH }}/ichord"));
    for path in [SPEC, "rootfs/usr/local/share/spdx/ichor.spdx.json"] {
        assert!(install.contains(path), "{path}");
    }
    assert!(install.contains("root=/rootfs/usr/local/lib/containers/ichor\n"));
    assert!(install.contains("\"$root/usr/local/bin/ichord\""));
}

#[test]
fn the_descriptor_of_the_image_says_what_it_is() {
    let built = build();
    let Descriptor { media_type, size, .. } = built.descriptor();
    assert_eq!(media_type, "application/vnd.oci.image.index.v1+json");
    let (_, bytes) = built.blobs().find(|(digest, _)| *digest == built.descriptor().digest).unwrap();
    assert_eq!(bytes.len() as u64, *size);
}
