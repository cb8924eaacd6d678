//! `image`: the image of the extension, made, looked at and pushed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::exit::{Exit, UsageError};
use crate::extension::{self, Fault, MAX_BINARY_BYTES, Rule};
use crate::files::{AtomicFile, read_bounded};
use crate::image::{
    self, Digest, Image, Inputs, Inspection, InstallerContents, PlatformReport, Reference, Registry,
    write_archive, write_directory,
};
use crate::output::{Format, Output, Table, bytes, escape, note};
use crate::patch::TalosLine;
use crate::roll::{image_look, record};

/// The lock file that this program was built with, and the daemon beside it.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// The longest lock file that is read, in bytes.
const MAX_LOCK: u64 = 4 << 20;

/// Flags of `image`.
#[derive(Args, Debug)]
pub struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Make the image of the extension from two binaries of ichord
    #[command(
        after_help = "Examples:\n  ichorctl image build --amd64 dist/x86_64/ichord --arm64 dist/aarch64/ichord\n  \
                            ichorctl image build --amd64 a --arm64 b --layout dist/layout"
    )]
    Build(Build),
    /// Show what a node would see of an image, and what is wrong with it
    #[command(after_help = "Examples:\n  ichorctl image inspect dist/ichor-extension.oci.tar\n  \
                            ichorctl image inspect ghcr.io/ichor-mesh/ichor:0.1.0 -o json")]
    Inspect(Inspect),
    /// Show which extensions an installer of Talos has, by its image in a registry
    #[command(after_help = "Examples:\n  ichorctl image installer registry.example/installer:v1.14.1\n  \
                            ichorctl image installer registry.example/installer:v1.14.1 --record\n\n\
                            Upgrades look into images themselves. With --record they know of this one also where its registry \
                            does not answer them.")]
    Installer(Installer),
    /// Push an image that was built to a registry
    #[command(
        after_help = "Examples:\n  ichorctl image push dist/ichor-extension.oci.tar ghcr.io/you/ichor:0.1.0\n  \
                            ichorctl image push --plain-http dist/layout localhost:5000/ichor:test"
    )]
    Push(Push),
}

/// Flags of `image build`.
#[derive(Args, Debug)]
struct Build {
    /// The static ichord for x86_64
    #[arg(long, value_name = "PATH")]
    amd64: PathBuf,
    /// The static ichord for aarch64
    #[arg(long, value_name = "PATH")]
    arm64: PathBuf,
    /// The Cargo.lock that they were built with, if it is not that of this program
    #[arg(long, value_name = "PATH")]
    lock: Option<PathBuf>,
    /// The tar of an OCI layout to write
    #[arg(short, long, value_name = "PATH", default_value = "dist/ichor-extension.oci.tar")]
    output: PathBuf,
    /// Write an OCI layout as a directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    layout: Option<PathBuf>,
    /// Write the bill of materials to a file of its own, too
    #[arg(long, value_name = "PATH")]
    sbom: Option<PathBuf>,
}

/// Flags of `image inspect`.
#[derive(Args, Debug)]
struct Inspect {
    /// An OCI layout (directory or tar), or HOST/REPOSITORY:TAG of a registry
    image: String,
    /// Talk to the registry without TLS
    #[arg(long)]
    plain_http: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Flags of `image installer`.
#[derive(Args, Debug)]
struct Installer {
    /// The image: HOST/REPOSITORY:TAG
    reference: Reference,
    /// The machines it is for
    #[arg(long, value_name = "ARCH", default_value = "amd64", value_parser = ["amd64", "arm64"])]
    arch: String,
    /// Write down what it has, for `upgrade` and `apply`
    #[arg(long)]
    record: bool,
    /// Where the record is [default: $XDG_STATE_HOME/ichor]
    #[arg(long, value_name = "DIR", requires = "record")]
    state: Option<PathBuf>,
    /// Talk to the registry without TLS
    #[arg(long)]
    plain_http: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Flags of `image push`.
#[derive(Args, Debug)]
struct Push {
    /// An OCI layout (directory or tar) that `image build` wrote
    path: PathBuf,
    /// Where to: HOST/REPOSITORY:TAG
    reference: Reference,
    /// Talk to the registry without TLS
    #[arg(long)]
    plain_http: bool,
}

impl ImageArgs {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When files or a registry cannot be read or written, or the image breaks rules.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            ImageCommand::Build(command) => command.run(),
            ImageCommand::Inspect(command) => command.run().await,
            ImageCommand::Installer(command) => command.run().await,
            ImageCommand::Push(command) => command.run().await,
        }
    }
}

