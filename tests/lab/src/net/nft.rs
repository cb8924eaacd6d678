//! nftables over netlink: a table is written as a whole, in one transaction.
//!
//! What rules can say is what the lab needs, in the terms of nft(8). All chains are of the family `inet`.

use std::net::Ipv4Addr;

use netlink_packet_core::{
    DefaultNla, Emitable as _, NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook, Immediate,
    InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register,
    RuleAttribute, RuleMessage, TableAttribute, TableMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::error::{Attempt as _, LabError};

/// `NFNL_SUBSYS_NFTABLES` (`linux/netfilter/nfnetlink.h`): whose the messages of a batch are.
const NFTABLES: u16 = 10;

/// A table with all that is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) chains: Vec<Chain>,
}

/// A base chain. What no rule decides is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) at: At,
    pub(crate) rules: Vec<Rule>,
}

/// Where a chain hooks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Translation of destinations.
    DestinationNat,
    /// Translation of sources.
    SourceNat,
    /// What is for this host.
    Input,
    /// What passes through.
    Forward,
    /// All that arrives, before anything else.
    Arrival,
    /// All that leaves, after anything else.
    Departure,
}

impl At {
    /// Name and type of the chain, hook and priority.
    fn parts(self) -> (&'static str, &'static str, InetHookNumber, i32) {
        match self {
            Self::DestinationNat => ("dnat", "nat", InetHookNumber::PreRouting, -100),
            Self::SourceNat => ("snat", "nat", InetHookNumber::PostRouting, 100),
            Self::Input => ("input", "filter", InetHookNumber::LocalIn, 0),
            Self::Forward => ("forward", "filter", InetHookNumber::Forward, 0),
            Self::Arrival => ("arrival", "filter", InetHookNumber::PreRouting, -450),
            Self::Departure => ("departure", "filter", InetHookNumber::PostRouting, 450),
        }
    }
}

/// Conditions, and what happens to packets that meet them all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) conditions: Vec<Match>,
    pub(crate) action: Action,
}

impl Rule {
    pub(crate) fn new(conditions: impl Into<Vec<Match>>, action: Action) -> Self {
        Self { conditions: conditions.into(), action }
    }
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Match {
    /// It came in by this interface.
    In(String),
    /// It goes out by this interface.
    Out(String),
    /// It is UDP from this port.
    UdpFrom(u16),
    /// It is IPv4 from here.
    From(Ipv4Addr),
    /// It is IPv4 to here.
    To(Ipv4Addr),
    /// Its connection was seen before, or it is about one that was.
    Known,
    /// Its destination was translated.
    DestinationTranslated,
    /// It is of this transport protocol.
    Protocol(u8),
    /// It is IPv4.
    V4,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Accept,
    Drop,
    /// The destination becomes this address.
    DestinationNat(Ipv4Addr),
    /// The source becomes this address, and this port if there is one.
    SourceNat(Ipv4Addr, Option<u16>),
    /// The source becomes the address of the interface, and a random port for each destination.
    MasqueradeRandom,
    /// The source becomes the address of the interface, the port stays if it is free.
    Masquerade,
}

/// Writes `table` in place of what has its name, in the network namespace of the calling thread.
pub(crate) fn replace(table: &Table) -> Result<(), LabError> {
    // Deleting fails without a table, making one does not when there is one.
    let mut batch = vec![Step::new_table(table), Step::delete_table(table), Step::new_table(table)];
    for chain in &table.chains {
        batch.push(Step::new_chain(table, chain));
        batch.extend(chain.rules.iter().map(|rule| Step::new_rule(table, chain, rule)));
    }
    commit(&batch)
}

/// One message of a batch, and how to name it in an error.
struct Step {
    what: String,
    flags: u16,
    message: NfTablesMessage,
}

impl Step {
    fn new_table(table: &Table) -> Self {
        let attributes = vec![TableAttribute::Name(table.name.to_owned())];
        let message = NfTablesMessage::NewTable(TableMessage { attributes });
        Self { what: format!("make the table {}", table.name), flags: NLM_F_CREATE, message }
    }

    fn delete_table(table: &Table) -> Self {
        let attributes = vec![TableAttribute::Name(table.name.to_owned())];
        let message = NfTablesMessage::DeleteTable(TableMessage { attributes });
        Self { what: format!("delete the table {}", table.name), flags: 0, message }
    }

