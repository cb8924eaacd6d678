//! Reads a schematic that somebody wrote, or that a node keeps. A factory refuses unknown keys, and so do we.

use yaml_serde::Value;

use serde::Deserialize;

use super::{Meta, Overlay, Schematic};

/// The largest schematic that is read, in bytes.
const MAX_BYTES: usize = 256 << 10;

/// Text that is no schematic, or one that is not handled here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchematicError {
    /// Too long to be one.
    #[error("failed to read the schematic: it has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// Not text.
    #[error("failed to read the schematic: it is no text")]
    NotText,
    /// Not the form of a schematic.
    #[error("failed to read the schematic")]
    Yaml(#[source] yaml_serde::Error),
    /// Fields whose written form is up to the factory.
    #[error(
        "failed to read the schematic: {0} is not handled here; POST it to the factory and take the id that it answers"
    )]
    NotHandled(&'static str),
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    owner: Option<String>,
    overlay: Option<FileOverlay>,
    customization: Option<Customization>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FileOverlay {
    image: String,
    name: String,
    options: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Customization {
    embedded_machine_configuration: Option<String>,
    extra_kernel_args: Option<Vec<String>>,
    meta: Option<Vec<FileMeta>>,
    system_extensions: Option<SystemExtensions>,
    bootloader: Option<String>,
    secureboot: Option<Secureboot>,
    disk_image: Option<DiskImage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileMeta {
    key: u8,
    #[serde(default)]
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct SystemExtensions {
    official_extensions: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Secureboot {
    enroll_keys: Option<String>,
    include_well_known_certificates: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct DiskImage {
    sector_size: Option<u32>,
}

/// Reads a schematic in YAML or JSON. An empty text is the empty schematic.
///
/// # Errors
///
/// [`SchematicError`].
pub fn parse(text: &[u8]) -> Result<Schematic, SchematicError> {
    if text.len() > MAX_BYTES {
        return Err(SchematicError::TooLarge);
    }
    let text = str::from_utf8(text).map_err(|_| SchematicError::NotText)?;
    if text.trim().is_empty() {
        return Ok(Schematic::default());
    }
    let file: Option<File> = yaml_serde::from_str(text).map_err(SchematicError::Yaml)?;
    let file = file.unwrap_or_default();
    let customization = file.customization.unwrap_or_default();
    if customization.embedded_machine_configuration.is_some() {
        // It would also hand the secrets of the cluster to the factory.
        return Err(SchematicError::NotHandled("embeddedMachineConfiguration"));
    }
    let overlay = match file.overlay {
        Some(FileOverlay { options: Some(_), .. }) => {
            return Err(SchematicError::NotHandled("overlay.options"));
        }
        Some(FileOverlay { image, name, .. }) if image.is_empty() != name.is_empty() => {
            return Err(SchematicError::NotHandled("half an overlay"));
        }
        Some(FileOverlay { image, name, .. }) => Some(Overlay { image, name }),
        None => None,
    };
    let secureboot = customization.secureboot.unwrap_or_default();
    let meta = customization.meta.unwrap_or_default().into_iter();
    Ok(Schematic {
        owner: file.owner.filter(|owner| !owner.is_empty()),
        overlay: overlay.filter(|overlay| !overlay.image.is_empty()),
        kernel_args: customization.extra_kernel_args.unwrap_or_default(),
        meta: meta.map(|FileMeta { key, value }| Meta { key, value }).collect(),
        extensions: customization
            .system_extensions
            .unwrap_or_default()
            .official_extensions
            .unwrap_or_default(),
        bootloader: customization.bootloader.filter(|it| !it.is_empty()),
        enroll_keys: secureboot.enroll_keys.filter(|it| !it.is_empty()),
        well_known_certificates: secureboot.include_well_known_certificates,
        sector_size: customization.disk_image.unwrap_or_default().sector_size.filter(|size| *size != 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_an_empty_text_are_schematics_too() {
        let json = br#"{"customization": {"extraKernelArgs": ["noapic"]}}"#;
        assert_eq!(parse(json).unwrap().kernel_args, ["noapic"]);
        for empty in
            ["", "\n", "customization: {}", "customization:\n", "customization: {systemExtensions: {}}"]
        {
            assert_eq!(parse(empty.as_bytes()).unwrap(), Schematic::default(), "{empty:?}");
        }
    }

    #[test]
    fn unknown_keys_and_what_the_factory_must_write_are_refused() {
        assert!(matches!(parse(b"customisation: {}"), Err(SchematicError::Yaml(_))));
        let embedded = b"customization: {embeddedMachineConfiguration: 'version: v1alpha1'}";
        assert!(matches!(parse(embedded), Err(SchematicError::NotHandled(_))));
        let options = b"overlay: {image: a, name: b, options: {c: d}}";
        assert!(matches!(parse(options), Err(SchematicError::NotHandled(_))));
        assert!(parse(b"customization: {meta: [{key: 256, value: a}]}").is_err());
        assert!(parse(b"\xff").is_err());
    }
}
