//! Databases of etcd.
#![no_main]

use ichorctl::snapshot::read_database;
use libfuzzer_sys::fuzz_target;

/// FNV-1a, as bbolt has it in its meta pages.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fuzz_target!(|data: &[u8]| {
    // A fuzzer does not find checksums: the meta pages get right ones, so that what is behind them is reached.
    let mut database = data.to_vec();
    for start in [16, 1024 + 16, 4096 + 16] {
        if let Some(meta) = database.get_mut(start..start + 64) {
            meta[..4].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
            meta[4..8].copy_from_slice(&2_u32.to_le_bytes());
            let sum = fnv1a(&meta[..56]);
            meta[56..].copy_from_slice(&sum.to_le_bytes());
        }
    }
    if let Ok(contents) = read_database(&database) {
        assert!(contents.database_bytes <= database.len() as u64);
        // A key has an element of 16 bytes.
        assert!(contents.total_keys <= database.len() as u64 / 16);
        assert!(contents.revisions <= contents.total_keys);
    }
});
