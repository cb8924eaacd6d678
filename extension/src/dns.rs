//! Answers to DNS questions about the members of a network, and about nothing else: no recursion, no forwarding.
//!
//! One zone holds a name for each member, with its IPv4 and IPv6 address; the addresses lead back to the names (PTR).
//! What is in the network's ranges and nobody's does not exist; everything else is refused (RFC 1035, RFC 2308).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hickory_proto::op::{Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::IpNet;
use serde::Deserialize;

/// Seconds for which an answer may be kept. Names keep their addresses; members come and go.
const TTL: u32 = 60;

/// The name of the zone, as configured.
#[derive(Clone, PartialEq, Eq)]
pub struct ZoneName(Name);

/// A text that is no name of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a zone: expected a domain of letters, digits and hyphens, such as home.internal")]
pub struct BadZone;

impl FromStr for ZoneName {
    type Err = BadZone;

    fn from_str(text: &str) -> Result<Self, BadZone> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let is_domain = text.len() <= 180
            && text.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            });
        if !is_domain {
            return Err(BadZone);
        }
        Ok(Self(Name::from_ascii(format!("{}.", text.to_ascii_lowercase())).map_err(|_| BadZone)?))
    }
}

impl fmt::Debug for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl<'de> Deserialize<'de> for ZoneName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The names of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Zone {
    name: Name,
    /// By name, the addresses of members.
    hosts: BTreeMap<String, Vec<IpAddr>>,
    /// By address, their names.
    names: BTreeMap<IpAddr, Name>,
    /// What members' addresses are taken from.
    ranges: Vec<IpNet>,
}

impl Zone {
    /// The zone `name` with `hosts`, whose addresses are of `ranges`.
    pub(crate) fn new(name: &ZoneName, hosts: BTreeMap<String, Vec<IpAddr>>, ranges: Vec<IpNet>) -> Self {
        let named = hosts.iter().filter_map(|(host, addresses)| {
            let full = Name::from_ascii(host).ok()?.append_domain(&name.0).ok()?;
            Some(addresses.iter().map(move |address| (*address, full.clone())))
        });
        let names = named.flatten().collect();
        Self { name: name.0.clone(), hosts, names, ranges }
    }

    /// The answer to a request; none to what is no question.
    pub(crate) fn answer(&self, request: &[u8]) -> Option<Vec<u8>> {
        let request = Message::from_vec(request).ok()?;
        if request.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata = Metadata::response_from_request(&request.metadata);
        response.metadata.response_code = match &request.queries[..] {
            _ if request.metadata.op_code != OpCode::Query => ResponseCode::NotImp,
            [query] => self.look_up(query, &mut response),
            _ => ResponseCode::FormErr,
        };
        response.add_queries(request.queries);
        response.to_vec().ok()
    }

    fn look_up(&self, query: &Query, response: &mut Message) -> ResponseCode {
        let (name, kind) = (query.name().to_lowercase(), query.query_type());
        if query.query_class() != DNSClass::IN {
            return ResponseCode::Refused;
        }
        let found: Option<Vec<RData>> = if self.name.zone_of(&name) {
            self.of_name(&name)
        } else if let Ok(net) = name.parse_arpa_name()
            && self.ranges.iter().any(|range| range.contains(&net))
        {
            let is_host = net.prefix_len() == net.max_prefix_len();
            // What leads to a host exists, though there is nothing at it.
            let is_between = self.names.keys().any(|address| net.contains(address));
            let named = self.names.get(&net.addr()).filter(|_| is_host);
            named.map(|name| vec![RData::PTR(PTR(name.clone()))]).or(is_between.then(Vec::new))
        } else {
            return ResponseCode::Refused;
        };
        response.metadata.authoritative = true;
        let is_known = found.is_some();
        let records =
            found.into_iter().flatten().filter(|data| kind == RecordType::ANY || data.record_type() == kind);
        response.add_answers(records.map(|data| Record::from_rdata(query.name().clone(), TTL, data)));
        if response.answers.is_empty() {
            // For how long it may be remembered that there is nothing (RFC 2308 section 3).
            response.add_authority(Record::from_rdata(self.name.clone(), TTL, self.authority()));
        }
        if is_known { ResponseCode::NoError } else { ResponseCode::NXDomain }
    }

