//! The operator's tool of the Ichor mesh.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A lab's processes are this program again.
    #[cfg(feature = "lab")]
    {
        let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
        let rules = std::sync::Arc::new(ichorctl::lab::TalosRules);
        if let Some(code) = ichor_lab::reenter_with(&args, rules) {
            return code;
        }
    }
    ichorctl::cli::main()
}