impl Build {
    fn run(self) -> anyhow::Result<Exit> {
        let (amd64, arm64) = (read_binary(&self.amd64)?, read_binary(&self.arm64)?);
        let lock = match &self.lock {
            Some(path) => {
                read_bounded(path, MAX_LOCK).with_context(|| format!("failed to read {}", path.display()))?
            }
            None => LOCK.to_owned(),
        };
        let seconds = source_date()?;
        let built = image::build(&Inputs {
            binaries: [&amd64, &arm64],
            lock: &lock,
            manifest: extension::MANIFEST,
            service: extension::SERVICE,
            seconds,
        })?;
        if let Some(path) = &self.sbom {
            fs::write(path, image::bill_of_materials(&lock, seconds)?)
                .with_context(|| format!("failed to write {}", path.display()))?;
        }
        let path = match &self.layout {
            Some(directory) => {
                write_directory(&built, directory)?;
                directory
            }
            None => {
                write_tar(&built, &self.output)?;
                &self.output
            }
        };
        note(&format!("wrote {} (ichor {})", path.display(), built.version()));
        // The digest alone, for scripts.
        Output::new(Format::Text).raw(format!("{}\n", built.descriptor().digest).as_bytes())?;
        Ok(Exit::Done)
    }
}

fn read_binary(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut content = Vec::new();
        File::open(path)?.take(MAX_BINARY_BYTES + 1).read_to_end(&mut content)?;
        Ok(content)
    };
    let content = read().with_context(|| format!("failed to read {}", path.display()))?;
    if content.len() as u64 > MAX_BINARY_BYTES {
        let detail = format!("it has more than {MAX_BINARY_BYTES} bytes; strip it");
        return Err(Fault::new(path.display().to_string(), Rule::BinarySize, detail).into());
    }
    Ok(content)
}

fn write_tar(built: &Image, path: &Path) -> anyhow::Result<()> {
    let write = || -> anyhow::Result<()> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            fs::create_dir_all(directory)?;
        }
        let mut file = AtomicFile::create(path)?;
        write_archive(built, &mut file)?;
        file.commit()?;
        // Nothing in it is secret, and others have to read it.
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o644))?)
    };
    write().with_context(|| format!("failed to write {}", path.display()))
}

/// The time of everything in the image: `SOURCE_DATE_EPOCH`, or that of the commit if this is our source tree, or 0.
fn source_date() -> anyhow::Result<u64> {
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        let wrong = || UsageError(format!("SOURCE_DATE_EPOCH={text:?} is no number of seconds"));
        return Ok(text.trim().parse().map_err(|_| wrong())?);
    }
    Ok(commit_date().unwrap_or(0))
}

fn commit_date() -> Option<u64> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).stderr(std::process::Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let top = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
    // Somebody else's repository says nothing about us.
    let manifest = read_bounded(&top.join("extension/manifest.yaml"), 1 << 20).ok()?;
    if manifest != extension::MANIFEST {
        return None;
    }
    git(&["log", "-1", "--format=%ct"])?.parse().ok()
}

impl Inspect {
    async fn run(self) -> anyhow::Result<Exit> {
        let path = Path::new(&self.image);
        let store = if path.exists() {
            image::open(path)?
        } else {
            let missing = |error| UsageError(format!("{} is no file; {error}", self.image));
            let reference: Reference = self.image.parse().map_err(missing)?;
            Registry::open(&reference, self.plain_http)?.pull(&reference).await?
        };
        let inspection = image::inspect(&store)?;
        let report = Report::new(&inspection);
        Output::new(self.output).record(&report, |_| describe(&inspection))?;
        Ok(if inspection.faults().next().is_none() { Exit::Done } else { Exit::Failed })
    }
}

impl Installer {
    async fn run(self) -> anyhow::Result<Exit> {
        let contents = image_look::inspect(&self.reference, &self.arch, self.plain_http).await?;
        if self.record {
            let folder = self.state.map_or_else(record::state, Ok)?;
            let path = image_look::record_path(&folder);
            image_look::write_down(&path, &self.reference.to_string(), &contents)?;
            note(&format!("written down in {}", path.display()));
        }
        Output::new(self.output).record(&contents, describe_installer)?;
        Ok(Exit::Done)
    }
}

