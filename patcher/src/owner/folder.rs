//! The folder of a mesh on the owner's machine.
//!
//! | file | what it is |
//! |---|---|
//! | `owner.key` | the owner's private key: whoever has it decides who is a member |
//! | `hello.key` | the private half of the network's first hello key |
//! | `network.json` | the signed beginning of the network, and where members may be |
//! | `tokens.json` | what was given out: names, addresses and limits, no secrets |
//!
//! All have mode 0600 and are replaced whole. A new folder appears complete or not at all.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ichor_mesh::crypto::{KEY_LEN, RealCrypto, Secret};
use ichor_mesh::record::genesis::Genesis;
use ichor_mesh::record::{Envelope, RecordError};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::mint::owner_key;
use crate::files::{read_bounded, write_private};

const KEY: &str = "owner.key";
const HELLO: &str = "hello.key";
const NETWORK: &str = "network.json";
const TOKENS: &str = "tokens.json";
/// Longest file that is read: some ten thousand tokens.
const MAX_LEN: u64 = 8 << 20;

/// A folder that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// There is one already.
    #[error("there is a mesh in {} already", .0.display())]
    Exists(PathBuf),
    /// The file system.
    #[error("failed to {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file is damaged, or of another version.
    #[error("{} is damaged, or was written by another version", .0.display())]
    Damaged(PathBuf),
    /// A signature is wrong.
    #[error("{} does not hold a valid network", path.display())]
    Network {
        /// The file.
        path: PathBuf,
        /// Why.
        source: RecordError,
    },
    /// The key in the folder is of no owner.
    #[error("the key in {} is of no owner of the network beside it", .0.display())]
    ForeignKey(PathBuf),
}

/// A mesh, as its owner knows it.
#[derive(Debug)]
pub struct Mesh {
    /// How it began.
    pub genesis: Genesis,
    /// That, as it was signed.
    pub signed: Envelope,
    /// The owner's key.
    pub owner: Secret,
    /// The addresses that this owner gives out.
    pub range: Ipv4Net,
    /// The private half of the first hello key.
    pub hello: Secret,
    /// Where members may be.
    pub seeds: Vec<SocketAddr>,
}

/// What was given out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Book {
    /// The highest serial that was used.
    pub serial: u64,
    /// Every token, oldest first.
    pub tokens: Vec<Entry>,
}

/// A token that was given out. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// The id of its grant.
    pub id: String,
    /// The name or pattern of names.
    pub names: String,
    /// The role.
    pub role: String,
    /// The site; empty for nowhere special.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub site: String,
    /// The addresses.
    pub addresses: Ipv4Net,
    /// The permitted routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<IpNet>,
    /// How many members it may make.
    pub uses: u16,
    /// Seconds since the Unix epoch when it was made.
    pub minted: u64,
    /// Seconds since the Unix epoch after which nobody is admitted with it.
    pub not_after: u64,
    /// Seconds after which its members are forgotten when nobody hears of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<u64>,
    /// The incarnation that it may replace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

impl Book {
    /// The address that a name was given.
    pub fn address_of(&self, name: &str) -> Option<Ipv4Addr> {
        let entry = self.tokens.iter().rev().find(|entry| entry.names == name)?;
        (entry.addresses.prefix_len() == 32).then(|| entry.addresses.addr())
    }

