//! Where the files of an extension may be, line by line of Talos.
//!
//! Neither the imager nor the node looks at this: a file over one of the system is built in and hides it. The
//! lists are those of the official validator (Talos: pkg/machinery/extensions).

use super::tree::{Entry, Kind, Tree};
use super::{Fault, ROOTFS, Rule};
use crate::patch::TalosLine;

/// Prefixes, with the first Talos line that has them.
const ALLOWED: &[(&str, TalosLine)] = &[
    ("/etc/cri/conf.d/", TalosLine::V1_11),
    ("/etc/ld.so.cache", TalosLine::V1_13),
    ("/etc/ld.so.conf", TalosLine::V1_13),
    ("/etc/vulkan/", TalosLine::V1_11),
    ("/usr/bin/ldconfig", TalosLine::V1_11),
    ("/usr/bin/nvidia-cdi-hook", TalosLine::V1_13),
    ("/usr/bin/nvidia-ctk", TalosLine::V1_13),
    ("/usr/bin/nvidia-modprobe", TalosLine::V1_13),
    ("/usr/bin/nvidia-pcc", TalosLine::V1_13),
    ("/usr/bin/nvidia-smi", TalosLine::V1_13),
    ("/usr/bin/nvme", TalosLine::V1_13),
    ("/usr/lib/firmware/", TalosLine::V1_11),
    ("/usr/lib/ld-linux-aarch64.so.1", TalosLine::V1_12),
    ("/usr/lib/ld-linux-x86-64.so.2", TalosLine::V1_11),
    ("/usr/lib/modules/", TalosLine::V1_11),
    ("/usr/lib/udev/rules.d/", TalosLine::V1_11),
    ("/usr/local/", TalosLine::V1_11),
    ("/usr/share/egl/", TalosLine::V1_11),
    ("/usr/share/glvnd/", TalosLine::V1_11),
];

/// Directories that are links into /usr since Talos 1.10.
const MERGED: &[&str] = &["/bin/", "/lib/", "/lib64/", "/sbin/"];

/// What is wrong with the entries below `rootfs`.
pub(super) fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, entry) in tree.iter() {
        check_entry(path, entry, &mut faults);
        if let Some(inner) = path.strip_prefix(ROOTFS).filter(|inner| inner.starts_with('/')) {
            check_place(path, inner, entry, &mut faults);
        }
    }
    faults
}

fn check_entry(path: &str, entry: &Entry, faults: &mut Vec<Fault>) {
    let is_link = matches!(entry.kind, Kind::Symlink(_));
    if let Kind::Special(name) = entry.kind {
        let detail =
            format!("it is {name}, and only directories, regular files and symbolic links may be there");
        faults.push(Fault::new(path, Rule::FileType, detail));
    }
    if entry.mode & 0o002 != 0 && !is_link {
        faults.push(Fault::new(path, Rule::Mode, format!("mode {:04o}: everybody may write it", entry.mode)));
    }
    if entry.mode & 0o6000 != 0 {
        let detail = format!(
            "mode {:04o}: set-uid bits have no effect, the container has no new privileges",
            entry.mode
        );
        faults.push(Fault::new(path, Rule::Mode, detail));
    }
    if (entry.uid, entry.gid) != (0, 0) {
        let detail = format!(
            "it belongs to {}:{}, and becomes root's when the boot asset is made",
            entry.uid, entry.gid
        );
        faults.push(Fault::new(path, Rule::Owner, detail));
    }
    if entry.has_xattrs {
        let detail =
            "extended attributes, file capabilities among them, are lost when the boot asset is made";
        faults.push(Fault::new(path, Rule::Xattr, detail));
    }
}

fn check_place(path: &str, inner: &str, entry: &Entry, faults: &mut Vec<Fault>) {
    if let Kind::Symlink(target) = &entry.kind
        && climbs_out(inner, target)
    {
        faults.push(Fault::new(path, Rule::Symlink, format!("it points to {target:?}, above the root")));
    }
    if entry.kind == Kind::Directory {
        return;
    }
    let since = ALLOWED.iter().find(|(prefix, _)| inner.starts_with(prefix)).map(|(_, line)| *line);
    let refusing: Vec<TalosLine> =
        TalosLine::ALL.into_iter().filter(|line| since.is_none_or(|since| *line < since)).collect();
    if refusing.is_empty() {
        return;
    }
    let detail = match MERGED.iter().any(|prefix| inner.starts_with(prefix)) {
        true => format!("{inner} is below a link into /usr, which it would replace"),
        false => format!("{inner} is at a place where extensions may have no files"),
    };
    faults.push(Fault::new(path, Rule::PathNotAllowed, detail).only(refusing));
}

/// True when a relative target leads above the root. An absolute one starts there.
fn climbs_out(link: &str, target: &str) -> bool {
    let mut depth = match target.starts_with('/') {
        true => 0,
        false => link.trim_start_matches('/').matches('/').count() as i64,
    };
    target.split('/').any(|part| {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        depth < 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str) -> Vec<Fault> {
        let mut tree = Tree::default();
        tree.insert(path, Entry::file(0o644, Vec::new())).unwrap();
        check(&tree)
    }

    #[test]
    fn what_newer_lines_allow_is_a_fault_for_older_ones() {
        let found = faults("rootfs/usr/lib/ld-linux-aarch64.so.1");
        assert_eq!(found[0].talos, [TalosLine::V1_11]);
        assert_eq!(faults("rootfs/usr/bin/nvme")[0].talos, [TalosLine::V1_11, TalosLine::V1_12]);
        assert_eq!(faults("rootfs/usr/bin/ichord")[0].talos, TalosLine::ALL);
        assert_eq!(faults("rootfs/usr/local/bin/ichord"), []);
    }

    #[test]
    fn a_namesake_of_an_allowed_directory_is_not_allowed() {
        assert_eq!(faults("rootfs/usr/localhost")[0].rule, Rule::PathNotAllowed);
        assert_eq!(faults("rootfs/usr/local")[0].rule, Rule::PathNotAllowed);
    }

    #[test]
    fn links_may_point_anywhere_below_the_root() {
        assert!(climbs_out("/usr/local/x", "../../../etc"));
        assert!(!climbs_out("/usr/local/x", "../../etc"));
        assert!(!climbs_out("/usr/local/x", "/etc"));
        assert!(climbs_out("/usr/local/x", "/../etc"));
    }
}
