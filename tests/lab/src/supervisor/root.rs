//! The file system of the sandbox and of its nodes.
//!
//! A node sees the files of the machine, except that `/run`, `/etc` and `/var/lib` are its own, in memory. In
//! the latter two, links lead to everything that the machine has there, so that programs find what they need.

use std::ffi::CStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change};

use crate::error::{Attempt as _, LabError};
use crate::sandbox::refusal;

/// Where a node sees the machine's version of what it has for itself.
const MACHINE: &str = "/run/ichor-lab/machine";
/// Where a node sees the program that carries the lab: the one place that is certainly not covered.
const PROGRAM: &str = "/run/ichor-lab/program";
/// Links to it by the names that it answers to; the first place where programs of a node are looked for.
pub(crate) const COMMANDS: &str = "/run/ichor-lab/bin";
/// The log of a node's ichord.
pub(crate) const LOG: &str = "/run/ichord.log";
/// Bounds what a node can write: logs of a lab that runs for weeks must not fill the machine's memory.
const SIZE: &CStr = c"size=64m,mode=0755";

/// Makes the sandbox see its own processes, and keeps its mounts to itself.
pub(crate) fn isolate() -> Result<(), LabError> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags).map_err(|error| refusal::of_mount("privately", &error.into()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None::<&CStr>)
        .map_err(|error| refusal::of_mount("/proc", &error.into()))
}

/// Gives the calling thread, which has a mount namespace of its own, the files of a node.
pub(crate) fn furnish() -> Result<(), LabError> {
    let program = std::env::current_exe().attempt(|| "find our own executable".to_owned())?;
    // Opened now: its place may be covered in a moment.
    let program = fs::File::open(&program).attempt(|| format!("open {}", program.display()))?;
    tmpfs("/run")?;
    // Where it is not a link to /run already.
    if fs::symlink_metadata("/var/run").is_ok_and(|metadata| metadata.is_dir()) {
        mount_bind_recursive("/run", "/var/run").attempt(|| "mount /var/run".to_owned())?;
    }
    for path in [Path::new("/etc"), Path::new("/var/lib")] {
        let behind = Path::new(MACHINE).join(path.strip_prefix("/").unwrap_or(path));
        make_directory(&behind, 0o755)?;
        mount_bind_recursive(path, &behind).attempt(|| format!("mount {}", behind.display()))?;
        tmpfs(path)?;
        link_all(&behind, path).attempt(|| format!("fill {}", path.display()))?;
    }
    fs::write(PROGRAM, []).attempt(|| format!("make {PROGRAM}"))?;
    let open = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&program));
    rustix::mount::mount_bind(open, PROGRAM).attempt(|| format!("mount {PROGRAM}"))?;
    make_directory(Path::new(COMMANDS), 0o755)?;
    for name in ["ichord", ichord::cli::TUNNEL_NAME, "ichorctl"] {
        let link = Path::new(COMMANDS).join(name);
        std::os::unix::fs::symlink(PROGRAM, &link).attempt(|| format!("make {}", link.display()))?;
    }
    // Names of links in /sys are those of the namespace that mounted it. Nothing of ours looks there.
    let _refused = mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None::<&CStr>);
    make_directory(Path::new("/etc/ichor"), 0o755)?;
    // The daemon makes it too; a watch on it may begin earlier.
    make_directory(Path::new(ichord::status::RUNTIME_DIRECTORY), 0o755)
}

/// The program that carries the lab, as a node sees it.
pub(crate) fn program() -> &'static Path {
    Path::new(PROGRAM)
}

/// Writes a file of the node in one go: whoever reads it sees the old or the new content.
pub(crate) fn write(path: &Path, mode: u32, content: &str) -> Result<(), LabError> {
    let what = || format!("write {}", path.display());
    if let Some(directory) = path.parent() {
        make_directory(directory, 0o755)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    fs::write(&temporary, content).attempt(what)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)).attempt(what)?;
    fs::rename(&temporary, path).attempt(what)
}

fn tmpfs(target: impl AsRef<Path>) -> Result<(), LabError> {
    let target = target.as_ref();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", target, "tmpfs", flags, SIZE)
        .map_err(|error| refusal::of_mount(&format!("a tmpfs on {}", target.display()), &error.into()))
}

fn make_directory(path: &Path, mode: u32) -> Result<(), LabError> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.attempt(|| format!("make the directory {}", path.display()))
}

/// Makes in `to` a link for each entry of `behind`. Links are copied.
fn link_all(behind: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(behind)? {
        let entry = entry?;
        let name = entry.file_name();
        // What the node has for itself.
        if ["hosts", "hostname", "ichor", "wireguard"].iter().any(|own| name == *own) {
            continue;
        }
        let target =
            if entry.file_type()?.is_symlink() { fs::read_link(entry.path())? } else { entry.path() };
        std::os::unix::fs::symlink(target, to.join(&name))?;
    }
    Ok(())
}
