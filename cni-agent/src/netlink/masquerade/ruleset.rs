//! The table `inet fairlead` in the kernel's own terms:
//!
//! ```text
//! table inet fairlead {
//!   set inside4 { type ipv4_addr; flags interval; elements = { podCIDRs, nodes, link-local, multicast } }
//!   set inside6 { type ipv6_addr; flags interval; elements = { … } }
//!   chain postrouting {
//!     type nat hook postrouting priority srcnat; policy accept;
//!     ip saddr 100.11.1.0/24 ip daddr != @inside4 masquerade fully-random
//!   }
//! }
//! ```

use super::{
    NftRequest, acknowledge_last, edges,
    intervals::{Interval, intervals},
};
use crate::netlink::socket::Request;
use ipnetwork::IpNetwork;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    nftables::{
        Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook,
        InetHookNumber, ListAttribute, Lookup, Meta, MetaKey, NfTablesMessage, Operator, Payload,
        Register, RuleAttribute, RuleMessage, SetAttribute, SetElementAttribute, SetElementFlags,
        SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute, TableMessage,
    },
    none::ControlMessage,
};
use rtnetlink::packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use std::net::IpAddr;

/// Name of our table, in the family `inet`.
pub const TABLE: &str = "fairlead";
pub(super) const CHAIN: &str = "postrouting";
/// Part of every rule's comment: grows when the meaning of the rules changes, so that a new agent
/// replaces an old one's table.
const REVISION: u32 = 1;

/// Priority `srcnat` of nat chains.
pub(super) const PRIORITY: u32 = 100;
pub(super) const NF_ACCEPT: u32 = 1;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_LOOKUP_INVERTED: u32 = 1;
const NFTA_MASQ_FLAGS: u16 = 1;
/// Ports are chosen at random each time: without it two connections to one server (DNS above all)
/// that begin together pick the same port, and one loses its first packet.
const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 1 << 4;
/// Type of a comment in the user data of a rule.
const USER_DATA_COMMENT: u8 = 0;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
/// Elements in one message: their list is an attribute of at most 64 KiB.
const MAX_ELEMENTS: usize = 800;

/// Never hidden, whatever the cluster looks like: the pods' gateway, and what does not leave its link.
/// Of 169.254.0.0/16 a node does route: a cloud answers the node there (metadata, DNS), not its pods.
const NEVER_HIDDEN: [&str; 5] = [
    "169.254.1.1/32",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "fe80::/10",
    "ff00::/8",
];

/// One half of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Family {
        if address.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }

    pub(super) fn set(self) -> &'static str {
        match self {
            Family::V4 => "inside4",
            Family::V6 => "inside6",
        }
    }

    /// Bytes of an address.
    fn size(self) -> u32 {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }

    pub(super) fn greatest(self) -> u128 {
        match self {
            Family::V4 => u32::MAX.into(),
            Family::V6 => u128::MAX,
        }
    }

    /// Where source and destination are in the IP header.
    fn offsets(self) -> (u32, u32) {
        match self {
            Family::V4 => (12, 16),
            Family::V6 => (8, 24),
        }
    }

    /// The number of the type of keys that the `nft` tool prints them by.
    fn key_type(self) -> u32 {
        match self {
            Family::V4 => 7,
            Family::V6 => 8,
        }
    }

    fn number(self) -> u8 {
        match self {
            Family::V4 => 2,
            Family::V6 => 10,
        }
    }

    fn bytes(self, value: u128) -> Vec<u8> {
        let start = 16 - self.size() as usize;
        value.to_be_bytes()[start..].to_vec()
    }
}

/// What the table should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ruleset {
    pod_cidrs: Vec<IpNetwork>,
    inside4: Vec<Interval>,
    inside6: Vec<Interval>,
}

impl Ruleset {
    pub(super) fn new(pod_cidrs: &[IpNetwork], inside: &[IpNetwork]) -> Ruleset {
        let never_hidden = NEVER_HIDDEN.iter().filter_map(|text| text.parse().ok());
        let inside: Vec<IpNetwork> = inside
            .iter()
            // A node's own pods are inside even before the list of nodes has it.
            .chain(pod_cidrs)
            .copied()
            .chain(never_hidden)
            .collect();
        Ruleset {
            pod_cidrs: pod_cidrs.to_vec(),
            inside4: intervals(&inside, Family::V4),
            inside6: intervals(&inside, Family::V6),
        }
    }

    /// Addresses that pods reach by their own address; all others are outside.
    pub(super) fn inside_of(&self, family: Family) -> &[Interval] {
        match family {
            Family::V4 => &self.inside4,
            Family::V6 => &self.inside6,
        }
    }

    pub(super) fn comments(&self) -> Vec<String> {
        self.pod_cidrs.iter().map(comment).collect()
    }

    /// One transaction that leaves exactly this table, whatever was there.
    pub(super) fn replace(&self) -> Vec<NftRequest> {
        let table = || table_message();
        let mut body = vec![
            // Made first, so that deleting it never fails.
            change(
                NfTablesMessage::NewTable(table()),
                NLM_F_CREATE,
                "make the table",
            ),
            change(NfTablesMessage::DeleteTable(table()), 0, "empty the table"),
            change(
                NfTablesMessage::NewTable(table()),
                NLM_F_CREATE,
                "make the table",
            ),
        ];
        for (id, family) in [Family::V4, Family::V6].into_iter().enumerate() {
            body.push(new_set(family, id));
            let edges = edges(self.inside_of(family), family);
            body.extend(
                edges
                    .chunks(MAX_ELEMENTS)
                    .map(|edges| new_elements(family, edges)),
            );
        }
        body.push(new_chain());
        body.extend(self.pod_cidrs.iter().map(new_rule));
        batch(body)
    }
}

