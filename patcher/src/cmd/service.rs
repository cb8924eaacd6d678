//! `service`: the services of nodes, and what can be done to them.

use std::time::SystemTime;

use clap::{Args, ValueEnum};
use ichor_proto::talos::machine::{ServiceEvent, ServiceHealth, ServiceInfo};
use serde::Serialize;

use super::connection::{Connection, Insecure};
use super::fleet::Fleet;
use crate::api::NodeClient;
use crate::exit::Exit;
use crate::output::{Format, Output, Table, age, rfc3339};

/// Flags of `service`.
#[derive(Args, Debug)]
pub struct Service {
    /// The service; without it all are listed
    id: Option<String>,
    /// What to do with it
    #[arg(value_enum, default_value_t, requires = "id")]
    action: Action,
    #[command(flatten)]
    insecure: Insecure,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What can be done with a service. Talos allows changes to kubelet and to extension services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Show its state and its last events
    #[default]
    Status,
    /// Start it
    Start,
    /// Stop it
    Stop,
    /// Restart it
    Restart,
}

#[derive(Serialize)]
struct Row {
    node: String,
    id: String,
    state: String,
    health: &'static str,
    health_message: String,
    events: Vec<EventRow>,
    #[serde(skip)]
    last_change: String,
}

#[derive(Serialize)]
struct EventRow {
    state: String,
    message: String,
    time: String,
    #[serde(skip)]
    age: String,
}

#[derive(Serialize)]
struct Answer {
    node: String,
    response: String,
}

impl Service {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When there is nobody to ask, or nowhere to print.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let output = Output::new(self.output);
        let fleet = connection.session_or_insecure(&self.insecure)?.fleet()?;
        match (self.id, self.action) {
            (None, _) => list(output, &fleet).await,
            (Some(id), Action::Status) => status(output, &fleet, &id).await,
            (Some(id), action) => change(output, &fleet, &id, action).await,
        }
    }
}

async fn list(output: Output, fleet: &Fleet) -> anyhow::Result<Exit> {
    let columns = ["NODE", "SERVICE", "STATE", "HEALTH", "LAST CHANGE", "LAST EVENT"];
    let failures = fleet
        .rows(output, columns, rows, |row: &Row| {
            let last = row.events.last().map_or("<none>", |event| &event.message);
            let change = match row.last_change.as_str() {
                "" => String::new(),
                age => format!("{age} ago"),
            };
            [
                row.node.clone(),
                row.id.clone(),
                row.state.clone(),
                row.health.to_owned(),
                change,
                last.to_owned(),
            ]
        })
        .await?;
    Ok(failures.finish())
}

async fn status(output: Output, fleet: &Fleet, id: &str) -> anyhow::Result<Exit> {
    let (replies, failures) = fleet.gather(rows).await?;
    let rows: Vec<Row> = replies.into_iter().flat_map(|(_, rows)| rows).filter(|row| row.id == id).collect();
    if rows.is_empty() && failures.is_empty() {
        anyhow::bail!("service {id:?} is not registered on any of the nodes");
    }
    if output.is_json() {
        output.json(&rows)?;
    } else {
        for row in &rows {
            output.raw(Table::default().lines(details(row)).as_bytes())?;
        }
    }
    Ok(failures.finish())
}

async fn change(output: Output, fleet: &Fleet, id: &str, action: Action) -> anyhow::Result<Exit> {
    let call = |node: NodeClient| async move {
        let response = match action {
            Action::Start => node.service_start(id).await?,
            Action::Stop => node.service_stop(id).await?,
            Action::Restart => node.service_restart(id).await?,
            Action::Status => String::new(),
        };
        Ok(vec![Answer { node: node.name().to_owned(), response }])
    };
    let cells = |answer: &Answer| [answer.node.clone(), answer.response.clone()];
    Ok(fleet.rows(output, ["NODE", "RESPONSE"], call, cells).await?.finish())
}

async fn rows(node: NodeClient) -> anyhow::Result<Vec<Row>> {
    let services = node.services().await?;
    let now = SystemTime::now();
    Ok(services.into_iter().map(|service| Row::new(node.name(), service, now)).collect())
}

fn details(row: &Row) -> Vec<[String; 2]> {
    let pair = |label: &str, value: &str| [label.to_owned(), value.to_owned()];
    let mut lines = vec![
        pair("NODE", &row.node),
        pair("ID", &row.id),
        pair("STATE", &row.state),
        pair("HEALTH", row.health),
    ];
    if !row.health_message.is_empty() {
        lines.push(pair("LAST HEALTH MESSAGE", &row.health_message));
    }
    for (index, event) in row.events.iter().rev().enumerate() {
        let label = if index == 0 { "EVENTS" } else { "" };
        lines.push(pair(label, &format!("[{}]: {} ({} ago)", event.state, event.message, event.age)));
    }
    lines
}

impl Row {
    fn new(node: &str, service: ServiceInfo, now: SystemTime) -> Self {
        let events = service.events.unwrap_or_default().events;
        let health = service.health.unwrap_or_default();
        Self {
            node: node.to_owned(),
            id: service.id,
            state: service.state,
            health: verdict(&health),
            health_message: health.last_message,
            last_change: events.last().map(|event| age(event.ts.as_ref(), now)).unwrap_or_default(),
            events: events.into_iter().map(|event| EventRow::new(event, now)).collect(),
        }
    }
}

impl EventRow {
    fn new(event: ServiceEvent, now: SystemTime) -> Self {
        Self {
            state: event.state,
            message: event.msg,
            time: rfc3339(event.ts.as_ref()),
            age: age(event.ts.as_ref(), now),
        }
    }
}

const fn verdict(health: &ServiceHealth) -> &'static str {
    match health {
        ServiceHealth { unknown: true, .. } => "?",
        ServiceHealth { healthy: true, .. } => "OK",
        ServiceHealth { .. } => "Fail",
    }
}
