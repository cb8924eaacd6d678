//! The folder of a mesh on the owner's machine.
//!
//! | file | what it is |
//! |---|---|
//! | `owner.key` | the owner's private key: whoever has it decides who is a member |
//! | `hello.key` | the private half of the network's first hello key; only with the owner who began it |
//! | `network.json` | the signed beginning of the network, changes of owners, and what members were heard to say |
//! | `owner.key.next` | a key that is to take the place of `owner.key`, until a member has heard of it |
//! | `tokens.json` | what was given out: names, addresses and limits, no secrets |
//!
//! All have mode 0600 and are replaced whole. A new folder appears complete or not at all.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ichor_mesh::crypto::{Crypto as _, KEY_LEN, RealCrypto, Secret};
use ichor_mesh::hello::{Acted, HelloPublic};
use ichor_mesh::record::genesis::Genesis;
use ichor_mesh::record::owner::SignedOwnerChange;
use ichor_mesh::record::{Envelope, Kind, NetworkId, RecordError};
use ichor_mesh::roster::owners::{OwnerState, Owners, Standing};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::backup::Files;
use super::mint::owner_key;
use crate::files::{read_bounded, write_private};

/// The file with the owner's key.
pub const KEY: &str = "owner.key";
/// The key that is to take its place.
pub const NEXT_KEY: &str = "owner.key.next";
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
    /// The key in the folder is of somebody who was an owner.
    #[error("the key in {} is of an owner who may not act any more", .0.display())]
    Retired(PathBuf),
}

/// A mesh, as its owner knows it.
#[derive(Debug)]
pub struct Mesh {
    /// Its folder.
    pub path: PathBuf,
    /// How it began.
    pub genesis: Genesis,
    /// That, as it was signed.
    pub signed: Envelope,
    /// The owner's key.
    pub owner: Secret,
    /// The addresses that this owner gives out.
    pub range: Ipv4Net,
    /// The owners, as far as is known here.
    pub owners: Owners,
    /// The changes that they follow from.
    pub changes: Vec<SignedOwnerChange>,
    /// The private half of the first hello key, with the owner who began the network.
    pub first_hello: Option<Secret>,
    /// The newest hello key that is known here.
    pub hello: HelloPublic,
    /// The sum of the tombstones that were known then; 0 before there was any.
    pub tombstones: u64,
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
    /// What its node is called now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed: Option<String>,
}

impl Entry {
    /// The name or pattern of names of its nodes, as they are called now.
    pub fn names_now(&self) -> &str {
        self.renamed.as_deref().unwrap_or(&self.names)
    }
}

impl Book {
    /// The address that a name was given.
    pub fn address_of(&self, name: &str) -> Option<Ipv4Addr> {
        let entry = self.tokens.iter().rev().find(|entry| entry.names_now() == name)?;
        (entry.addresses.prefix_len() == 32).then(|| entry.addresses.addr())
    }

    /// Another name for the node that was called `name`.
    pub fn rename(&mut self, name: &str, new: &str) {
        for entry in self.tokens.iter_mut().filter(|entry| entry.names_now() == name) {
            entry.renamed = Some(new.to_owned());
        }
    }

