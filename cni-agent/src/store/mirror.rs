//! PURE: the store's contents in the writer's memory. It validates changes before they touch the
//! disk, takes back what the disk refused, and says which rows a transaction has to write.

use super::{Change, Contents, StoreError};
use crate::{
    ipam::Released,
    model::{AttachmentId, Endpoint},
};
use std::{collections::HashMap, net::IpAddr, sync::Arc};

/// One row as it was before a change. The log of a batch, read backwards, undoes it; its keys are
/// the rows to write.
#[derive(Debug)]
pub(super) enum Before {
    Endpoint(AttachmentId, Option<Arc<Endpoint>>),
    Released(IpAddr, Option<Released>),
    NextEndpointId(u32),
    Node(Option<String>),
}

#[derive(Debug, Default)]
pub(super) struct Mirror {
    contents: Contents,
    by_id: HashMap<u32, AttachmentId>,
    by_address: HashMap<IpAddr, AttachmentId>,
}

impl Mirror {
    pub(super) fn new(contents: Contents) -> Self {
        let mut mirror = Self::default();
        for (key, endpoint) in &contents.endpoints {
            mirror.index(key, endpoint);
        }
        mirror.contents = contents;
        mirror
    }

    pub(super) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Applies the changes of one caller, all or none.
    pub(super) fn apply(
        &mut self,
        changes: Vec<Change>,
        log: &mut Vec<Before>,
    ) -> Result<(), StoreError> {
        let start = log.len();
        for change in changes {
            if let Err(reason) = self.apply_one(change, log) {
                let own = log.split_off(start);
                self.undo(own);
                return Err(reason);
            }
        }
        Ok(())
    }

    /// Takes back what the log says.
    pub(super) fn undo(&mut self, log: Vec<Before>) {
        for before in log.into_iter().rev() {
            match before {
                Before::Endpoint(key, old) => drop(self.set_endpoint(&key, old)),
                Before::Released(address, old) => drop(self.set_released(address, old)),
                Before::NextEndpointId(old) => self.contents.next_endpoint_id = old,
                Before::Node(old) => self.contents.node = old,
            }
        }
    }

    fn apply_one(&mut self, change: Change, log: &mut Vec<Before>) -> Result<(), StoreError> {
        match change {
            Change::PutEndpoint(endpoint) => {
                self.check(&endpoint)?;
                for address in endpoint.addresses.iter() {
                    self.change_released(address, None, log);
                }
                let key = endpoint.attachment.clone();
                let old = self.set_endpoint(&key, Some(endpoint));
                log.push(Before::Endpoint(key, old));
            }
            Change::RemoveEndpoint {
                attachment,
                id,
                released,
            } => {
                let stored = self.contents.endpoints.get(&attachment);
                let Some(stored) = stored.filter(|e| e.id == id).cloned() else {
                    return Ok(());
                };
                if let Some((address, _)) = released
                    .iter()
                    .find(|(a, _)| !stored.addresses.iter().any(|own| own == *a))
                {
                    return Err(refused(format!(
                        "{address} is not an address of {attachment}"
                    )));
                }
                let old = self.set_endpoint(&attachment, None);
                log.push(Before::Endpoint(attachment, old));
                for (address, at) in released {
                    self.change_released(address, Some(at), log);
                }
            }
            Change::MarkWired { attachment, id } => {
                let stored = self.contents.endpoints.get(&attachment);
                if let Some(stored) = stored.filter(|e| e.id == id && !e.wired) {
                    let wired = Arc::new(Endpoint {
                        wired: true,
                        ..Endpoint::clone(stored)
                    });
                    let old = self.set_endpoint(&attachment, Some(wired));
                    log.push(Before::Endpoint(attachment, old));
                }
            }
            Change::Forget(addresses) => {
                for address in addresses {
                    self.change_released(address, None, log);
                }
            }
            Change::NextEndpointId(next) => {
                let old = self.contents.next_endpoint_id;
                if is_later(next, old) {
                    self.contents.next_endpoint_id = next;
                    log.push(Before::NextEndpointId(old));
                }
            }
            Change::Node(given) => match &self.contents.node {
                Some(stored) if *stored == given => {}
                Some(stored) => {
                    return Err(StoreError::OtherNode {
                        stored: stored.clone(),
                        given,
                    });
                }
                None => log.push(Before::Node(self.contents.node.replace(given))),
            },
        }
        Ok(())
    }

    fn check(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        let key = &endpoint.attachment;
        if endpoint.id == 0 {
            return Err(refused(format!("{key} has no endpoint number")));
        }
        if endpoint.addresses.iter().next().is_none() {
            return Err(refused(format!("{key} has no address")));
        }
        if let Some(other) = self.by_id.get(&endpoint.id).filter(|other| *other != key) {
            return Err(refused(format!(
                "endpoint number {} of {key} is {other}'s",
                endpoint.id
            )));
        }
        for address in endpoint.addresses.iter() {
            if let Some(other) = self.by_address.get(&address).filter(|other| *other != key) {
                return Err(refused(format!("address {address} of {key} is {other}'s")));
            }
        }
        Ok(())
    }

    fn change_released(&mut self, address: IpAddr, new: Option<Released>, log: &mut Vec<Before>) {
        let old = self.set_released(address, new);
        if old != new {
            log.push(Before::Released(address, old));
        }
    }

    fn set_released(&mut self, address: IpAddr, new: Option<Released>) -> Option<Released> {
        match new {
            Some(new) => self.contents.released.insert(address, new),
            None => self.contents.released.remove(&address),
        }
    }

    fn set_endpoint(
        &mut self,
        key: &AttachmentId,
        new: Option<Arc<Endpoint>>,
    ) -> Option<Arc<Endpoint>> {
        let old = self.contents.endpoints.remove(key);
        if let Some(old) = &old {
            self.by_id.remove(&old.id);
            for address in old.addresses.iter() {
                self.by_address.remove(&address);
            }
        }
        if let Some(new) = new {
            self.index(key, &new);
            self.contents.endpoints.insert(key.clone(), new);
        }
        old
    }

    fn index(&mut self, key: &AttachmentId, endpoint: &Endpoint) {
        self.by_id.insert(endpoint.id, key.clone());
        self.by_address
            .extend(endpoint.addresses.iter().map(|a| (a, key.clone())));
    }
}

/// Comparison of numbers that wrap around (RFC 1982).
fn is_later(new: u32, old: u32) -> bool {
    new != old && new.wrapping_sub(old) < 1 << 31
}

fn refused(reason: String) -> StoreError {
    StoreError::Refused(reason)
}
