//! Kernel images of installers.
#![no_main]

use ichorctl::image::{Digest, installer_contents};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(contents) = installer_contents(Digest::of(data), "amd64", data) {
        assert!(!contents.version.is_empty() && !contents.version.contains('\x1b'));
    }
});
