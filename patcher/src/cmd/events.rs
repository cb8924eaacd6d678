//! `events`: what happens on nodes.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use ichor_proto::talos::machine::{self, Event, EventsRequest};
use prost::Message;
use serde::Serialize;

use super::connection::{Connection, Insecure};
use crate::api::NodeClient;
use crate::duration;
use crate::exit::Exit;
use crate::output::{self, Format, Output, Table};

/// Prefix of the type of every event. Other prefixes are other messages.
const TYPE_PREFIX: &str = "talos/runtime/";

/// Pause before a stream that was cut short is read on.
const PAUSE: Duration = Duration::from_secs(1);

/// Flags of `events`.
#[derive(Args, Debug)]
pub struct Events {
    /// Start with this many past events; -1 is all that there are
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "COUNT")]
    tail: i32,
    /// Start with the events of the last while
    #[arg(long, value_parser = duration::parse, conflicts_with = "tail", value_name = "DURATION")]
    duration: Option<Duration>,
    /// Start after the event with this id
    #[arg(long, conflicts_with_all = ["tail", "duration"], value_name = "ID")]
    since: Option<String>,
    /// Only events of one actor. Events of services and of the machine status have none
    #[arg(long, value_name = "ID")]
    actor_id: Option<String>,
    #[command(flatten)]
    insecure: Insecure,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Row {
    node: String,
    id: String,
    event: String,
    actor: String,
    source: String,
    message: String,
}

impl Events {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When there is nobody to ask, or nowhere to print.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let output = Output::new(self.output);
        let fleet = connection.session_or_insecure(&self.insecure)?.fleet()?;
        let request = EventsRequest {
            tail_events: self.tail,
            tail_id: self.since.unwrap_or_default(),
            tail_seconds: self.duration.map_or(0, |past| i32::try_from(past.as_secs()).unwrap_or(i32::MAX)),
            with_actor_id: self.actor_id.unwrap_or_default(),
        };
        let table = std::cell::RefCell::new(Table::default());
        if !output.is_json() {
            let head = ["NODE", "ID", "EVENT", "ACTOR", "SOURCE", "MESSAGE"];
            output.raw(table.borrow_mut().lines([head]).as_bytes())?;
        }
        let (request, table) = (&request, &table);
        let call = |node: NodeClient| async move {
            follow(&node, request, |row| match output.is_json() {
                true => output.json_line(&row),
                false => output.raw(table.borrow_mut().lines([row.cells()]).as_bytes()),
            })
            .await
        };
        Ok(fleet.run(call).await?.finish())
    }
}

/// Prints events until the node goes away. A node that ends the stream without an error did so because we were too
/// slow: the stream goes on after the last event that was seen.
async fn follow(
    node: &NodeClient,
    request: &EventsRequest,
    print: impl Fn(Row) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let mut request = request.clone();
    loop {
        let mut stream = node.events(request.clone()).await?;
        let mut seen_any = false;
        while let Some(event) = stream.next().await? {
            seen_any = true;
            if !event.id.is_empty() {
                let actor = std::mem::take(&mut request.with_actor_id);
                request =
                    EventsRequest { tail_id: event.id.clone(), with_actor_id: actor, ..Default::default() };
            }
            if let Some(row) = Row::new(node.name(), event)? {
                print(row)?;
            }
        }
        anyhow::ensure!(seen_any, "{} ended the stream of events before it began", node.name());
        output::note(&format!("warning: {} cut the stream of events short; reading on", node.name()));
        tokio::time::sleep(PAUSE).await;
    }
}

impl Row {
    /// None for the greeting, and for events of kinds that are not known here.
    fn new(node: &str, event: Event) -> anyhow::Result<Option<Self>> {
        let Some(data) = event.data else { return Ok(None) };
        let Some(kind) = data.type_url.strip_prefix(TYPE_PREFIX) else { return Ok(None) };
        let described =
            describe(kind, &data.value).with_context(|| format!("{node} sent a damaged {kind}"))?;
        Ok(described.map(|(source, message)| Self {
            node: node.to_owned(),
            id: event.id,
            event: data.type_url.clone(),
            actor: event.actor_id,
            source,
            message,
        }))
    }

