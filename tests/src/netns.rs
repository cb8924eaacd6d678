//! Tests that need namespaces: each makes a lab of its own, or says why it cannot.

use std::io::Write as _;

use ichor_lab::{Builder, Lab, LabError};

/// Set where such tests must run: then one that cannot has failed.
pub const REQUIRE_VARIABLE: &str = "ICHOR_REQUIRE_NETNS";

/// Runs `test` with the lab that `builder` describes. `agent` is the program that it is made of.
///
/// # Panics
/// When the test fails, or the lab cannot be made though it must.
pub fn in_lab(agent: &str, builder: Builder, test: impl AsyncFnOnce(&Lab) -> Result<(), LabError>) {
    block_on(async {
        let Some(lab) = up(agent, builder).await else { return };
        if let Err(error) = test(&lab).await {
            show_logs(&lab).await;
            panic!("{error}");
        }
        if let Err(error) = lab.down().await {
            panic!("{error}");
        }
    });
}

/// Runs `work` on a runtime of its own.
///
/// # Panics
/// When there is none to be had.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap_or_else(|error| panic!("no runtime: {error}")).block_on(work)
}

/// Makes the lab that `builder` describes; `None`, which is said, where this machine does not let us.
///
/// # Panics
/// When the lab cannot be made though it must.
pub async fn up(agent: &str, builder: Builder) -> Option<Lab> {
    match builder.program(agent).up().await {
        Ok(lab) => Some(lab),
        Err(error @ LabError::Refused { .. }) => {
            assert!(std::env::var_os(REQUIRE_VARIABLE).is_none(), "{REQUIRE_VARIABLE} is set, but {error}");
            skip(&error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Says why a test does not run, also where the output of tests that pass is not shown.
pub fn skip(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // Nobody may be reading.
    let _ = writeln!(std::io::stderr().lock(), "{name} skipped: {why}");
}

/// What the daemons said, for whoever has to find out what went wrong.
async fn show_logs(lab: &Lab) {
    let Ok(view) = lab.view().await else { return };
    for node in view.nodes.iter().filter(|node| node.member) {
        if let Ok(log) = lab.node(&node.name).log().await {
            let _ = writeln!(std::io::stderr().lock(), "--- ichord of {} ---\n{log}", node.name);
        }
    }
}