    fn new_chain(table: &Table, chain: &Chain) -> Self {
        let (name, kind, hook, priority) = chain.at.parts();
        let attributes = vec![
            ChainAttribute::Table(table.name.to_owned()),
            ChainAttribute::Name(name.to_owned()),
            // The crate has the priority unsigned; on the wire it is 32 bits all the same.
            ChainAttribute::Hook(vec![Hook::Number(hook.into()), Hook::Priority(priority.cast_unsigned())]),
            ChainAttribute::Type(kind.to_owned()),
        ];
        let message = NfTablesMessage::NewChain(ChainMessage { attributes });
        Self { what: format!("make the nftables chain {name}"), flags: NLM_F_CREATE, message }
    }

    fn new_rule(table: &Table, chain: &Chain, rule: &Rule) -> Self {
        let (name, ..) = chain.at.parts();
        let expressions =
            rule.conditions.iter().flat_map(Match::expressions).chain(rule.action.expressions());
        let attributes = vec![
            RuleAttribute::Table(table.name.to_owned()),
            RuleAttribute::Chain(name.to_owned()),
            RuleAttribute::Expressions(expressions.map(ListAttribute::<ExpressionAttribute>::from).collect()),
        ];
        let message = NfTablesMessage::NewRule(RuleMessage { attributes });
        let what = format!("add the nftables rule {:?} -> {:?}", rule.conditions, rule.action);
        Self { what, flags: NLM_F_CREATE | NLM_F_APPEND, message }
    }
}

// Numbers of `linux/netfilter/nf_tables.h` and `nf_nat.h` for what the crate has no types for.
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFT_CT_STATE: u32 = 0;
const NFT_CT_STATUS: u32 = 2;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFT_NAT_SNAT: u32 = 0;
const NFT_NAT_DNAT: u32 = 1;
const NFTA_MASQ_FLAGS: u16 = 1;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const FULLY_RANDOM: u32 = 1 << 4;
/// `IP_CT_ESTABLISHED` and `IP_CT_RELATED` as bits of `ct state`.
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
/// `IPS_DST_NAT` of `ct status`.
const DST_NAT: u32 = 1 << 5;
const NFPROTO_IPV4: u8 = 2;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const UDP: u8 = 17;
/// The verdicts of `linux/netfilter.h`.
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

impl Match {
    fn expressions(&self) -> Vec<Expressions> {
        match self {
            Self::In(name) => vec![meta(MetaKey::Iifname), equals(interface_name(name))],
            Self::Out(name) => vec![meta(MetaKey::Oifname), equals(interface_name(name))],
            Self::UdpFrom(port) => vec![
                meta(MetaKey::L4Proto),
                equals(vec![UDP]),
                payload(TRANSPORT_HEADER, 0, 2),
                equals(port.to_be_bytes().to_vec()),
            ],
            Self::From(address) => vec![
                meta(MetaKey::Nfproto),
                equals(vec![NFPROTO_IPV4]),
                payload(NETWORK_HEADER, 12, 4),
                equals(address.octets().to_vec()),
            ],
            Self::To(address) => vec![
                meta(MetaKey::Nfproto),
                equals(vec![NFPROTO_IPV4]),
                payload(NETWORK_HEADER, 16, 4),
                equals(address.octets().to_vec()),
            ],
            Self::Known => conntrack_bits(NFT_CT_STATE, ESTABLISHED_OR_RELATED),
            Self::DestinationTranslated => conntrack_bits(NFT_CT_STATUS, DST_NAT),
            Self::Protocol(number) => vec![meta(MetaKey::L4Proto), equals(vec![*number])],
            Self::V4 => vec![meta(MetaKey::Nfproto), equals(vec![NFPROTO_IPV4])],
        }
    }
}

impl Action {
    fn expressions(self) -> Vec<Expressions> {
        match self {
            Self::Accept => vec![verdict(NF_ACCEPT)],
            Self::Drop => vec![verdict(NF_DROP)],
            Self::DestinationNat(address) => {
                vec![load(Register::Reg1, address.octets().to_vec()), nat(NFT_NAT_DNAT, false)]
            }
            Self::SourceNat(address, None) => {
                vec![load(Register::Reg1, address.octets().to_vec()), nat(NFT_NAT_SNAT, false)]
            }
            Self::SourceNat(address, Some(port)) => vec![
                load(Register::Reg1, address.octets().to_vec()),
                load(Register::Reg2, port.to_be_bytes().to_vec()),
                nat(NFT_NAT_SNAT, true),
            ],
            Self::MasqueradeRandom => vec![other("masq", vec![number(NFTA_MASQ_FLAGS, FULLY_RANDOM)])],
            Self::Masquerade => vec![other("masq", Vec::new())],
        }
    }
}

fn meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)])
}

