//! The only place that draws random bytes.

use zeroize::Zeroizing;

/// 32 bytes from the kernel. Blocks until its generator is seeded, which at boot is before any service starts.
///
/// # Panics
/// If the kernel has no `getrandom` (before 3.17): nothing secure can be done then.
pub fn seed() -> [u8; 32] {
    let mut bytes = [0; 32];
    fill(&mut bytes);
    bytes
}

/// A fresh private key.
pub fn secret_key() -> ichor_mesh::key::SecretKey {
    let bytes = Zeroizing::new(seed());
    ichor_mesh::key::SecretKey::from_random(*bytes)
}

fn fill(mut rest: &mut [u8]) {
    while !rest.is_empty() {
        match rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(filled) => rest = &mut rest[filled..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel gives no random bytes: {error}"),
        }
    }
}
