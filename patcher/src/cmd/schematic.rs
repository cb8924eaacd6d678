//! `schematic`: what an image factory or the imager is asked for.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use super::connection::Connection;
use crate::api::{ListFilter, NodeClient};
use crate::exit::{Exit, Refusal, UsageError};
use crate::extension::{self, MANIFEST_FILE, Machine, Manifest};
use crate::files::{read_bounded, read_to_limit};
use crate::image::{Digest, Reference};
use crate::output::{Format, Output, note};
use crate::schematic::{
    self, Catalogue, CatalogueEntry, EXTENSION, EXTENSION_IMAGE, ImagerInput, Installer, Meta, Overlay,
    PUBLIC_FACTORY, Schematic,
};

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// The name of the extension by which a factory marks its images.
const MARK: &str = "schematic";

/// What the factory knows, in Talos' terms.
const EXTENSION_STATUS: (&str, &str) = ("runtime", "ExtensionStatuses.runtime.talos.dev");

/// Flags of `schematic`.
#[derive(Args, Debug)]
pub struct SchematicArgs {
    #[command(subcommand)]
    command: SchematicCommand,
}

#[derive(Debug, Subcommand)]
enum SchematicCommand {
    /// Write a schematic and show its id
    #[command(
        after_help = "Examples:\n  ichorctl schematic create --extension siderolabs/iscsi-tools --ichor > schematic.yaml\n  \
                            ichorctl schematic create --kernel-arg net.ifnames=0 -o json"
    )]
    Create(Create),
    /// Show the id of a schematic, as a factory computes it
    #[command(after_help = "Examples:\n  ichorctl schematic id schematic.yaml\n  \
                            ichorctl schematic create --ichor | ichorctl schematic id -")]
    Id(Id),
    /// Show the installer of a schematic, or take the name of one apart
    #[command(
        after_help = "Examples:\n  ichorctl schematic installer schematic.yaml --factory factory.example --talos-version v1.14.1\n  \
                            ichorctl schematic installer --parse factory.talos.dev/metal-installer/ID:v1.13.9"
    )]
    Installer(InstallerArgs),
    /// Write the catalogue files of a self-hosted factory
    #[command(
        after_help = "Examples:\n  ichorctl schematic catalogue registry.example/ichor-mesh/ichor:0.1.0@sha256:... -d catalogue\n  \
                            (files that are in the directory are extended)"
    )]
    Catalogue(CatalogueArgs),
    /// Show how the imager makes an installer: profile and command line
    #[command(
        after_help = "Examples:\n  ichorctl schematic imager registry.example/ichor@sha256:... --talos-version v1.14.1\n  \
                            ichorctl schematic imager EXTENSION... --talos-version v1.14.1 --profile | \
                            docker run --rm -i -v \"$PWD/_out:/out\" ghcr.io/siderolabs/imager:v1.14.1 -"
    )]
    Imager(ImagerArgs),
    /// Show the schematic of a node, with extensions added to it
    #[command(after_help = "Examples:\n  ichorctl schematic of 10.0.0.2\n  \
                            ichorctl schematic of 10.0.0.2 +ichor +siderolabs/iscsi-tools")]
    Of(Of),
}