fn equals(value: Vec<u8>) -> Expressions {
    compare(Operator::Equal, value)
}

fn compare(operator: Operator, value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

fn payload(base: u32, offset: u32, len: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(len),
    ])
}

/// The value as the kernel compares it: padded to `IFNAMSIZ`.
fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

/// One of the bits `mask` of connection tracking's `key` is set.
fn conntrack_bits(key: u32, mask: u32) -> Vec<Expressions> {
    let register = |kind| number(kind, Register::Reg1.into());
    let value = |bits: u32| DefaultNla::new(NFTA_DATA_VALUE, bits.to_ne_bytes().to_vec());
    vec![
        other("ct", vec![number(NFTA_CT_KEY, key), register(NFTA_CT_DREG)]),
        other(
            "bitwise",
            vec![
                register(NFTA_BITWISE_SREG),
                register(NFTA_BITWISE_DREG),
                number(NFTA_BITWISE_LEN, 4),
                nested(NFTA_BITWISE_MASK, &value(mask)),
                nested(NFTA_BITWISE_XOR, &value(0)),
            ],
        ),
        compare(Operator::NotEqual, vec![0; 4]),
    ]
}

fn load(register: Register, value: Vec<u8>) -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(register),
        Immediate::Data(DataAttribute::Value(value)),
    ])
}

fn verdict(code: u32) -> Expressions {
    let code = VerdictAttribute::Code(Verdict::Other(code));
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![code])),
    ])
}

/// Translates to the address in register 1, and with `port` to the one in register 2.
fn nat(kind: u32, port: bool) -> Expressions {
    let mut attributes = vec![
        number(NFTA_NAT_TYPE, kind),
        number(NFTA_NAT_FAMILY, NFPROTO_IPV4.into()),
        number(NFTA_NAT_REG_ADDR_MIN, Register::Reg1.into()),
    ];
    if port {
        attributes.push(number(NFTA_NAT_REG_PROTO_MIN, Register::Reg2.into()));
    }
    other("nat", attributes)
}

fn other(kind: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: kind.to_owned(), attributes }
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn nested(kind: u16, inner: &DefaultNla) -> DefaultNla {
    let mut bytes = vec![0; inner.buffer_len()];
    inner.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

/// Sends the batch; the kernel takes all of it or nothing.
fn commit(batch: &[Step]) -> Result<(), LabError> {
    let what = || "talk to nftables".to_owned();
    let mut socket = Socket::new(NETLINK_NETFILTER).attempt(what)?;
    socket.bind_auto().attempt(what)?;
    let mut datagram = Vec::new();
    push(&mut datagram, control(ControlMessage::BatchBegin), NLM_F_REQUEST, 0);
    for (sequence, step) in (1..).zip(batch) {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
        let message = NetfilterMessage::new(header, step.message.clone());
        push(&mut datagram, message, NLM_F_REQUEST | NLM_F_ACK | step.flags, sequence);
    }
    push(&mut datagram, control(ControlMessage::BatchEnd), NLM_F_REQUEST, 0);
    socket.send_to(&datagram, &SocketAddr::new(0, 0), 0).attempt(what)?;
    // The kernel has answered each message when the call returns.
    socket.set_non_blocking(true).attempt(what)?;
    let mut answered = 0;
    while answered < batch.len() {
        let (bytes, _) = socket.recv_from_full().attempt(what)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let buffer = NetlinkBuffer::new_checked(rest).attempt(what)?;
            let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest).attempt(what)?;
            if let NetlinkPayload::Error(error) = message.payload {
                let step = usize::try_from(message.header.sequence_number).ok();
                let step = step.and_then(|sequence| batch.get(sequence.checked_sub(1)?));
                if error.code.is_some() {
                    let what = step.map_or_else(what, |step| step.what.clone());
                    return Err(LabError::failed(what, error.to_io()));
                }
                answered += 1;
            }
            // Messages in one datagram are aligned to four bytes.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Ok(())
}

fn control(message: ControlMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES), message)
}

fn push(datagram: &mut Vec<u8>, message: NetfilterMessage, flags: u16, sequence: u32) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = datagram.len();
    datagram.resize(start + message.buffer_len(), 0);
    message.serialize(&mut datagram[start..]);
    datagram.resize(datagram.len().next_multiple_of(4), 0);
}
