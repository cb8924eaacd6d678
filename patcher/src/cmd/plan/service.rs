//! The daemon's service after its config changed: Talos mounts config files when it starts a service, and does not restart
//! a running one for its first document. So we do, and look whether the daemon has read what was meant for it.

use std::time::Duration;

use serde::Deserialize as _;
use tokio::time::{Instant, sleep};
use yaml_serde::Value;

use crate::api::NodeClient;
use crate::daemon_status;
use crate::exit::Unproven;
use crate::extension;
use crate::image::Digest;
use crate::plan::daemon;

/// The service of the extension: Talos puts `ext-` before the name of the service spec.
const SERVICE: &str = "ext-ichor";
/// How long Talos may take to restart a service whose config changed: it stops within 10 s, and waits 5 s.
const TALOS_RESTARTS: Duration = Duration::from_secs(15);
/// How long the daemon may take to read its config once we have restarted it.
const DAEMON_READS: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(250);

/// Sees to it that the daemon of a node whose machine config went from `before` to `after` runs with the config that it
/// has there, and says how. None when that is the same in both.
///
/// # Errors
///
/// [`Unproven`] when it does not in time, and those of the calls.
pub(crate) async fn follow(
    client: &NodeClient,
    before: &str,
    after: &str,
) -> anyhow::Result<Option<&'static str>> {
    let (before, Some(after)) = (daemon_config(before), daemon_config(after)) else { return Ok(None) };
    if before.as_ref() == Some(&after) {
        return Ok(None);
    }
    if !client.services().await?.iter().any(|service| service.id == SERVICE) {
        return Ok(Some("the extension is not there yet; the daemon's config waits for it"));
    }
    let wanted = Digest::of(after.as_bytes()).hex();
    let patience = if before.is_none() { Duration::ZERO } else { TALOS_RESTARTS };
    if until_read(client, &wanted, patience).await.is_ok() {
        return Ok(Some("the daemon has read its config"));
    }
    client.service_restart(SERVICE).await?;
    match until_read(client, &wanted, DAEMON_READS).await {
        Ok(()) => Ok(Some("the daemon was restarted and has read its config")),
        Err(last) => Err(Unproven {
            what: format!("the daemon of {} does not run with its new config: {last}", client.name()),
            advice: format!("ichorctl -n {} logs {SERVICE}", client.name()),
        }
        .into()),
    }
}

/// The daemon's config file in a machine config.
fn daemon_config(machine_config: &str) -> Option<String> {
    let mut documents =
        yaml_serde::Deserializer::from_str(machine_config).map_while(|it| Value::deserialize(it).ok());
    let document =
        documents.find(|it| it["kind"] == "ExtensionServiceConfig" && it["name"] == extension::NAME)?;
    let files = document.get("configFiles")?.as_sequence()?;
    let file = files.iter().find(|file| file["mountPath"] == daemon::PATH)?;
    file["content"].as_str().map(str::to_owned)
}

/// Waits until the daemon says that it has read the config; else what it said last. Looks at least once.
async fn until_read(client: &NodeClient, wanted: &str, patience: Duration) -> Result<(), String> {
    let end = Instant::now() + patience;
    loop {
        let last = match daemon_status::read(client).await {
            Ok(status) if status.config_sha256.as_deref() == Some(wanted) => return Ok(()),
            Ok(status) => {
                let problem = status.problems.iter().find(|problem| problem.part == "config");
                problem.map_or_else(|| "it runs with another one".to_owned(), |problem| problem.cause.clone())
            }
            // While the service starts there may be no file, or half an answer.
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= end {
            return Err(last);
        }
        sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_config_is_found_among_other_documents_and_files() {
        let with = "machine: {}\n---\nkind: ExtensionServiceConfig\nname: other\n---\nkind: ExtensionServiceConfig\n\
                    name: ichor\nconfigFiles:\n  - mountPath: /x\n    content: a\n  - mountPath: \
                    /usr/local/etc/ichor/ichord.yaml\n    content: |\n      listenPort: 1\n";
        assert_eq!(daemon_config(with).as_deref(), Some("listenPort: 1\n"));
        assert_eq!(daemon_config("machine: {}\n"), None);
        assert_eq!(daemon_config("kind: ExtensionServiceConfig\nname: ichor\n"), None);
    }
}