/// Flags of `schematic create`.
#[derive(Args, Debug)]
struct Create {
    /// An extension, as the catalogue names it; in this order
    #[arg(long = "extension", value_name = "REPOSITORY")]
    extensions: Vec<String>,
    /// Our extension, behind the others
    #[arg(long)]
    ichor: bool,
    /// An argument of the kernel; in this order
    #[arg(long = "kernel-arg", value_name = "ARG", allow_hyphen_values = true)]
    kernel_args: Vec<String>,
    /// A value for META
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_meta)]
    meta: Vec<Meta>,
    /// The image of an overlay
    #[arg(long, value_name = "REPOSITORY", requires = "overlay_name")]
    overlay_image: Option<String>,
    /// Its name in that image
    #[arg(long, value_name = "NAME", requires = "overlay_image")]
    overlay_name: Option<String>,
    /// The boot loader
    #[arg(long, value_enum)]
    bootloader: Option<Bootloader>,
    /// How keys of secure boot are enrolled
    #[arg(long, value_enum)]
    enroll_keys: Option<EnrollKeys>,
    /// Microsoft's certificates beside the keys of secure boot
    #[arg(long)]
    well_known_certificates: bool,
    /// Sector size of disk images
    #[arg(long, value_name = "BYTES")]
    sector_size: Option<u32>,
    /// Whose it is, for Enterprise factories
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Bootloader {
    /// Both, for machines of unknown firmware
    DualBoot,
    /// GRUB
    Grub,
    /// systemd-boot
    SdBoot,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EnrollKeys {
    /// Always
    Force,
    /// In setup mode of a virtual machine
    IfSafe,
    /// By the user in the boot menu
    Manual,
}

/// Flags of `schematic id`.
#[derive(Args, Debug)]
struct Id {
    /// The schematic, or - for standard input
    file: PathBuf,
}

/// Flags of `schematic installer`.
#[derive(Args, Debug)]
struct InstallerArgs {
    /// The schematic: a file, - for standard input, or an id
    #[arg(required_unless_present = "parse")]
    schematic: Option<String>,
    /// The version of Talos
    #[arg(long, value_name = "VERSION", required_unless_present = "parse")]
    talos_version: Option<String>,
    /// The factory
    #[arg(long, value_name = "HOST", default_value = PUBLIC_FACTORY)]
    factory: String,
    /// The platform
    #[arg(long, value_name = "NAME", default_value = "metal")]
    platform: String,
    /// For machines with secure boot
    #[arg(long)]
    secureboot: bool,
    /// Take a reference apart instead
    #[arg(long, value_name = "REFERENCE", conflicts_with_all = ["schematic", "talos_version"])]
    parse: Option<Installer>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Flags of `schematic catalogue`.
#[derive(Args, Debug)]
struct CatalogueArgs {
    /// Our extension where the factory finds it: HOST/REPOSITORY:TAG@sha256:DIGEST
    reference: Reference,
    /// The directory of image-digests and descriptions.yaml
    #[arg(short, long, value_name = "DIR")]
    directory: PathBuf,
}

/// Flags of `schematic imager`.
#[derive(Args, Debug)]
struct ImagerArgs {
    /// Images of extensions, best by digest
    #[arg(required = true)]
    extensions: Vec<Reference>,
    /// The version of Talos
    #[arg(long, value_name = "VERSION")]
    talos_version: String,
    /// The architecture
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
    /// For machines with secure boot
    #[arg(long)]
    secureboot: bool,
    /// An argument of the kernel
    #[arg(long = "kernel-arg", value_name = "ARG", allow_hyphen_values = true)]
    kernel_args: Vec<String>,
    /// Print the profile alone
    #[arg(long)]
    profile: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Arch {
    /// x86_64
    #[default]
    Amd64,
    /// aarch64
    Arm64,
}

/// Flags of `schematic of`.
#[derive(Args, Debug)]
struct Of {
    /// The node
    node: String,
    /// Extensions to add: +ichor, +REPOSITORY
    #[arg(value_name = "+EXTENSION", value_parser = parse_addition)]
    add: Vec<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Shown {
    id: String,
    schematic: String,
}

/// What is printed as JSON of an installer.
#[derive(Serialize)]
struct ShownInstaller {
    reference: String,
    factory: String,
    platform: String,
    secureboot: bool,
    schematic: String,
    version: String,
}

/// The part of an ExtensionStatus that is used here.
#[derive(Deserialize)]
struct ExtensionStatus {
    #[serde(default)]
    metadata: StatusMetadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StatusMetadata {
    name: String,
    version: String,
    extra_info: String,
}

impl SchematicArgs {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When something cannot be read, or the id of a schematic is not certain.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        match self.command {
            SchematicCommand::Create(command) => command.run(),
            SchematicCommand::Id(command) => command.run(),
            SchematicCommand::Installer(command) => command.run(),
            SchematicCommand::Catalogue(command) => command.run(),
            SchematicCommand::Imager(command) => command.run(),
            SchematicCommand::Of(command) => command.run(connection).await,
        }
    }
}

impl Create {
    fn run(self) -> anyhow::Result<Exit> {
        let name = |value: Option<String>| value.unwrap_or_default();
        let mut schematic = Schematic {
            owner: self.owner,
            overlay: self.overlay_image.map(|image| Overlay { image, name: name(self.overlay_name) }),
            kernel_args: self.kernel_args,
            meta: self.meta,
            extensions: self.extensions,
            bootloader: self.bootloader.map(value_name),
            enroll_keys: self.enroll_keys.map(value_name),
            well_known_certificates: self.well_known_certificates,
            sector_size: self.sector_size,
        };
        if self.ichor {
            schematic.add_extension(EXTENSION);
        }
        show(&schematic, self.output)?;
        Ok(Exit::Done)
    }
}

impl Id {
    fn run(self) -> anyhow::Result<Exit> {
        let schematic = read_schematic(&self.file)?;
        Output::new(Format::Text).raw(format!("{}\n", schematic::id(&schematic)?).as_bytes())?;
        Ok(Exit::Done)
    }
}

impl InstallerArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let installer = match (self.parse, self.schematic, self.talos_version) {
            (Some(installer), _, _) => installer,
            (None, Some(schematic), Some(version)) => {
                let is_id = schematic.len() == 64 && schematic.bytes().all(|byte| byte.is_ascii_hexdigit());
                let id = match is_id {
                    true => schematic,
                    false => schematic::id(&read_schematic(Path::new(&schematic))?)?,
                };
                Installer::new(&self.factory, &self.platform, self.secureboot, &id, &version)?
            }
            _ => return Err(UsageError("a schematic and --talos-version are needed".to_owned()).into()),
        };
        let shown = ShownInstaller {
            reference: installer.to_string(),
            factory: installer.factory,
            platform: installer.platform,
            secureboot: installer.secureboot,
            schematic: installer.schematic,
            version: installer.version,
        };
        Output::new(self.output).record(&shown, |shown| format!("{}\n", shown.reference))?;
        Ok(Exit::Done)
    }
}

impl CatalogueArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let (digests, descriptions) =
            (self.directory.join("image-digests"), self.directory.join("descriptions.yaml"));
        let mut catalogue = Catalogue::parse(&read_or_empty(&digests)?, &read_or_empty(&descriptions)?)?;
        let (manifest, _) = Manifest::parse(MANIFEST_FILE, extension::MANIFEST.as_bytes());
        let manifest = manifest.context("the manifest of the extension is damaged")?;
        let Manifest { author, description, .. } = manifest;
        catalogue.set(CatalogueEntry { reference: self.reference, author, description })?;
        fs::create_dir_all(&self.directory)
            .with_context(|| format!("failed to create {}", self.directory.display()))?;
        for (path, text) in
            [(&digests, catalogue.image_digests()), (&descriptions, catalogue.descriptions()?)]
        {
            fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))?;
        }
        note(&format!("wrote {} and {}", digests.display(), descriptions.display()));
        Ok(Exit::Done)
    }
}

