//! PURE: the fields of a map in a YAML text: those that must be there, and those that needn't.

use super::reader::At;
use crate::yaml::Tree;

/// The fields of a map.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    at: At<'a>,
    map: &'a [(String, Tree)],
    /// Whether there are keys that nobody knows, which is a fault already.
    pub(super) has_unknown: bool,
}

impl<'a> Fields<'a> {
    pub(super) fn new(at: At<'a>, map: &'a [(String, Tree)], known: &[&str]) -> Self {
        Self {
            at,
            map,
            has_unknown: map.iter().any(|(name, _)| !known.contains(&name.as_str())),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<At<'a>> {
        let (name, tree) = self.map.iter().find(|(field, _)| field == name)?;
        Some(self.at.child(name, tree))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.map.iter().any(|(field, _)| field == name)
    }

    /// The field as `read` reads it, `default` if it isn't there; nothing, if it is faulty.
    pub(super) fn or<T>(
        &self,
        name: &str,
        default: T,
        read: impl FnOnce(At<'a>) -> Option<T>,
    ) -> Option<T> {
        self.get(name).map_or(Some(default), read)
    }

    /// As `or`, of what has no default.
    pub(super) fn maybe<T>(
        &self,
        name: &str,
        read: impl FnOnce(At<'a>) -> Option<T>,
    ) -> Option<Option<T>> {
        self.get(name).map_or(Some(None), |at| read(at).map(Some))
    }

    /// As `or`, of what must be there.
    pub(super) fn must<T>(
        &self,
        name: &str,
        remedy: &str,
        read: impl FnOnce(At<'a>) -> Option<T>,
    ) -> Option<T> {
        match self.get(name) {
            Some(at) => read(at),
            None => {
                if !self.has_unknown {
                    self.at.fault(format!("has no {name}; {remedy}"));
                }
                None
            }
        }
    }
}