    /// Who else was given an address of a range.
    pub fn holder(&self, range: &Ipv4Net, but: &str) -> Option<&Entry> {
        self.tokens.iter().find(|entry| {
            entry.names_now() != but && (entry.addresses.contains(range) || range.contains(&entry.addresses))
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
    /// Changes of owners, each as it was signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    owner_changes: Vec<String>,
    /// The newest hello key that is known; without it that of `hello.key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hello: Option<String>,
    /// The sum of all tombstones that were known when it was learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tombstones: Option<String>,
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
    let file = NetworkFile {
        version: 1,
        genesis: STANDARD.encode(signed.bytes()),
        seeds: seeds.to_vec(),
        owner_changes: Vec::new(),
        hello: None,
        tombstones: None,
    };
    create_whole(path, |draft| {
        write_private(&draft.join(KEY), encode(owner).as_bytes())?;
        write_private(&draft.join(HELLO), encode(hello).as_bytes())?;
        write_private(&draft.join(NETWORK), &to_json(&file)?)?;
        write_private(&draft.join(TOKENS), &to_json(&Book::default())?)
    })
}

/// Reads the mesh of a folder and checks what is signed.
///
/// # Errors
///
/// [`FolderError`].
pub fn open(path: &Path) -> Result<Mesh, FolderError> {
    let mesh = read_mesh(path)?;
    match mesh.state().map(|owner| owner.standing) {
        Some(Standing::Active) => Ok(mesh),
        // A rotation that was cut short: the members know the new key.
        Some(_) if path.join(NEXT_KEY).is_file() => {
            let next = path.join(NEXT_KEY);
            let renamed = fs::rename(&next, path.join(KEY));
            renamed.map_err(|source| FolderError::Io { verb: "rename", path: next, source })?;
            let mesh = read_mesh(path)?;
            match mesh.state().map(|owner| owner.standing) {
                Some(Standing::Active) => Ok(mesh),
                _ => Err(FolderError::Retired(path.join(KEY))),
            }
        }
        Some(_) => Err(FolderError::Retired(path.join(KEY))),
        None => Err(FolderError::ForeignKey(path.join(KEY))),
    }
}

fn read_mesh(path: &Path) -> Result<Mesh, FolderError> {
    let damaged = |name: &str| FolderError::Damaged(path.join(name));
    let file = read_network(path)?;
    let (genesis, signed, changes) = file.verify(path)?;
    let owner = read_secret(path, KEY)?;
    let first_hello = path.join(HELLO).is_file().then(|| read_secret(path, HELLO)).transpose()?;
    let learned = file.hello.as_deref().map(|text| decode_array(text).ok_or_else(|| damaged(NETWORK)));
    let of_first = || first_hello.as_ref().map(|secret| RealCrypto.box_public(secret));
    let hello = learned.transpose()?.or_else(of_first).ok_or_else(|| damaged(NETWORK))?;
    let sum = |text: &str| u64::from_str_radix(text, 16).map_err(|_| damaged(NETWORK));
    let tombstones = file.tombstones.as_deref().map(sum).transpose()?.unwrap_or(0);
    let by_id = changes.iter().map(|change| (change.id, change.clone())).collect();
    let owners = Owners::of(&genesis, &by_id);
    let range = owners.get(&owner_key(&owner)).map_or(genesis.range, |owner| owner.owner.range);
    Ok(Mesh {
        path: path.to_owned(),
        genesis,
        signed,
        owner,
        range,
        owners,
        changes,
        first_hello,
        hello: HelloPublic(hello),
        tombstones,
        seeds: file.seeds,
    })
}

impl Mesh {
    /// The identity of the network.
    pub fn network(&self) -> NetworkId {
        NetworkId(self.signed.id().0)
    }

    fn state(&self) -> Option<&OwnerState> {
        self.owners.get(&owner_key(&self.owner))
    }

    /// Writes down what a member said: what the next join strings must have.
    ///
    /// # Errors
    ///
    /// [`FolderError`]: the file says what it said before.
    pub fn learn(&self, acted: &Acted) -> Result<(), FolderError> {
        self.update(|file| {
            file.hello = Some(STANDARD.encode(acted.hello.0));
            file.tombstones = Some(format!("{:016x}", acted.tombstones));
        })
    }

    /// Writes down a change of owners.
    ///
    /// # Errors
    ///
    /// [`FolderError`]: the file says what it said before.
    pub fn note_change(&self, change: &SignedOwnerChange) -> Result<(), FolderError> {
        let text = STANDARD.encode(change.envelope.bytes());
        self.update(|file| {
            if !file.owner_changes.contains(&text) {
                file.owner_changes.push(text);
            }
        })
    }

    fn update(&self, change: impl FnOnce(&mut NetworkFile)) -> Result<(), FolderError> {
        let _lock = lock(&self.path)?;
        let mut file = read_network(&self.path)?;
        change(&mut file);
        write_json(&self.path.join(NETWORK), &file)
    }

    /// What another owner needs to know of the network, with `change`, which makes it one. Nothing in it is a key, but who
    /// has it can ask members: it is for that owner only.
    ///
    /// # Errors
    ///
    /// [`FolderError`].
    pub fn invitation(&self) -> Result<Zeroizing<Vec<u8>>, FolderError> {
        let mut file = read_network(&self.path)?;
        file.hello = Some(STANDARD.encode(self.hello.0));
        to_json(&file).map_err(|source| FolderError::Io { verb: "encode", path: self.path.clone(), source })
    }
}

/// Begins the folder of somebody who is to become an owner: a key, unless there is one. The key.
///
/// # Errors
///
/// [`FolderError`].
pub fn begin_owner(path: &Path) -> Result<Secret, FolderError> {
    if path.join(NETWORK).exists() {
        return Err(FolderError::Exists(path.to_owned()));
    }
    if path.join(KEY).exists() {
        return read_secret(path, KEY);
    }
    let io = |source| FolderError::Io { verb: "write", path: path.join(KEY), source };
    let key = super::mint::secret().map_err(|error| io(io::Error::other(error)))?;
    write_private(&path.join(KEY), encode(&key).as_bytes()).map_err(io)?;
    Ok(key)
}

/// Completes the folder of a new owner with an invitation.
///
/// # Errors
///
/// [`FolderError`]: [`ForeignKey`](FolderError::ForeignKey) when it is for another key.
pub fn accept(path: &Path, invitation: &str) -> Result<Mesh, FolderError> {
    if path.join(NETWORK).exists() {
        return Err(FolderError::Exists(path.to_owned()));
    }
    let key = read_secret(path, KEY)?;
    let file: NetworkFile =
        serde_json::from_str(invitation).map_err(|_| FolderError::Damaged(PathBuf::from("invitation")))?;
    let (genesis, _, changes) = file.verify(path)?;
    let owners = Owners::of(&genesis, &changes.iter().map(|change| (change.id, change.clone())).collect());
    if !owners.is_active(&owner_key(&key)) {
        return Err(FolderError::ForeignKey(path.join(KEY)));
    }
    write_json(&path.join(TOKENS), &Book::default())?;
    // Last: it is what makes the folder one of a mesh.
    write_json(&path.join(NETWORK), &file)?;
    open(path)
}

/// The key that is to take the place of the owner's, made now if there is none.
///
/// # Errors
///
/// [`FolderError`].
pub fn next_key(path: &Path) -> Result<Secret, FolderError> {
    let next = path.join(NEXT_KEY);
    if next.exists() {
        return read_secret(path, NEXT_KEY);
    }
    let io = |source| FolderError::Io { verb: "write", path: next.clone(), source };
    let key = super::mint::secret().map_err(|error| io(io::Error::other(error)))?;
    write_private(&next, encode(&key).as_bytes()).map_err(io)?;
    Ok(key)
}

/// All files of a folder that opens, for a backup.
///
/// # Errors
///
/// [`FolderError`].
pub fn export(path: &Path) -> Result<(Mesh, Files), FolderError> {
    let mesh = open(path)?;
    let _lock = lock(path)?;
    let names = [KEY, HELLO, NETWORK, TOKENS].into_iter().filter(|name| path.join(name).is_file());
    let files = names.map(|name| Ok((name.to_owned(), read(&path.join(name))?)));
    Ok((mesh, files.collect::<Result<_, _>>()?))
}

/// Makes a folder of the files of a backup.
///
/// # Errors
///
/// [`FolderError`]; nothing is left behind then.
pub fn import(path: &Path, files: &Files) -> Result<Mesh, FolderError> {
    create_whole(path, |draft| {
        for (name, text) in
            files.iter().filter(|(name, _)| [KEY, HELLO, NETWORK, TOKENS].contains(&name.as_str()))
        {
            write_private(&draft.join(name), text.as_bytes())?;
        }
        Ok(())
    })?;
    open(path)
}

/// Makes a folder that appears complete or not at all.
fn create_whole(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), FolderError> {
    if path.exists() {
        return Err(FolderError::Exists(path.to_owned()));
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let draft = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
    write(&draft).and_then(|()| fs::rename(&draft, path)).map_err(|source| {
        // What cannot be removed is in nobody's way.
        let _ = fs::remove_dir_all(&draft);
        FolderError::Io { verb: "write", path: path.to_owned(), source }
    })
}

/// Reads a file with an owner's key.
///
/// # Errors
///
/// [`FolderError`].
pub fn read_key(path: &Path) -> Result<Secret, FolderError> {
    decode(read(path)?.trim()).ok_or_else(|| FolderError::Damaged(path.to_owned()))
}

impl NetworkFile {
    fn verify(&self, path: &Path) -> Result<(Genesis, Envelope, Vec<SignedOwnerChange>), FolderError> {
        let damaged = || FolderError::Damaged(path.join(NETWORK));
        let invalid = |source| FolderError::Network { path: path.join(NETWORK), source };
        if self.version != 1 {
            return Err(damaged());
        }
        let bytes = STANDARD.decode(&self.genesis).map_err(|_| damaged())?;
        let (genesis, signed) = Genesis::open(&bytes, &RealCrypto).map_err(invalid)?;
        let network = NetworkId(signed.id().0);
        let changes = self.owner_changes.iter().map(|text| {
            let bytes = STANDARD.decode(text).map_err(|_| damaged())?;
            let envelope = Envelope::open_exactly(&bytes, Kind::OwnerChange, &network, &RealCrypto);
            envelope.and_then(SignedOwnerChange::decode).map_err(invalid)
        });
        let changes = changes.collect::<Result<_, _>>()?;
        Ok((genesis, signed, changes))
    }
}

fn read_network(path: &Path) -> Result<NetworkFile, FolderError> {
    let path = path.join(NETWORK);
    serde_json::from_str(&read(&path)?).map_err(|_| FolderError::Damaged(path))
}

fn read_secret(path: &Path, name: &str) -> Result<Secret, FolderError> {
    read_key(&path.join(name))
}

/// Waits for its turn among the runs of this program. The folder itself is what is locked: its files are replaced with
/// each change.
fn lock(folder: &Path) -> Result<File, FolderError> {
    let locked = File::open(folder).and_then(|folder| folder.lock().map(|()| folder));
    locked.map_err(|source| FolderError::Io { verb: "lock", path: folder.to_owned(), source })
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FolderError> {
    let written = to_json(value).and_then(|text| write_private(path, &text));
    written.map_err(|source| FolderError::Io { verb: "write", path: path.to_owned(), source })
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
        let lock = lock(folder)?;
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
        write_json(&self.path, &self.book)
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
    decode_array(text).map(Zeroizing::new).map(|bytes| Secret::new(*bytes))
}

fn decode_array(text: &str) -> Option<[u8; KEY_LEN]> {
    let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
    bytes.as_slice().try_into().ok()
}