impl ImagerArgs {
    fn run(self) -> anyhow::Result<Exit> {
        let bare = self.talos_version.strip_prefix('v').unwrap_or(&self.talos_version);
        if semver::Version::parse(bare).is_err() {
            return Err(UsageError(format!("{:?} is no Talos version vX.Y.Z", self.talos_version)).into());
        }
        for reference in self.extensions.iter().filter(|it| it.digest.is_none()) {
            note(&format!(
                "warning: {reference} has no digest: the imager does not verify signatures, and a tag may move"
            ));
        }
        let plan = schematic::imager(&ImagerInput {
            version: format!("v{bare}"),
            machine: match self.arch {
                Arch::Amd64 => Machine::Amd64,
                Arch::Arm64 => Machine::Arm64,
            },
            secureboot: self.secureboot,
            extensions: self.extensions,
            kernel_args: self.kernel_args,
        })?;
        let output = Output::new(self.output);
        if self.profile {
            output.raw(plan.profile.as_bytes())?;
            return Ok(Exit::Done);
        }
        output.record(&plan, |plan| {
            let with_profile = plan.profile.lines().map(|line| format!("#   {line}\n")).collect::<String>();
            format!(
                "{}\n\n# The same with a profile (--profile prints it):\n{with_profile}# {}\n",
                plan.with_flags, plan.with_profile
            )
        })?;
        Ok(Exit::Done)
    }
}