impl Push {
    async fn run(self) -> anyhow::Result<Exit> {
        if self.reference.digest.is_some() {
            return Err(UsageError("push to a tag: the digest follows from the image".to_owned()).into());
        }
        let store = image::open(&self.path)?;
        let faults: Vec<String> =
            image::inspect(&store)?.faults().map(|(_, fault)| fault.to_string()).collect();
        if !faults.is_empty() {
            anyhow::bail!("the image is not pushed, it breaks rules: {}", faults.join("; "));
        }
        let tag = self.reference.tag.clone().unwrap_or_else(|| "latest".to_owned());
        let digest = Registry::open(&self.reference, self.plain_http)?.push(&store, &tag).await?;
        let Reference { host, repository, .. } = &self.reference;
        Output::new(Format::Text).raw(format!("{host}/{repository}:{tag}@{digest}\n").as_bytes())?;
        Ok(Exit::Done)
    }
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report {
    name: String,
    digest: Option<Digest>,
    platforms: Vec<PlatformRow>,
    faults: Vec<FaultRow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PlatformRow {
    platform: String,
    digest: Digest,
    extension: Option<String>,
    version: Option<String>,
    author: Option<String>,
    description: Option<String>,
    talos_range: Option<String>,
    services: Vec<String>,
    files: usize,
    compressed_bytes: u64,
    unpacked_bytes: u64,
    labels: BTreeMap<String, String>,
    /// Whether each Talos line would take it.
    talos: BTreeMap<String, bool>,
}

#[derive(Serialize)]
struct FaultRow {
    platform: Option<String>,
    file: String,
    line: Option<usize>,
    rule: Rule,
    detail: String,
    talos: Vec<String>,
}

impl Report {
    fn new(inspection: &Inspection) -> Self {
        let faults = inspection.faults().map(|(machine, fault)| FaultRow {
            platform: machine.map(|machine| format!("linux/{machine}")),
            file: fault.file.clone(),
            line: fault.line,
            rule: fault.rule,
            detail: fault.detail.clone(),
            talos: fault.talos.iter().map(ToString::to_string).collect(),
        });
        Self {
            name: inspection.name.clone(),
            digest: inspection.digest,
            platforms: inspection.platforms.iter().map(PlatformRow::new).collect(),
            faults: faults.collect(),
        }
    }
}

impl PlatformRow {
    fn new(report: &PlatformReport) -> Self {
        let manifest = report.manifest.as_ref();
        let talos = TalosLine::ALL.into_iter().map(|line| (line.to_string(), is_taken(report, line)));
        Self {
            platform: format!("linux/{}", report.machine),
            digest: report.digest,
            extension: manifest.map(|it| it.name.clone()),
            version: manifest.map(|it| it.version.clone()),
            author: manifest.map(|it| it.author.clone()),
            description: manifest.map(|it| it.description.clone()),
            talos_range: manifest.map(|it| it.talos.clone()),
            services: report.services.iter().map(|spec| format!("ext-{}", spec.name)).collect(),
            files: report.files,
            compressed_bytes: report.compressed,
            unpacked_bytes: report.unpacked,
            labels: report.labels.clone(),
            talos: talos.collect(),
        }
    }
}

fn is_taken(report: &PlatformReport, line: TalosLine) -> bool {
    !report.faults.iter().any(|fault| fault.talos.contains(&line))
}

/// What is printed for people.
fn describe(inspection: &Inspection) -> String {
    let digest = inspection.digest.map(|digest| digest.to_string()).unwrap_or_default();
    let mut text = format!("{}\n{digest}\n\n", escape(&inspection.name));
    let mut rows =
        vec![["PLATFORM", "EXTENSION", "VERSION", "SERVICES", "FILES", "SIZE", "TALOS"].map(str::to_owned)];
    for report in &inspection.platforms {
        let row = PlatformRow::new(report);
        let taken = TalosLine::ALL.into_iter().filter(|line| is_taken(report, *line));
        let lines: Vec<String> = taken.map(|line| line.to_string()).collect();
        rows.push([
            row.platform,
            row.extension.unwrap_or_else(|| "-".to_owned()),
            row.version.unwrap_or_else(|| "-".to_owned()),
            row.services.join(","),
            row.files.to_string(),
            bytes(row.compressed_bytes),
            if lines.is_empty() { "none".to_owned() } else { lines.join(" ") },
        ]);
    }
    text.push_str(&Table::default().lines(rows));
    let mut faults = vec![["PLATFORM", "FAULT"].map(str::to_owned)];
    for (machine, fault) in inspection.faults() {
        let platform = machine.map_or_else(|| "all".to_owned(), |machine| format!("linux/{machine}"));
        faults.push([platform, fault.to_string()]);
    }
    if faults.len() > 1 {
        text.push('\n');
        text.push_str(&Table::default().lines(faults));
    }
    text
}

fn describe_installer(contents: &InstallerContents) -> String {
    let schematic =
        contents.schematic.as_ref().map(|id| format!(", schematic {}", escape(id))).unwrap_or_default();
    let InstallerContents { digest, version, architecture, .. } = contents;
    let mut text = format!("Talos {version} for {architecture}{schematic}\n{digest}\n\n");
    let mut rows = vec![["EXTENSION", "VERSION"].map(str::to_owned)];
    rows.extend(
        contents.extensions.iter().map(|(name, version)| [name, version].map(|it| escape(it.as_str()))),
    );
    text.push_str(&Table::default().lines(rows));
    text
}
