//! `Debug` of messages that carry secrets.

use std::fmt;

use crate::talos::common::{Data, PemEncodedCertificateAndKey};
use crate::talos::cosi::resource::Spec;
use crate::talos::machine::{
    ApplyConfigurationRequest, GenerateClientConfiguration, ImageServiceCredentials, MetaWriteRequest,
};
use crate::talos::resource::config::MachineConfigSpec;

/// Stands for content that must not be printed.
struct Hidden(usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0)
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Data")
            .field("metadata", &self.metadata)
            .field("bytes", &Hidden(self.bytes.len()))
            .finish()
    }
}

impl fmt::Debug for PemEncodedCertificateAndKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemEncodedCertificateAndKey")
            .field("crt", &Hidden(self.crt.len()))
            .field("key", &Hidden(self.key.len()))
            .finish()
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spec")
            .field("proto_spec", &Hidden(self.proto_spec.len()))
            .field("yaml_spec", &Hidden(self.yaml_spec.len()))
            .finish()
    }
}

impl fmt::Debug for MachineConfigSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineConfigSpec")
            .field("yaml_marshalled", &Hidden(self.yaml_marshalled.len()))
            .finish()
    }
}

impl fmt::Debug for ApplyConfigurationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApplyConfigurationRequest")
            .field("data", &Hidden(self.data.len()))
            .field("mode", &self.mode())
            .field("dry_run", &self.dry_run)
            .field("try_mode_timeout", &self.try_mode_timeout)
            .finish()
    }
}

impl fmt::Debug for GenerateClientConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerateClientConfiguration")
            .field("metadata", &self.metadata)
            .field("ca", &Hidden(self.ca.len()))
            .field("crt", &Hidden(self.crt.len()))
            .field("key", &Hidden(self.key.len()))
            .field("talosconfig", &Hidden(self.talosconfig.len()))
            .finish()
    }
}

impl fmt::Debug for ImageServiceCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageServiceCredentials")
            .field("host", &self.host)
            .field("username", &self.username)
            .field("password", &Hidden(self.password.len()))
            .finish()
    }
}

impl fmt::Debug for MetaWriteRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetaWriteRequest")
            .field("key", &self.key)
            .field("value", &Hidden(self.value.len()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_print_as_their_length() {
        let secret = "hunter2-hunter2";
        let bytes = secret.as_bytes().to_vec();
        let messages: Vec<Box<dyn fmt::Debug>> = vec![
            Box::new(Data { bytes: bytes.clone().into(), ..Default::default() }),
            Box::new(PemEncodedCertificateAndKey { crt: bytes.clone(), key: bytes.clone() }),
            Box::new(Spec { proto_spec: bytes.clone(), yaml_spec: secret.to_owned() }),
            Box::new(MachineConfigSpec { yaml_marshalled: bytes.clone() }),
            Box::new(ApplyConfigurationRequest { data: bytes.clone(), ..Default::default() }),
            Box::new(GenerateClientConfiguration {
                key: bytes.clone(),
                talosconfig: bytes.clone(),
                ..Default::default()
            }),
            Box::new(ImageServiceCredentials { password: secret.to_owned(), ..Default::default() }),
            Box::new(MetaWriteRequest { key: 10, value: bytes.clone() }),
        ];
        for message in messages {
            let shown = format!("{message:?}");
            assert!(shown.contains("(15 bytes)"), "{shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(!shown.contains("104, 117, 110"), "{shown}");
        }
    }
}