impl Of {
    async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let node = connection.session()?.node(&self.node)?;
        let mut schematic = read_from(&node).await?;
        for repository in &self.add {
            if !schematic.add_extension(repository) {
                note(&format!("{repository} is in the schematic of {} already", self.node));
            }
        }
        show(&schematic, self.output)?;
        if self.add.iter().any(|repository| repository == EXTENSION) {
            note(&format!(
                "{PUBLIC_FACTORY} cannot serve {EXTENSION}: POST this to a factory whose catalogue has it, \
                 or use `ichorctl schematic imager {EXTENSION_IMAGE}@sha256:...`"
            ));
        }
        Ok(Exit::Done)
    }
}

/// The schematic that the image of a node was made from. A factory puts it into an extension of its own.
async fn read_from(node: &NodeClient) -> anyhow::Result<Schematic> {
    let (namespace, kind) = EXTENSION_STATUS;
    let mut names = Vec::new();
    for resource in node.list(namespace, kind, ListFilter::default()).await? {
        let status: ExtensionStatus = resource.spec()?;
        let StatusMetadata { name, version, extra_info } = status.metadata;
        if name != MARK {
            names.push(format!("{name} {version}"));
            continue;
        }
        if !extra_info.trim().is_empty() {
            if Digest::of(extra_info.as_bytes()).hex() != version {
                note(&format!("warning: the node's schematic {version} is not the id of the text beside it"));
            }
            return schematic::parse(extra_info.as_bytes())
                .with_context(|| format!("the schematic {version} of {}", node.name()));
        }
        // Older factories left the text out. Nothing but the factory knows it.
        let reason = format!("{} knows the id of its schematic only: {version}", node.name());
        let advice = format!("get the text from the factory: GET /schematics/{version}");
        return Err(Refusal { reason, advice: Some(advice) }.into());
    }
    let known = if names.is_empty() { "no extensions".to_owned() } else { names.join(", ") };
    let reason = format!("the image of {} was not made by a factory; it has {known}", node.name());
    let advice = "make the next image with all of them: `ichorctl schematic imager`".to_owned();
    Err(Refusal { reason, advice: Some(advice) }.into())
}

fn show(schematic: &Schematic, format: Format) -> anyhow::Result<()> {
    let shown = Shown { id: schematic::id(schematic)?, schematic: schematic::canonical(schematic)? };
    if format == Format::Text {
        note(&format!("id: {}", shown.id));
    }
    Ok(Output::new(format).record(&shown, |shown| shown.schematic.clone())?)
}

fn read_schematic(path: &Path) -> anyhow::Result<Schematic> {
    let text = match path.as_os_str() == "-" {
        true => read_to_limit(std::io::stdin().lock(), MAX_FILE),
        false => read_bounded(path, MAX_FILE),
    };
    let text = text.with_context(|| format!("failed to read {}", path.display()))?;
    schematic::parse(text.as_bytes()).with_context(|| path.display().to_string())
}

fn read_or_empty(path: &Path) -> anyhow::Result<String> {
    match read_bounded(path, MAX_FILE) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        result => result.with_context(|| format!("failed to read {}", path.display())),
    }
}

fn value_name(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn parse_meta(text: &str) -> Result<Meta, String> {
    let (key, value) = text.split_once('=').ok_or("it is KEY=VALUE")?;
    let number = match key.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16),
        None => key.parse(),
    };
    let key = number.map_err(|_| format!("the key {key:?} is no number from 0 to 255"))?;
    Ok(Meta { key, value: value.to_owned() })
}

fn parse_addition(text: &str) -> Result<String, String> {
    match text.strip_prefix('+') {
        Some(extension::NAME) => Ok(EXTENSION.to_owned()),
        Some(repository) if !repository.is_empty() => Ok(repository.to_owned()),
        _ => Err("an extension to add begins with +".to_owned()),
    }
}
