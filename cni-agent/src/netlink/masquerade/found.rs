//! What the kernel has of our table.

use super::{
    NftRequest,
    ruleset::{CHAIN, Family, NF_ACCEPT, PRIORITY, TABLE, change, table_message},
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, InetHookNumber, NfTablesMessage, RuleAttribute,
    RuleMessage, SetElementFlags, SetElementList, SetElementMessage, TableAttribute, TableFlags,
};
use rtnetlink::packet_core::{DecodeError, NlasIterator};

fn question(message: NfTablesMessage) -> NftRequest {
    change(message, 0, "read the table")
}

pub(super) fn get_table() -> NftRequest {
    question(NfTablesMessage::GetTable(table_message()))
}

pub(super) fn get_chain() -> NftRequest {
    let attributes = vec![
        ChainAttribute::Table(TABLE.into()),
        ChainAttribute::Name(CHAIN.into()),
    ];
    question(NfTablesMessage::GetChain(ChainMessage { attributes }))
}

pub(super) fn get_rules() -> NftRequest {
    let attributes = vec![RuleAttribute::Table(TABLE.into())];
    question(NfTablesMessage::GetRule(RuleMessage { attributes }))
}

pub(super) fn get_elements(family: Family) -> NftRequest {
    let attributes = vec![
        SetElementList::Table(TABLE.into()),
        SetElementList::Set(family.set().into()),
    ];
    question(NfTablesMessage::GetSetElement(SetElementMessage {
        attributes,
    }))
}

/// Active (not "dormant"), and with one chain, two sets and nothing else in it.
pub(super) fn is_our_table(reply: &NfTablesMessage) -> bool {
    let NfTablesMessage::NewTable(table) = reply else {
        return false;
    };
    let is_active = table.attributes.iter().all(|attribute| match attribute {
        TableAttribute::Flags(flags) => *flags == TableFlags::empty(),
        _ => true,
    });
    is_active && table.attributes.contains(&TableAttribute::Use(3))
}

/// On the right hook, and letting pass what no rule matches.
pub(super) fn is_our_chain(reply: &NfTablesMessage) -> bool {
    let NfTablesMessage::NewChain(chain) = reply else {
        return false;
    };
    let is_hooked = chain.attributes.iter().any(|attribute| match attribute {
        ChainAttribute::Hook(hook) => {
            hook.contains(&Hook::Number(InetHookNumber::PostRouting.into()))
                && hook.contains(&Hook::Priority(PRIORITY))
        }
        _ => false,
    });
    is_hooked
        && chain
            .attributes
            .contains(&ChainAttribute::Type("nat".into()))
        && chain
            .attributes
            .contains(&ChainAttribute::Policy(NF_ACCEPT))
}

/// The comments of all rules, in order; a rule without one gives an empty text.
pub(super) fn comments(replies: &[NfTablesMessage]) -> Vec<String> {
    replies
        .iter()
        .filter_map(|reply| match reply {
            NfTablesMessage::NewRule(rule) => Some(rule),
            _ => None,
        })
        .map(|rule| {
            let text = rule
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RuleAttribute::UserData(bytes) => bytes.get(2..),
                    _ => None,
                });
            let text = String::from_utf8_lossy(text.unwrap_or_default());
            text.trim_end_matches('\0').to_owned()
        })
        .collect()
}

/// The edges of intervals in one message about elements of a set. Read by hand: the message crate
/// prints the whole rest of the list for every element (to word an error that does not happen), a
/// second for 2,000 elements. An end at zero is what tools add for order's sake.
pub(super) fn edges(message: &[u8]) -> Result<Vec<(u128, bool)>, DecodeError> {
    const NFGENMSG: usize = 4;
    const LIST_ELEMENTS: u16 = 3;
    let mut edges = Vec::new();
    for attribute in NlasIterator::new(message.get(NFGENMSG..).unwrap_or(&[])) {
        let attribute = attribute?;
        if attribute.kind() == LIST_ELEMENTS {
            for element in NlasIterator::new(attribute.value()) {
                edges.extend(edge(element?.value())?.filter(|edge| *edge != (0, true)));
            }
        }
    }
    Ok(edges)
}

fn edge(element: &[u8]) -> Result<Option<(u128, bool)>, DecodeError> {
    const KEY: u16 = 1;
    const FLAGS: u16 = 3;
    const DATA_VALUE: u16 = 1;
    let mut is_end = false;
    let mut key = None;
    for attribute in NlasIterator::new(element) {
        let attribute = attribute?;
        match attribute.kind() {
            KEY => {
                for data in NlasIterator::new(attribute.value()) {
                    let data = data?;
                    if data.kind() == DATA_VALUE {
                        key = Some(number(data.value()));
                    }
                }
            }
            FLAGS => {
                let flags = u32::try_from(number(attribute.value())).unwrap_or(0);
                is_end = flags & SetElementFlags::IntervalEnd.bits() != 0;
            }
            _ => {}
        }
    }
    Ok(key.map(|value| (value, is_end)))
}

/// Bytes in network order as a number.
fn number(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u128::from(*byte))
}
