//! How the imager is told to make an installer with our extension: a profile for its standard input, or flags.
//!
//! One run makes the image for one architecture. The imager does not verify signatures, so images are named by digest.

use std::fmt::Write as _;

use serde::Serialize;

use crate::extension::Machine;
use crate::image::Reference;

/// Where the imager and the base of installers are published.
const IMAGER: &str = "ghcr.io/siderolabs/imager";
const BASE: &str = "ghcr.io/siderolabs/installer-base";

/// What is to be made.
#[derive(Clone, Debug)]
pub struct ImagerInput {
    /// The version of Talos, with its `v`.
    pub version: String,
    /// For which machine.
    pub machine: Machine,
    /// For machines with secure boot.
    pub secureboot: bool,
    /// The extensions.
    pub extensions: Vec<Reference>,
    /// Arguments of the kernel behind those of Talos.
    pub kernel_args: Vec<String>,
}

/// How it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImagerPlan {
    /// A profile, in YAML.
    pub profile: String,
    /// The command that reads the profile.
    pub with_profile: String,
    /// The command that says the same with flags.
    pub with_flags: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Profile<'a> {
    base_profile_name: &'static str,
    arch: &'static str,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    customization: Option<Customization<'a>>,
    input: Input,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Customization<'a> {
    extra_kernel_args: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    system_extensions: Vec<Asset>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Asset {
    image_ref: String,
}

/// The profile and the commands.
///
/// # Errors
///
/// When the profile cannot be written as YAML.
pub fn imager(input: &ImagerInput) -> Result<ImagerPlan, yaml_serde::Error> {
    let ImagerInput { version, machine, secureboot, extensions, kernel_args } = input;
    let kind = if *secureboot { "secureboot-installer" } else { "installer" };
    let profile = Profile {
        base_profile_name: kind,
        arch: machine.name(),
        version,
        customization: (!kernel_args.is_empty()).then_some(Customization { extra_kernel_args: kernel_args }),
        input: Input {
            system_extensions: extensions.iter().map(|it| Asset { image_ref: it.to_string() }).collect(),
        },
    };
    let run = "docker run --rm -v \"$PWD/_out:/out\"";
    let mut with_flags = format!("{run} {IMAGER}:{version} {kind} --arch {machine}");
    let _ = write!(with_flags, " \\\n  --base-installer-image {BASE}:{version}");
    for extension in extensions {
        let _ = write!(with_flags, " \\\n  --system-extension-image {extension}");
    }
    for argument in kernel_args {
        let _ = write!(with_flags, " \\\n  --extra-kernel-arg {}", quote(argument));
    }
    let with_profile = run.replace("--rm", "--rm -i");
    Ok(ImagerPlan {
        profile: yaml_serde::to_string(&profile)?,
        with_profile: format!("{with_profile} {IMAGER}:{version} - < profile.yaml"),
        with_flags,
    })
}

/// An argument for a shell.
fn quote(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._/=,:+-@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    fn plan(kernel_args: &[&str], secureboot: bool) -> ImagerPlan {
        let extension = format!("registry.example/ichor@{}", Digest::of(b"")).parse().unwrap();
        imager(&ImagerInput {
            version: "v1.14.1".into(),
            machine: Machine::Arm64,
            secureboot,
            extensions: vec![extension],
            kernel_args: kernel_args.iter().map(|&it| it.to_owned()).collect(),
        })
        .unwrap()
    }

    #[test]
    fn the_profile_names_base_machine_version_and_extensions() {
        let profile: yaml_serde::Value = yaml_serde::from_str(&plan(&[], false).profile).unwrap();
        assert_eq!(profile["baseProfileName"], "installer");
        assert_eq!((&profile["arch"], &profile["version"]), (&"arm64".into(), &"v1.14.1".into()));
        let reference = profile["input"]["systemExtensions"][0]["imageRef"].as_str().unwrap();
        assert!(reference.starts_with("registry.example/ichor@sha256:"));
        assert!(profile.get("customization").is_none());
        assert!(plan(&[], true).profile.contains("secureboot-installer"));
    }

    #[test]
    fn arguments_are_quoted_for_the_shell() {
        let flags = plan(&["net.ifnames=0", "a b'$(c)"], false).with_flags;
        assert!(flags.contains("--extra-kernel-arg net.ifnames=0"), "{flags}");
        assert!(flags.contains(r"--extra-kernel-arg 'a b'\''$(c)'"), "{flags}");
    }
}