/// One transaction that removes the table.
pub(super) fn delete() -> Vec<NftRequest> {
    batch(vec![change(
        NfTablesMessage::DeleteTable(table_message()),
        0,
        "delete the table",
    )])
}

fn batch(mut body: Vec<NftRequest>) -> Vec<NftRequest> {
    acknowledge_last(&mut body);
    let frame = |message| Request {
        message: NetfilterMessage::new(
            NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES),
            message,
        ),
        flags: 0,
        action: format!("change the nftables table {TABLE}"),
    };
    let mut requests = vec![frame(ControlMessage::BatchBegin)];
    requests.append(&mut body);
    requests.push(frame(ControlMessage::BatchEnd));
    requests
}

pub(super) fn change(message: NfTablesMessage, flags: u16, what: &str) -> NftRequest {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    Request {
        message: NetfilterMessage::new(header, message),
        flags,
        action: format!("{what} (nftables, {TABLE})"),
    }
}

pub(super) fn table_message() -> TableMessage {
    TableMessage {
        attributes: vec![TableAttribute::Name(TABLE.into())],
    }
}

fn new_set(family: Family, id: usize) -> NftRequest {
    let attributes = vec![
        SetAttribute::Table(TABLE.into()),
        SetAttribute::Name(family.set().into()),
        SetAttribute::Flags(SetFlags::Interval),
        SetAttribute::KeyType(family.key_type()),
        SetAttribute::KeyLen(family.size()),
        SetAttribute::Id(u32::try_from(id).unwrap_or(0) + 1),
    ];
    change(
        NfTablesMessage::NewSet(SetMessage { attributes }),
        NLM_F_CREATE,
        "make a set",
    )
}

fn new_elements(family: Family, edges: &[(u128, bool)]) -> NftRequest {
    let element = |(value, is_end): &(u128, bool)| {
        let key = DataAttribute::Value(family.bytes(*value));
        let mut element = vec![SetElementAttribute::Key(key)];
        if *is_end {
            element.push(SetElementAttribute::Flags(SetElementFlags::IntervalEnd));
        }
        ListAttribute::Element(element)
    };
    let attributes = vec![
        SetElementList::Table(TABLE.into()),
        SetElementList::Set(family.set().into()),
        SetElementList::Elements(edges.iter().map(element).collect()),
    ];
    let message = NfTablesMessage::NewSetElement(SetElementMessage { attributes });
    change(message, NLM_F_CREATE, "fill a set")
}

fn new_chain() -> NftRequest {
    let attributes = vec![
        ChainAttribute::Table(TABLE.into()),
        ChainAttribute::Name(CHAIN.into()),
        ChainAttribute::Hook(vec![
            Hook::Number(InetHookNumber::PostRouting.into()),
            Hook::Priority(PRIORITY),
        ]),
        ChainAttribute::Policy(NF_ACCEPT),
        ChainAttribute::Type("nat".into()),
    ];
    change(
        NfTablesMessage::NewChain(ChainMessage { attributes }),
        NLM_F_CREATE,
        "make the chain",
    )
}

/// What the rule of a podCIDR is known by, printed by `nft list`.
fn comment(pod_cidr: &IpNetwork) -> String {
    format!("pods {pod_cidr} to the outside (revision {REVISION})")
}

fn new_rule(pod_cidr: &IpNetwork) -> NftRequest {
    let family = Family::of(pod_cidr.network());
    let (source, destination) = family.offsets();
    let (network, mask) = match pod_cidr {
        IpNetwork::V4(prefix) => (
            prefix.network().octets().to_vec(),
            prefix.mask().octets().to_vec(),
        ),
        IpNetwork::V6(prefix) => (
            prefix.network().octets().to_vec(),
            prefix.mask().octets().to_vec(),
        ),
    };
    let zeros = vec![0; mask.len()];
    let register = Register::Reg1;
    let expressions = [
        Expressions::Meta(vec![
            Meta::Key(MetaKey::Nfproto),
            Meta::DestinationRegister(register),
        ]),
        equals(vec![family.number()]),
        load(source, family.size()),
        Expressions::Bitwise(vec![
            Bitwise::SourceRegister(register),
            Bitwise::DestinationRegister(register),
            Bitwise::Length(family.size()),
            Bitwise::Mask(DataAttribute::Value(mask)),
            Bitwise::Xor(DataAttribute::Value(zeros)),
        ]),
        equals(network),
        load(destination, family.size()),
        Expressions::Lookup(vec![
            Lookup::Set(family.set().into()),
            Lookup::SourceRegister(register),
            Lookup::Flags(NFT_LOOKUP_INVERTED),
        ]),
        Expressions::Other {
            expression_type: "masq".into(),
            attributes: vec![DefaultNla::new(
                NFTA_MASQ_FLAGS,
                NF_NAT_RANGE_PROTO_RANDOM_FULLY.to_be_bytes().to_vec(),
            )],
        },
    ];
    let attributes = vec![
        RuleAttribute::Table(TABLE.into()),
        RuleAttribute::Chain(CHAIN.into()),
        RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()),
        RuleAttribute::UserData(user_data(&comment(pod_cidr))),
    ];
    let message = NfTablesMessage::NewRule(RuleMessage { attributes });
    change(message, NLM_F_CREATE | NLM_F_APPEND, "add a rule")
}

fn load(offset: u32, length: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(NFT_PAYLOAD_NETWORK_HEADER),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

fn equals(value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(Operator::Equal),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

/// A comment as the `nft` tool keeps it: type, length, text and a zero byte.
fn user_data(comment: &str) -> Vec<u8> {
    let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![USER_DATA_COMMENT, length];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    bytes
}
