//! A file that is uploaded, of which only its hashes are kept.

use ichor_proto::talos::common::Data;
use ring::digest::{Context, SHA256};
use tonic::{Status, Streaming};

use crate::talos::model::Upload;

const HASH: usize = 32;

/// Reads a file to its end.
pub(super) async fn read(mut stream: Streaming<Data>) -> Result<Upload, Status> {
    let mut hashes = Hashes::new();
    while let Some(data) = stream.message().await? {
        hashes.update(&data.bytes);
    }
    Ok(hashes.finish())
}

struct Hashes {
    body: Context,
    /// The end of the file, which may be a hash and is not in `body`.
    tail: Vec<u8>,
}

impl Hashes {
    fn new() -> Self {
        Self { body: Context::new(&SHA256), tail: Vec::new() }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        let older = self.tail.len().saturating_sub(HASH);
        self.body.update(&self.tail[..older]);
        self.tail.drain(..older);
    }

    fn finish(self) -> Upload {
        let hash = |context: Context| context.finish().as_ref().try_into().unwrap_or_default();
        let mut whole = self.body.clone();
        whole.update(&self.tail);
        let trailer = self.tail.try_into().unwrap_or_default();
        Upload { body: hash(self.body), whole: hash(whole), trailer }
    }
}

#[cfg(test)]
mod tests {
    use ring::digest::digest;

    use super::*;

    #[test]
    fn pieces_of_any_size_come_to_the_same_hashes() {
        let bytes: Vec<u8> = (0..1000_u32).map(|n| (n % 251) as u8).collect();
        for piece in [1, 7, 32, 33, 1000] {
            let mut hashes = Hashes::new();
            bytes.chunks(piece).for_each(|bytes| hashes.update(bytes));
            let upload = hashes.finish();
            assert_eq!(upload.body, digest(&SHA256, &bytes[..968]).as_ref());
            assert_eq!(upload.whole, digest(&SHA256, &bytes).as_ref());
            assert_eq!(upload.trailer, bytes[968..]);
        }
    }
}