    /// Who else was given an address of a range.
    pub fn holder(&self, range: &Ipv4Net, but: &str) -> Option<&Entry> {
        self.tokens.iter().find(|entry| {
            entry.names != but && (entry.addresses.contains(range) || range.contains(&entry.addresses))
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NetworkFile {
    version: u32,
    genesis: String,
    #[serde(default)]
    seeds: Vec<SocketAddr>,
}

/// Where the folder of a mesh is unless the user says otherwise: in the configuration folder of the user.
pub fn default_path(mesh: &str) -> Option<PathBuf> {
    Some(base()?.join(mesh))
}

/// The folders of all meshes in the usual place.
pub fn known() -> Vec<PathBuf> {
    let entries = base().and_then(|base| fs::read_dir(base).ok()).into_iter().flatten();
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|it| it.join(NETWORK).is_file()).collect();
    found.sort();
    found
}

fn base() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    Some(set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?.join("ichor"))
}

/// Writes the folder of a new mesh.
///
/// # Errors
///
/// [`FolderError`]; nothing is left behind then.
pub fn create(
    path: &Path,
    signed: &Envelope,
    owner: &Secret,
    hello: &Secret,
    seeds: &[SocketAddr],
) -> Result<(), FolderError> {
    if path.exists() {
        return Err(FolderError::Exists(path.to_owned()));
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let draft = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let file = NetworkFile { version: 1, genesis: STANDARD.encode(signed.bytes()), seeds: seeds.to_vec() };
    let write = || -> io::Result<()> {
        write_private(&draft.join(KEY), encode(owner).as_bytes())?;
        write_private(&draft.join(HELLO), encode(hello).as_bytes())?;
        write_private(&draft.join(NETWORK), &to_json(&file)?)?;
        write_private(&draft.join(TOKENS), &to_json(&Book::default())?)?;
        fs::rename(&draft, path)
    };
    write().map_err(|source| {
        // What cannot be removed is in nobody's way.
        let _ = fs::remove_dir_all(&draft);
        FolderError::Io { verb: "write", path: path.to_owned(), source }
    })
}

/// Reads the mesh of a folder and checks what is signed.
///
/// # Errors
///
/// [`FolderError`].
pub fn open(path: &Path) -> Result<Mesh, FolderError> {
    let damaged = |name: &str| FolderError::Damaged(path.join(name));
    let file: NetworkFile =
        serde_json::from_str(&read(&path.join(NETWORK))?).map_err(|_| damaged(NETWORK))?;
    if file.version != 1 {
        return Err(damaged(NETWORK));
    }
    let bytes = STANDARD.decode(&file.genesis).map_err(|_| damaged(NETWORK))?;
    let network = |source| FolderError::Network { path: path.join(NETWORK), source };
    let (genesis, signed) = Genesis::open(&bytes, &RealCrypto).map_err(network)?;
    let secret = |name| decode(read(&path.join(name))?.trim()).ok_or_else(|| damaged(name));
    let (owner, hello) = (secret(KEY)?, secret(HELLO)?);
    let key = owner_key(&owner);
    let part = genesis.owners.iter().find(|owner| owner.key == key);
    let range = part.ok_or_else(|| FolderError::ForeignKey(path.join(KEY)))?.range;
    Ok(Mesh { genesis, signed, owner, range, hello, seeds: file.seeds })
}

/// What was given out, locked against other runs of this program until it goes.
#[derive(Debug)]
pub struct OpenBook {
    path: PathBuf,
    /// What is in it.
    pub book: Book,
    /// The lock ends when it is closed.
    _lock: File,
}

impl OpenBook {
    /// Waits for its turn and reads the book.
    ///
    /// # Errors
    ///
    /// [`FolderError`].
    pub fn open(folder: &Path) -> Result<Self, FolderError> {
        // The folder itself is what is locked: the file is replaced with each change.
        let locked = File::open(folder).and_then(|folder| folder.lock().map(|()| folder));
        let lock =
            locked.map_err(|source| FolderError::Io { verb: "lock", path: folder.to_owned(), source })?;
        let path = folder.join(TOKENS);
        let book = serde_json::from_str(&read(&path)?).map_err(|_| FolderError::Damaged(path.clone()))?;
        Ok(Self { path, book, _lock: lock })
    }

    /// Writes it back.
    ///
    /// # Errors
    ///
    /// [`FolderError::Io`]: the file says what it said before.
    pub fn save(&self) -> Result<(), FolderError> {
        let written = to_json(&self.book).and_then(|text| write_private(&self.path, &text));
        written.map_err(|source| FolderError::Io { verb: "write", path: self.path.clone(), source })
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, FolderError> {
    let text = read_bounded(path, MAX_LEN);
    text.map(Zeroizing::new).map_err(|source| FolderError::Io { verb: "read", path: path.to_owned(), source })
}

fn to_json(value: &impl Serialize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(serde_json::to_vec_pretty(value)?);
    text.push(b'\n');
    Ok(text)
}

fn encode(secret: &Secret) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    STANDARD.encode_string(secret.expose(), &mut text);
    text.push('\n');
    text
}

fn decode(text: &str) -> Option<Secret> {
    let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
    let bytes: Zeroizing<[u8; KEY_LEN]> = Zeroizing::new(bytes.as_slice().try_into().ok()?);
    Some(Secret::new(*bytes))
}
