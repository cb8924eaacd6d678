//! Is a file a static program for a machine? (System V ABI, chapters 4 and 5.)

use std::fmt;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const MAX_PROGRAM_HEADERS: u16 = 256;
const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;
const EXECUTABLE: u16 = 2;
const SHARED: u16 = 3;
const NEEDED: u64 = 1;

/// An architecture that Talos runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    /// x86_64
    Amd64,
    /// aarch64
    Arm64,
}

/// Why a file is not what is needed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfProblem {
    /// Not a 64-bit little-endian ELF file.
    #[error("it is no 64-bit ELF program")]
    NotElf,
    /// Headers that point outside of the file.
    #[error("its headers point outside of the file")]
    Damaged,
    /// A program for another machine.
    #[error("it is a program for another machine (number {found}) than {wanted}")]
    Machine {
        /// Number of the machine in the file.
        found: u16,
        /// What is wanted.
        wanted: Machine,
    },
    /// An object or a core, or a file without code.
    #[error("it is no program that can be started")]
    NotExecutable,
    /// It asks for a loader or libraries, and there are none in the container.
    #[error("it is not static: it asks for {0}")]
    Dynamic(&'static str),
}

impl Machine {
    /// Both, in the order of an image index.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// The name that images and Talos use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The machine of an image's architecture.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|machine| machine.name() == name)
    }

    fn number(self) -> u16 {
        match self {
            Self::Amd64 => 62,
            Self::Arm64 => 183,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Checks that `bytes` are a static program for `machine`.
pub(super) fn check_static(bytes: &[u8], machine: Machine) -> Result<(), ElfProblem> {
    if bytes.len() < HEADER || !bytes.starts_with(b"\x7fELF\x02\x01") {
        return Err(ElfProblem::NotElf);
    }
    let kind = u16_at(bytes, 16)?;
    let found = u16_at(bytes, 18)?;
    if found != machine.number() {
        return Err(ElfProblem::Machine { found, wanted: machine });
    }
    let count = u16_at(bytes, 56)?;
    if !matches!(kind, EXECUTABLE | SHARED) || count == 0 {
        return Err(ElfProblem::NotExecutable);
    }
    if usize::from(u16_at(bytes, 54)?) != PROGRAM_HEADER || count > MAX_PROGRAM_HEADERS {
        return Err(ElfProblem::Damaged);
    }
    let table = index(u64_at(bytes, 32)?)?;
    let mut has_code = false;
    for number in 0..usize::from(count) {
        let at = table.checked_add(number * PROGRAM_HEADER).ok_or(ElfProblem::Damaged)?;
        match u32_at(bytes, at)? {
            INTERPRETER => return Err(ElfProblem::Dynamic("a loader")),
            DYNAMIC => check_dynamic(segment(bytes, at)?)?,
            LOAD => {
                segment(bytes, at)?;
                has_code |= u32_at(bytes, at + 4)? & 1 != 0;
            }
            _ => {}
        }
    }
    if has_code { Ok(()) } else { Err(ElfProblem::NotExecutable) }
}

/// A static program that can be loaded anywhere has a dynamic section too, but one that names no library.
fn check_dynamic(section: &[u8]) -> Result<(), ElfProblem> {
    for entry in section.chunks_exact(16) {
        match u64_at(entry, 0)? {
            0 => break,
            NEEDED => return Err(ElfProblem::Dynamic("libraries")),
            _ => {}
        }
    }
    Ok(())
}

fn segment(bytes: &[u8], header: usize) -> Result<&[u8], ElfProblem> {
    let start = index(u64_at(bytes, header + 8)?)?;
    let end = start.checked_add(index(u64_at(bytes, header + 32)?)?).ok_or(ElfProblem::Damaged)?;
    bytes.get(start..end).ok_or(ElfProblem::Damaged)
}

fn index(value: u64) -> Result<usize, ElfProblem> {
    usize::try_from(value).map_err(|_| ElfProblem::Damaged)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ElfProblem> {
    let end = at.checked_add(N).ok_or(ElfProblem::Damaged)?;
    bytes.get(at..end).and_then(|slice| slice.try_into().ok()).ok_or(ElfProblem::Damaged)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, ElfProblem> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, ElfProblem> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, ElfProblem> {
    field(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with these segments: type, flags, content.
    fn program(machine: u16, kind: u16, segments: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(HEADER, 0);
        bytes[16..18].copy_from_slice(&kind.to_le_bytes());
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&(HEADER as u64).to_le_bytes());
        bytes[54..56].copy_from_slice(&(PROGRAM_HEADER as u16).to_le_bytes());
        bytes[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        let mut offset = HEADER + segments.len() * PROGRAM_HEADER;
        for (kind, flags, content) in segments {
            let mut header = [0; PROGRAM_HEADER];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[4..8].copy_from_slice(&flags.to_le_bytes());
            header[8..16].copy_from_slice(&(offset as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
            bytes.extend(header);
            offset += content.len();
        }
        bytes.extend(segments.iter().flat_map(|(_, _, content)| *content));
        bytes
    }

    #[test]
    fn a_static_program_passes_for_its_own_machine_only() {
        let bytes = program(62, SHARED, &[(LOAD, 5, b"code"), (DYNAMIC, 6, &[0; 16])]);
        assert_eq!(check_static(&bytes, Machine::Amd64), Ok(()));
        let wrong = Err(ElfProblem::Machine { found: 62, wanted: Machine::Arm64 });
        assert_eq!(check_static(&bytes, Machine::Arm64), wrong);
        assert_eq!(check_static(&program(183, EXECUTABLE, &[(LOAD, 5, b"code")]), Machine::Arm64), Ok(()));
    }

    #[test]
    fn a_loader_or_a_library_makes_it_dynamic() {
        let loader = program(62, SHARED, &[(LOAD, 5, b"code"), (INTERPRETER, 4, b"/lib/ld.so\0")]);
        assert_eq!(check_static(&loader, Machine::Amd64), Err(ElfProblem::Dynamic("a loader")));
        let mut needed = [0; 32];
        needed[0] = 1;
        let library = program(62, SHARED, &[(LOAD, 5, b"code"), (DYNAMIC, 6, &needed)]);
        assert_eq!(check_static(&library, Machine::Amd64), Err(ElfProblem::Dynamic("libraries")));
    }

    #[test]
    fn no_prefix_and_no_flipped_byte_of_a_program_makes_it_panic() {
        let bytes = program(62, SHARED, &[(LOAD, 5, b"code"), (DYNAMIC, 6, &[1; 16])]);
        for end in 0..bytes.len() {
            assert!(check_static(&bytes[..end], Machine::Amd64).is_err());
        }
        for at in 0..bytes.len() {
            for value in [0x00, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = check_static(&damaged, Machine::Amd64);
            }
        }
    }

    #[test]
    fn an_object_and_a_program_without_code_are_refused() {
        let object = program(62, 1, &[(LOAD, 5, b"code")]);
        assert_eq!(check_static(&object, Machine::Amd64), Err(ElfProblem::NotExecutable));
        let data = program(62, EXECUTABLE, &[(LOAD, 6, b"data")]);
        assert_eq!(check_static(&data, Machine::Amd64), Err(ElfProblem::NotExecutable));
        assert_eq!(check_static(b"#!/bin/sh\n", Machine::Amd64), Err(ElfProblem::NotElf));
    }
}
