//! Between the membership and the data plane: what members say goes in, what is to be said comes out.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};

use ichor_mesh::join::Destination;
use ichor_mesh::transmit::CandidatePair;

use super::Worker;
use super::members::{LAN, Send, candidates};
use crate::clock;
use crate::driver::{Driver, Mail};
use crate::store::Store;

impl Worker {
    /// Whether what came makes the peers different: they must be applied before anything else is looked at.
    pub(super) fn has_news(&self) -> bool {
        self.members.as_ref().is_some_and(|members| members.changed)
    }

    pub(super) async fn take_mail(&mut self, mail: Mail) {
        let Some(members) = &mut self.members else { return };
        let answer = members.handle_mail(&mail);
        if let (Some(answer), Mail::Hello { pair, .. }) = (answer, mail) {
            // What came to a group cannot be answered from it.
            let local = pair.local.filter(|local| !local.is_multicast());
            let pair = CandidatePair { local, ..pair };
            self.tell_driver(move |driver| driver.send_datagram(&pair, &answer)).await;
        }
        self.send_for_members().await;
    }

    pub(super) async fn members_timeout(&mut self) {
        if let Some(members) = &mut self.members {
            members.handle_timeout();
        }
        self.send_for_members().await;
    }

    pub(super) async fn look_at_members(&mut self) {
        if self.members.is_none() {
            return;
        }
        let Ok(sessions) = self.driver.call(|driver: &mut Driver| driver.node().status(clock::now())).await
        else {
            return;
        };
        let Some(members) = &mut self.members else { return };
        let sends = members.look(&sessions);
        self.send(sends).await;
        self.look_at_keys(&sessions).await;
        self.send_for_members().await;
    }

    /// Sends what the membership wants sent.
    pub(super) async fn send_for_members(&mut self) {
        let Some(members) = &mut self.members else { return };
        let sends = members.take_sends();
        self.send(sends).await;
    }

    async fn send(&self, sends: Vec<Send>) {
        if sends.is_empty() {
            return;
        }
        let segments = candidates::segments(&self.applied.underlay);
        let port = self.applied.listen_port.unwrap_or(0);
        self.tell_driver(move |driver| {
            for send in sends {
                match send {
                    Send::Control { to, address, payload } => {
                        driver.with_node(|node, sink, now| {
                            if let Some(peer) = node.peer(&to) {
                                node.send_control(peer, address, &payload, now, sink);
                            }
                        });
                    }
                    Send::Whole { to, address, payload } => driver.send_whole(&to, address, &payload),
                    Send::Hello { to, datagram } => {
                        for pair in to.iter().flat_map(|to| pairs(to, &segments, port)) {
                            driver.send_datagram(&pair, &datagram);
                        }
                    }
                    Send::Connect(key) => {
                        driver.with_node(|node, sink, now| {
                            if let Some(peer) = node.peer(&key) {
                                node.connect(peer, now, sink);
                            }
                        });
                    }
                }
            }
        })
        .await;
    }

    /// A data plane that has ended ends this process, elsewhere.
    async fn tell_driver(&self, f: impl FnOnce(&mut Driver) + std::marker::Send + 'static) {
        let _ = self.driver.call(f).await;
    }

    /// Writes down what the membership has learned.
    pub(super) fn save_members(&mut self) {
        let (Some(members), Some(config)) = (&mut self.members, &self.config) else { return };
        if !members.unsaved {
            return;
        }
        match members.save(&Store::new(config.state_directory.clone())) {
            Ok(()) => {
                self.problems.remove("state");
            }
            Err(error) => self.note("state", format!("{error:#}")),
        }
    }
}

/// The ways to a destination: a segment has two groups on each interface.
fn pairs(to: &Destination, segments: &BTreeMap<u32, Option<Ipv4Addr>>, port: u16) -> Vec<CandidatePair> {
    match to {
        Destination::Address(address) => vec![CandidatePair::to(*address)],
        Destination::Lan => segments
            .iter()
            .flat_map(|(index, address)| {
                // The kernel sends to an IPv4 group on the interface that has the source address.
                let v4 = address.map(|address| CandidatePair {
                    local: Some(address.into()),
                    remote: SocketAddr::new(LAN.v4.into(), port),
                });
                let v6 = CandidatePair::to(SocketAddrV6::new(LAN.v6, port, 0, *index).into());
                v4.into_iter().chain([v6])
            })
            .collect(),
    }
}
