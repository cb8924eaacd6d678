//! `etcd alarm`.

use clap::Subcommand;
use ichor_proto::talos::machine::EtcdMemberAlarm;
use serde::Serialize;

use super::{Print, member_id};
use crate::api::NodeClient;
use crate::cmd::fleet::Fleet;
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Alarm {
    /// List the alarms
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 etcd alarm list\n  \
                            ichorctl -n 10.0.0.2 etcd alarm list -o json")]
    List(Print),
    /// Disarm the alarms of all members
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 etcd alarm disarm\n  \
                            ichorctl -n 10.0.0.2 etcd alarm disarm -o json")]
    Disarm(Print),
}

#[derive(Serialize)]
struct Row {
    node: String,
    member_id: String,
    alarm: &'static str,
}

impl Alarm {
    pub(super) async fn run(self, fleet: &Fleet) -> anyhow::Result<Exit> {
        let (print, disarm) = match self {
            Self::List(print) => (print, false),
            Self::Disarm(print) => (print, true),
        };
        let call = |node: NodeClient| async move {
            let alarms = if disarm { node.etcd_disarm().await? } else { node.etcd_alarms().await? };
            Ok(alarms.into_iter().map(|alarm| Row::new(node.name(), &alarm)).collect())
        };
        let cells = |row: &Row| [row.node.clone(), row.member_id.clone(), row.alarm.to_owned()];
        let output = Output::new(print.output);
        Ok(fleet.rows(output, ["NODE", "MEMBER", "ALARM"], call, cells).await?.finish())
    }
}

impl Row {
    fn new(node: &str, alarm: &EtcdMemberAlarm) -> Self {
        Self {
            node: node.to_owned(),
            member_id: member_id(alarm.member_id),
            alarm: alarm.alarm().as_str_name(),
        }
    }
}
