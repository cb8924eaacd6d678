//! What a machine may refuse, and how to open it.

use std::fs;
use std::io;

use nix::errno::Errno;

use crate::error::LabError;

const TUN: &str = "/dev/net/tun";

/// Makes sure that `/dev/net/tun` can be opened: inside, no capability helps.
pub(crate) fn check_device() -> Result<(), LabError> {
    let refused = |what: String, cure: &str| Err(LabError::Refused { what, cure: cure.to_owned() });
    match fs::OpenOptions::new().read(true).write(true).open(TUN) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => refused(
            format!("{TUN} does not exist"),
            "load the kernel module with `sudo modprobe tun`; in a container pass `--device /dev/net/tun`",
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => refused(
            format!("{TUN} is closed to this user ({error})"),
            "open it with `sudo chmod 0666 /dev/net/tun`, which is what most distributions ship, or run as root",
        ),
        Err(error) => refused(
            format!("{TUN} cannot be opened ({error})"),
            "load the kernel module with `sudo modprobe tun`; in a container pass `--device /dev/net/tun`",
        ),
    }
}

/// A user namespace was refused.
pub(crate) fn of_user_namespace(error: Errno) -> LabError {
    let off = |file: &str| fs::read_to_string(file).is_ok_and(|value| value.trim() == "0");
    let (what, cure) = if off("/proc/sys/kernel/unprivileged_userns_clone") {
        (
            "user namespaces are closed to users (kernel.unprivileged_userns_clone is 0)".to_owned(),
            "sudo sysctl kernel.unprivileged_userns_clone=1, or run as root",
        )
    } else if off("/proc/sys/user/max_user_namespaces") {
        (
            "user namespaces are off (user.max_user_namespaces is 0)".to_owned(),
            "sudo sysctl user.max_user_namespaces=10000, or run as root",
        )
    } else {
        (
            format!("the kernel refuses a user namespace ({error})"),
            "run as root; in a container add `--privileged`, or `--security-opt seccomp=unconfined`",
        )
    };
    LabError::Refused { what, cure: cure.to_owned() }
}

/// The user namespace came, but nothing can be mapped into it.
pub(crate) fn of_mapping(file: &str, error: &io::Error) -> LabError {
    of_apparmor().unwrap_or_else(|| LabError::Refused {
        what: format!("the kernel refuses to write {file} ({error})"),
        cure: "run as root".to_owned(),
    })
}

/// The other namespaces were refused.
pub(crate) fn of_namespaces(error: Errno) -> LabError {
    if let Some(refused) = of_apparmor() {
        return refused;
    }
    let (what, cure) = if error == Errno::ENOSPC {
        (
            "there are too many namespaces".to_owned(),
            "look at /proc/sys/user/max_*_namespaces, and raise the one that is too small",
        )
    } else {
        (
            format!("the kernel refuses network, mount or process namespaces ({error})"),
            "run as root; in a container add `--privileged`, or `--cap-add SYS_ADMIN --cap-add NET_ADMIN`",
        )
    };
    LabError::Refused { what, cure: cure.to_owned() }
}

/// AppArmor may let a user namespace be made and then take its capabilities away.
fn of_apparmor() -> Option<LabError> {
    let setting = fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").ok()?;
    (setting.trim() == "1" && !rustix::process::geteuid().is_root()).then(|| LabError::Refused {
        what: "AppArmor takes the capabilities away from user namespaces".to_owned(),
        cure: "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run as root".to_owned(),
    })
}

/// The first process of the new namespace could not be started.
pub(crate) fn of_process(error: &io::Error) -> LabError {
    LabError::Refused {
        what: format!("no process can be started in a new process namespace ({error})"),
        cure: "raise the limit of processes (`ulimit -u`)".to_owned(),
    }
}

/// A mount was refused.
pub(crate) fn of_mount(what: &str, error: &io::Error) -> LabError {
    LabError::Refused {
        what: format!("the kernel refuses to mount {what} ({error})"),
        cure:
            "in a container add `--security-opt systempaths=unconfined --security-opt apparmor=unconfined`, \
               or `--privileged`"
                .to_owned(),
    }
}
