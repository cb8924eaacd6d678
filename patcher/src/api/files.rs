//! Files of a node, and the kubeconfig.

use std::io::{self, Read};

use flate2::read::GzDecoder;
use ichor_proto::talos::common::Data;
use ichor_proto::talos::machine::ReadRequest;
use zeroize::Zeroizing;

use super::call::machine_service;
use super::service::SILENCE;
use super::{ApiError, NodeClient, NodeStream};

/// A kubeconfig has a few kilobytes; what is larger is something else.
const MAX_KUBECONFIG_BYTES: u64 = 1 << 20;

/// A kubeconfig that did not arrive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubeconfigError {
    /// The call failed.
    #[error("failed to get the kubeconfig")]
    Api(#[from] ApiError),
    /// The archive cannot be read.
    #[error("the archive with the kubeconfig is damaged")]
    Archive(#[source] io::Error),
    /// The archive has no such file.
    #[error("the archive has no kubeconfig in it")]
    Missing,
}

impl NodeClient {
    /// One regular file.
    ///
    /// # Errors
    ///
    /// Those of every call.
    pub async fn read(&self, path: &str) -> Result<NodeStream<Data>, ApiError> {
        let message = ReadRequest { path: path.to_owned() };
        self.stream("Read", message, Some(self.deadline), Some(SILENCE), |channel, request| async move {
            machine_service(channel).read(request).await
        })
        .await
    }

    /// The admin kubeconfig of the cluster, from a control plane node.
    ///
    /// # Errors
    ///
    /// Those of every call, and those of unpacking the archive that it comes in.
    pub async fn kubeconfig(&self) -> Result<Zeroizing<String>, KubeconfigError> {
        let mut stream = self
            .stream("Kubeconfig", (), Some(self.deadline), Some(SILENCE), |channel, request| async move {
                machine_service(channel).kubeconfig(request).await
            })
            .await?;
        let mut archive = Zeroizing::new(Vec::new());
        while let Some(data) = stream.next().await? {
            stream.check(&data)?;
            if archive.len() as u64 + data.bytes.len() as u64 > MAX_KUBECONFIG_BYTES {
                return Err(KubeconfigError::Archive(io::ErrorKind::FileTooLarge.into()));
            }
            archive.extend_from_slice(&data.bytes);
        }
        unpack(&archive)
    }
}

impl NodeStream<Data> {
    /// The error that a piece of data carries in place of data, from proxies that report it there.
    ///
    /// # Errors
    ///
    /// That error.
    pub fn check(&self, data: &Data) -> Result<(), ApiError> {
        match &data.metadata {
            Some(metadata) => self.node().check_metadata(self.call(), metadata),
            None => Ok(()),
        }
    }
}

/// Takes the file `kubeconfig` out of a tar.gz.
fn unpack(archive: &[u8]) -> Result<Zeroizing<String>, KubeconfigError> {
    let mut archive = tar::Archive::new(GzDecoder::new(archive).take(2 * MAX_KUBECONFIG_BYTES));
    for entry in archive.entries().map_err(KubeconfigError::Archive)? {
        let entry = entry.map_err(KubeconfigError::Archive)?;
        let is_it = entry.path().is_ok_and(|path| path.file_name().is_some_and(|name| name == "kubeconfig"));
        if is_it && entry.header().entry_type().is_file() {
            return crate::files::read_to_limit(entry, MAX_KUBECONFIG_BYTES)
                .map(Zeroizing::new)
                .map_err(KubeconfigError::Archive);
        }
    }
    Err(KubeconfigError::Missing)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn the_kubeconfig_is_taken_out_of_its_archive() {
        assert_eq!(*unpack(&pack("kubeconfig", b"apiVersion: v1\n")).unwrap(), "apiVersion: v1\n");
    }

    #[test]
    fn other_archives_are_refused() {
        assert!(matches!(unpack(&pack("else", b"x")), Err(KubeconfigError::Missing)));
        assert!(matches!(unpack(b"no archive"), Err(KubeconfigError::Archive(_))));
        assert!(matches!(unpack(&pack("kubeconfig", &[0xff])), Err(KubeconfigError::Archive(_))));
        let huge = vec![0; 4 << 20];
        assert!(matches!(unpack(&pack("kubeconfig", &huge)), Err(KubeconfigError::Archive(_))));
        let whole = pack("kubeconfig", b"apiVersion: v1\n");
        for length in 0..whole.len() {
            // Cut anywhere it is refused, or complete but for the archive's padding.
            if let Ok(text) = unpack(&whole[..length]) {
                assert_eq!(*text, "apiVersion: v1\n");
            }
        }
    }

    fn pack(name: &str, content: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        builder.append_data(&mut header, name, content).unwrap();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&builder.into_inner().unwrap()).unwrap();
        encoder.finish().unwrap()
    }
}
