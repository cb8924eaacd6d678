//! `mesh hosts`: the names of all members where no DNS is needed, as machine configs or files hold them.

use clap::{Args, ValueEnum};

use super::connection::Connection;
use super::member::{Row, rows};
use super::seen::Seen;
use crate::daemon_status::DaemonStatus;
use crate::exit::{Exit, UsageError};
use crate::output::{Format, Output};

/// Flags of `mesh hosts`.
#[derive(Args, Debug)]
pub(super) struct Hosts {
    #[command(flatten)]
    seen: Seen,
    /// What it is for
    #[arg(long, value_enum, default_value_t)]
    form: Form,
    /// Also NAME.ZONE for each member
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
}

/// What the entries are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// StaticHostConfig documents, for Talos 1.12 and later
    #[default]
    Talos,
    /// A patch of machine.network.extraHostEntries, for Talos 1.11
    TalosLegacy,
    /// Lines of /etc/hosts
    Hosts,
}

impl Hosts {
    pub(super) async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let status = self.seen.status(connection, "mesh hosts").await?;
        Output::new(Format::Text).raw(self.text(&status)?.as_bytes())?;
        Ok(Exit::Done)
    }

    fn text(&self, status: &DaemonStatus) -> anyhow::Result<String> {
        let rows = rows(status);
        if rows.is_empty() {
            return Err(UsageError("that node is no member of a network".to_owned()).into());
        }
        let entries: Vec<(String, Vec<String>)> = rows
            .iter()
            .flat_map(|row| row.addresses.iter().map(|address| (address.clone(), self.names(row))))
            .collect();
        let text = |entries: &[(String, Vec<String>)], line: fn(&str, &[String]) -> String| -> String {
            entries.iter().map(|(address, names)| line(address, names)).collect()
        };
        Ok(match self.form {
            Form::Talos => text(&entries, |address, names| {
                let names: String = names.iter().map(|name| format!("  - {name}\n")).collect();
                format!(
                    "---\napiVersion: v1alpha1\nkind: StaticHostConfig\nname: \"{address}\"\nhostnames:\n{names}"
                )
            }),
            Form::TalosLegacy => {
                let entries = text(&entries, |address, names| {
                    let names: String = names.iter().map(|name| format!("          - {name}\n")).collect();
                    format!("      - ip: \"{address}\"\n        aliases:\n{names}")
                });
                format!("machine:\n  network:\n    extraHostEntries:\n{entries}")
            }
            Form::Hosts => text(&entries, |address, names| format!("{address} {}\n", names.join(" "))),
        })
    }

    fn names(&self, row: &Row) -> Vec<String> {
        let long = self.zone.as_ref().map(|zone| format!("{}.{}", row.name, zone.trim_matches('.')));
        [row.name.clone()].into_iter().chain(long).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon_status::Network;

    fn status() -> DaemonStatus {
        let network = Network {
            member: Some("a".to_owned()),
            identity: Some("11".to_owned()),
            incarnation: Some("22".to_owned()),
            ..Network::default()
        };
        DaemonStatus {
            network: Some(network),
            addresses: vec!["10.213.0.1/16".to_owned(), "fd00::1/64".to_owned()],
            ..DaemonStatus::default()
        }
    }

    #[test]
    fn members_are_written_as_each_place_wants_them() {
        let text = |form| {
            Hosts { seen: Seen::default(), form, zone: Some("home.".to_owned()) }.text(&status()).unwrap()
        };
        assert_eq!(text(Form::Hosts), "10.213.0.1 a a.home\nfd00::1 a a.home\n");
        let talos = "---\napiVersion: v1alpha1\nkind: StaticHostConfig\nname: \"10.213.0.1\"\nhostnames:\n  - a\n  - a.home\n";
        assert!(text(Form::Talos).starts_with(talos), "{}", text(Form::Talos));
        let legacy = "machine:\n  network:\n    extraHostEntries:\n      - ip: \"10.213.0.1\"\n        aliases:\n          - a\n";
        assert!(text(Form::TalosLegacy).starts_with(legacy), "{}", text(Form::TalosLegacy));
    }

    #[test]
    fn who_is_no_member_has_no_names() {
        let hosts = Hosts { seen: Seen::default(), form: Form::Hosts, zone: None };
        assert!(hosts.text(&DaemonStatus::default()).is_err());
    }
}