    /// What is at a name of the zone; nothing if the name does not exist.
    fn of_name(&self, name: &Name) -> Option<Vec<RData>> {
        let labels = name.num_labels().checked_sub(self.name.num_labels())?;
        match labels {
            0 => Some(vec![self.authority(), RData::NS(NS(self.name.clone()))]),
            1 => {
                let label = std::str::from_utf8(name.iter().next()?).ok()?;
                let of_address = |address: &IpAddr| match address {
                    IpAddr::V4(v4) => RData::A(A(*v4)),
                    IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
                };
                Some(self.hosts.get(label)?.iter().map(of_address).collect())
            }
            _ => None,
        }
    }

    fn authority(&self) -> RData {
        let ttl = TTL as i32;
        RData::SOA(SOA::new(self.name.clone(), self.name.clone(), 1, ttl, ttl, ttl, TTL))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone() -> Zone {
        let hosts = [("a", ["10.213.0.1", "fd00::1"]), ("b", ["10.213.0.2", "fd00::2"])];
        let hosts = hosts.map(|(name, addresses)| {
            (name.to_owned(), addresses.map(|address| address.parse().unwrap()).to_vec())
        });
        let ranges = ["10.213.0.0/16", "fd00::/64"].map(|net| net.parse().unwrap());
        Zone::new(&"home.internal".parse().unwrap(), hosts.into(), ranges.into())
    }

    fn ask(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let mut request = Message::query();
        request.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let answer = zone().answer(&request.to_vec().unwrap()).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.id, request.metadata.id);
        assert!(!answer.metadata.recursion_available);
        let data = answer.answers.iter().map(|record| record.data.to_string()).collect();
        (answer.metadata.response_code, data)
    }

    #[test]
    fn members_have_addresses_and_addresses_have_names() {
        let known = |data: &str| (ResponseCode::NoError, vec![data.to_owned()]);
        assert_eq!(ask("a.home.internal.", RecordType::A), known("10.213.0.1"));
        assert_eq!(ask("B.Home.Internal.", RecordType::AAAA), known("fd00::2"));
        assert_eq!(ask("2.0.213.10.in-addr.arpa.", RecordType::PTR), known("b.home.internal."));
        let nibbles = format!("1.{}0.0.d.f.ip6.arpa.", "0.".repeat(27));
        assert_eq!(ask(&nibbles, RecordType::PTR), known("a.home.internal."));
        assert_eq!(ask("home.internal.", RecordType::SOA).1.len(), 1);
        assert_eq!(ask("a.home.internal.", RecordType::ANY).1.len(), 2);
    }

    #[test]
    fn what_does_not_exist_is_told_from_what_has_no_such_record() {
        assert_eq!(ask("a.home.internal.", RecordType::MX), (ResponseCode::NoError, vec![]));
        assert_eq!(ask("c.home.internal.", RecordType::A), (ResponseCode::NXDomain, vec![]));
        assert_eq!(ask("x.a.home.internal.", RecordType::A), (ResponseCode::NXDomain, vec![]));
        assert_eq!(ask("9.0.213.10.in-addr.arpa.", RecordType::PTR), (ResponseCode::NXDomain, vec![]));
        assert_eq!(ask("0.213.10.in-addr.arpa.", RecordType::PTR), (ResponseCode::NoError, vec![]));
    }

    #[test]
    fn what_is_not_of_the_network_is_refused() {
        for name in ["example.org.", "internal.", ".", "1.0.0.127.in-addr.arpa."] {
            assert_eq!(ask(name, RecordType::A), (ResponseCode::Refused, vec![]), "{name}");
        }
    }

    #[test]
    fn an_answer_is_never_answered() {
        let mut request = Message::query();
        request.add_query(Query::query(Name::from_ascii("a.home.internal.").unwrap(), RecordType::A));
        let answer = zone().answer(&request.to_vec().unwrap()).unwrap();
        assert_eq!(zone().answer(&answer), None);
    }

    #[test]
    fn zones_are_domains() {
        for text in ["home.internal", "mesh", "A.b-c."] {
            assert!(text.parse::<ZoneName>().is_ok(), "{text}");
        }
        for text in ["", ".", "a..b", "-a", "a_b", "a b", "*.x"] {
            assert_eq!(text.parse::<ZoneName>(), Err(BadZone), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_request_makes_it_fail(request in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = zone().answer(&request);
        }
    }
}
