//! The other programs in this one: a lab is made of processes of the program that asked for it.
//!
//! A program that wants labs calls [`reenter`] before anything else, and above all before it starts a thread:
//! only a process with a single thread can make itself a user namespace.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::talos::model::{ConfigRules, PlainRules};
use crate::{dial, sandbox, supervisor, traffic};

/// The first argument that makes a program one of ours.
pub(crate) const LAB: &str = "@ichor-lab";
/// The first argument that makes a program ichord.
pub(crate) const DAEMON: &str = "@ichord";

pub(crate) const STAGE: &str = "stage";
pub(crate) const SUPERVISE: &str = "supervise";
pub(crate) const TRAFFIC: &str = "traffic";
pub(crate) const DIAL: &str = "dial";

/// Becomes what `args` ask for if that is a part of a lab or ichord, and returns how it ended; `None` if this
/// process is what it seems to be. `args` are those of the process, its name first.
///
/// By the names `ichord` and `ichord-tunnel`, for example of a symbolic link, the program is ichord too.
pub fn reenter(args: &[OsString]) -> Option<ExitCode> {
    reenter_with(args, Arc::new(PlainRules))
}

/// The same as [`reenter`], with simulated Talos nodes that take configs by `rules`.
pub fn reenter_with(args: &[OsString], rules: Arc<dyn ConfigRules>) -> Option<ExitCode> {
    let name = args.first().and_then(|program| Path::new(program).file_name()).unwrap_or_default();
    if name == "ichord" || name == ichord::cli::TUNNEL_NAME {
        // The daemon starts itself again, and must then find itself in this program.
        if std::env::var_os(ichord::cli::REENTER_VARIABLE).is_none() {
            return Some(again_as_daemon(name, &args[1..]));
        }
        return Some(ichord::cli::run(args.to_vec()));
    }
    if name == dial::SSH {
        return Some(dial::ssh(&args[1..]));
    }
    let mut rest = args.iter().skip(1);
    let first = rest.next()?;
    if first == DAEMON {
        let args = [OsString::from("ichord")].into_iter().chain(rest.cloned()).collect();
        return Some(ichord::cli::run(args));
    }
    if first != LAB {
        return None;
    }
    let part = rest.next().and_then(|part| part.to_str()).unwrap_or_default();
    let rest: Vec<OsString> = rest.cloned().collect();
    Some(match part {
        STAGE => sandbox::stage::main(rest.first().map(Path::new)),
        SUPERVISE => supervisor::main(rules),
        DIAL => dial::main(&rest),
        TRAFFIC => traffic::main(&rest),
        _ => ExitCode::from(2),
    })
}

/// Replaces this process by itself with the variable that leads the daemon back here.
fn again_as_daemon(name: &OsStr, args: &[OsString]) -> ExitCode {
    use std::os::unix::process::CommandExt as _;
    let mut command = std::process::Command::new("/proc/self/exe");
    let _error = command.arg0(name).args(args).env(ichord::cli::REENTER_VARIABLE, DAEMON).exec();
    ExitCode::FAILURE
}