    fn cells(&self) -> [&str; 6] {
        [&self.node, &self.id, &self.event, &self.actor, &self.source, &self.message]
    }
}

fn describe(kind: &str, value: &[u8]) -> Result<Option<(String, String)>, prost::DecodeError> {
    Ok(Some(match kind {
        "machine.SequenceEvent" => {
            let event = machine::SequenceEvent::decode(value)?;
            let action = event.action().as_str_name().to_owned();
            let message = event.error.map_or(action, |error| format!("error: {}", error.message));
            (event.sequence, message)
        }
        "machine.PhaseEvent" => {
            let event = machine::PhaseEvent::decode(value)?;
            (event.phase.clone(), event.action().as_str_name().to_owned())
        }
        "machine.TaskEvent" => {
            let event = machine::TaskEvent::decode(value)?;
            (event.task.clone(), event.action().as_str_name().to_owned())
        }
        "machine.ServiceStateEvent" => {
            let event = machine::ServiceStateEvent::decode(value)?;
            (event.service.clone(), format!("{}: {}", event.action().as_str_name(), event.message))
        }
        "machine.RestartEvent" => {
            let event = machine::RestartEvent::decode(value)?;
            ("restart".to_owned(), restart_command(event.cmd).to_owned())
        }
        "machine.ConfigLoadErrorEvent" => {
            ("error".to_owned(), machine::ConfigLoadErrorEvent::decode(value)?.error)
        }
        "machine.ConfigValidationErrorEvent" => {
            ("error".to_owned(), machine::ConfigValidationErrorEvent::decode(value)?.error)
        }
        "machine.AddressEvent" => {
            let event = machine::AddressEvent::decode(value)?;
            (event.hostname, format!("ADDRESSES: {}", event.addresses.join(",")))
        }
        "machine.MachineStatusEvent" => {
            let event = machine::MachineStatusEvent::decode(value)?;
            let stage = event.stage().as_str_name().to_owned();
            let status = event.status.unwrap_or_default();
            let unmet: Vec<String> =
                status.unmet_conditions.into_iter().map(|condition| condition.name).collect();
            (stage, format!("ready: {}, unmet conditions: [{}]", status.ready, unmet.join(" ")))
        }
        _ => return Ok(None),
    }))
}

/// Commands of reboot(2).
const fn restart_command(command: i64) -> &'static str {
    match command {
        0x0123_4567 => "restart",
        0x4558_4543 => "kexec",
        0x4321_fedc => "power off",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Any;

    use super::*;

    #[test]
    fn events_are_known_by_the_prefix_of_talos() {
        let payload = machine::PhaseEvent { phase: "kexec".into(), action: 1 };
        let event = |prefix: &str| Event {
            id: "c0ffee".into(),
            data: Some(Any {
                type_url: format!("{prefix}machine.PhaseEvent"),
                value: payload.encode_to_vec(),
            }),
            ..Default::default()
        };
        let row = Row::new("cp", event("talos/runtime/")).unwrap().unwrap();
        assert_eq!((row.source.as_str(), row.message.as_str()), ("kexec", "STOP"));
        assert_eq!(row.event, "talos/runtime/machine.PhaseEvent");
        assert_eq!(Row::new("cp", event("type.googleapis.com/")).unwrap(), None);
        assert_eq!(Row::new("cp", Event::default()).unwrap(), None, "the greeting");
    }

    #[test]
    fn a_damaged_event_is_an_error_and_an_unknown_one_is_skipped() {
        let event = |kind: &str| Event {
            data: Some(Any { type_url: format!("talos/runtime/{kind}"), value: vec![0xff; 3] }),
            ..Default::default()
        };
        assert!(Row::new("cp", event("machine.TaskEvent")).is_err());
        assert_eq!(Row::new("cp", event("machine.FutureEvent")).unwrap(), None);
    }
}
