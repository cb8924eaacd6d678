//! Watches of a node: its ichord's status, its links. They run in its namespaces until nobody listens.

use std::io;
use std::path::Path;

use futures_util::StreamExt as _;
use ichord::status::RUNTIME_DIRECTORY;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rustix::fs::inotify;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::UnboundedSender;

use crate::error::{Attempt as _, LabError};
use crate::net::link::name_of;
use crate::protocol::{Answer, LinkEvent, LinkEventKind};

/// Sends the text of the status file, now if there is one, and each time it is replaced.
pub(super) async fn status(answers: UnboundedSender<Answer>) -> Result<(), LabError> {
    let what = || format!("watch {RUNTIME_DIRECTORY}");
    let file = ichord::status::file(Path::new(RUNTIME_DIRECTORY));
    let watch =
        inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).attempt(what)?;
    inotify::add_watch(&watch, RUNTIME_DIRECTORY, inotify::WatchFlags::MOVED_TO).attempt(what)?;
    // To tokio it is something to be read like a pipe.
    let watch = pipe::Receiver::from_owned_fd_unchecked(watch).attempt(what)?;
    loop {
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                if answers.send(Answer::Text(text)).is_err() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(LabError::failed(format!("read {}", file.display()), error)),
        }
        tokio::select! {
            changed = changed(&watch) => changed.attempt(what)?,
            () = answers.closed() => return Ok(()),
        }
    }
}

/// Waits until something was moved into the directory; only the status file ever is.
async fn changed(watch: &pipe::Receiver) -> io::Result<()> {
    loop {
        watch.readable().await?;
        let mut events = [0; 4096];
        match watch.try_read(&mut events) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends how the link `name` is, and then all that the kernel tells about it.
pub(super) async fn link(name: String, answers: UnboundedSender<Answer>) -> Result<(), LabError> {
    let what = || format!("watch the link {name}");
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&groups).attempt(what)?;
    tokio::spawn(connection);
    let mut links = handle.link().get().match_name(name.clone()).execute();
    let now = futures_util::TryStreamExt::try_next(&mut links).await.attempt(what)?;
    let now = now.ok_or_else(|| LabError::Failed { what: what(), cause: "there is none".to_owned() })?;
    let index = now.header.index;
    if answers.send(Answer::Link(link_event(LinkEventKind::Watching, &now))).is_err() {
        return Ok(());
    }
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = answers.closed() => return Ok(()),
        };
        let Some((message, _)) = message else { return Ok(()) };
        if let Some(event) = event_of(&message, index, &name)
            && answers.send(Answer::Link(event)).is_err()
        {
            return Ok(());
        }
    }
}

/// What a message says about the link `index`, or about another one that took its name.
fn event_of(message: &NetlinkMessage<RouteNetlinkMessage>, index: u32, name: &str) -> Option<LinkEvent> {
    use LinkEventKind as Kind;
    let NetlinkPayload::InnerMessage(message) = &message.payload else { return None };
    let about = |kind, link: &LinkMessage| {
        let ours = link.header.index == index || name_of(link) == Some(name);
        ours.then(|| link_event(kind, link))
    };
    match message {
        RouteNetlinkMessage::NewLink(link) => about(Kind::NewLink, link),
        RouteNetlinkMessage::DelLink(link) => about(Kind::DeletedLink, link),
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            let is_new = matches!(message, RouteNetlinkMessage::NewAddress(_));
            let subject = address.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(ip) => Some(format!("{ip}/{}", address.header.prefix_len)),
                _ => None,
            });
            let kind = if is_new { Kind::NewAddress } else { Kind::DeletedAddress };
            (address.header.index == index).then(|| other_event(kind, index, subject))
        }
        RouteNetlinkMessage::NewRoute(route) => route_event(Kind::NewRoute, route, index),
        RouteNetlinkMessage::DelRoute(route) => route_event(Kind::DeletedRoute, route, index),
        _ => None,
    }
}

fn link_event(kind: LinkEventKind, link: &LinkMessage) -> LinkEvent {
    let state = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::OperState(state) => Some(format!("{state:?}")),
        _ => None,
    });
    LinkEvent {
        kind,
        index: link.header.index,
        up: link.header.flags.contains(LinkFlags::Up),
        carrier: link.header.flags.contains(LinkFlags::LowerUp),
        state: state.unwrap_or_default(),
        subject: String::new(),
    }
}

fn route_event(kind: LinkEventKind, route: &RouteMessage, index: u32) -> Option<LinkEvent> {
    let by = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Oif(oif) if *oif == index);
    if !route.attributes.iter().any(by) {
        return None;
    }
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(to) => Some(format!("{to:?}/{}", route.header.destination_prefix_length)),
        _ => None,
    });
    Some(other_event(kind, index, destination))
}

fn other_event(kind: LinkEventKind, index: u32, subject: Option<String>) -> LinkEvent {
    let subject = subject.unwrap_or_default();
    LinkEvent { kind, index, up: false, carrier: false, state: String::new(), subject }
}
