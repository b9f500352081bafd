//! The cluster as it should be: one consistent snapshot that a source publishes and everybody else
//! reads. Level-triggered: a reader that missed some revisions sees the last one, whole.

use crate::model::{ClusterPolicy, EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service};
use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, btree_map},
    net::IpAddr,
    ops::Index,
    sync::Arc,
};

/// A snapshot. Readers get it as `Arc<Cluster>` from a watch channel and never see it change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Grows by one whenever the contents change; 0 is the empty cluster before the first read.
    pub revision: u64,
    /// By name.
    pub nodes: Objects<String, Node>,
    /// By namespace and name.
    pub pods: Objects<(String, String), Pod>,
    /// By namespace and name.
    pub services: Objects<(String, String), Service>,
    /// By namespace and name.
    pub slices: Objects<(String, String), EndpointSlice>,
    /// By name.
    pub namespaces: Objects<String, Namespace>,
    /// By namespace and name.
    pub policies: Objects<(String, String), NetworkPolicy>,
    /// By kind and name.
    pub cluster_policies: Objects<(String, String), ClusterPolicy>,
    /// Addresses of the names that policies name: no source tells them, this node finds them out.
    pub domains: Objects<String, BTreeSet<IpAddr>>,
}

impl Cluster {
    /// Whether both hold the same objects, whatever their revisions.
    pub fn same_objects(&self, other: &Self) -> bool {
        self.nodes == other.nodes
            && self.pods == other.pods
            && self.services == other.services
            && self.slices == other.slices
            && self.namespaces == other.namespaces
            && self.policies == other.policies
            && self.cluster_policies == other.cluster_policies
            && self.domains == other.domains
    }

    /// Whether there is any policy: without, nobody asks for other nodes' pods.
    pub fn has_policies(&self) -> bool {
        !(self.policies.is_empty() && self.cluster_policies.is_empty())
    }
}

/// The objects of one kind, in order. A copy shares everything with its original; a change to one
/// of them afterwards copies the keys once, never the objects: ten thousand of a kind make a
/// snapshot cheap all the same.
#[derive(Debug)]
pub struct Objects<K, V>(Arc<BTreeMap<K, Arc<V>>>);

impl<K: Ord + Clone, V> Objects<K, V> {
    /// The object that was there before is returned.
    pub fn insert(&mut self, key: K, object: impl Into<Arc<V>>) -> Option<Arc<V>> {
        Arc::make_mut(&mut self.0).insert(key, object.into())
    }

    /// The object removed; nothing is copied if there is none.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
    {
        if !self.0.contains_key(key) {
            return None;
        }
        Arc::make_mut(&mut self.0).remove(key)
    }

    /// Keeps what `keep` wants; nothing is copied if that is everything.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        if !self.0.iter().all(|(key, object)| keep(key, object)) {
            Arc::make_mut(&mut self.0).retain(|key, object| keep(key, object));
        }
    }
}

impl<K: Ord, V> Objects<K, V> {
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map(AsRef::as_ref)
    }

    /// As `get`, to be kept.
    pub fn shared<Q: Ord + ?Sized>(&self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).cloned()
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }
}

impl<K, V> Objects<K, V> {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn keys(&self) -> btree_map::Keys<'_, K, Arc<V>> {
        self.0.keys()
    }

    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> + Clone + '_ {
        self.0.values().map(AsRef::as_ref)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &V)> + Clone + '_ {
        self.0.iter().map(|(key, object)| (key, object.as_ref()))
    }

    /// Keys of what is here or there and not the same in both, in order. Quick where most objects are
    /// shared.
    pub fn differing<'a>(&'a self, before: &'a Self) -> Vec<&'a K>
    where
        K: Ord,
        V: PartialEq,
    {
        let mut found = Vec::new();
        if self.is_copy_of(before) {
            return found;
        }
        let (mut new, mut old) = (self.0.iter().peekable(), before.0.iter().peekable());
        loop {
            let order = match (new.peek(), old.peek()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return found,
            };
            let a = new.next_if(|_| order.is_le());
            let b = old.next_if(|_| order.is_ge());
            match (a, b) {
                (Some((_, a)), Some((_, b))) if Arc::ptr_eq(a, b) || a == b => {}
                (a, b) => found.extend(a.or(b).map(|(key, _)| key)),
            }
        }
    }

    /// Whether both are copies of one and neither was changed since.
    pub fn is_copy_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<K, V> Clone for Objects<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Default for Objects<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Objects<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.is_copy_of(other)
            || self.len() == other.len()
                && self.0.keys().eq(other.0.keys())
                && (self.0.values().zip(other.0.values())).all(|(a, b)| Arc::ptr_eq(a, b) || a == b)
    }
}

impl<K: Eq, V: Eq> Eq for Objects<K, V> {}

impl<K: Ord, V> FromIterator<(K, V)> for Objects<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(objects: I) -> Self {
        let objects = objects.into_iter().map(|(key, o)| (key, Arc::new(o)));
        Self(Arc::new(objects.collect()))
    }
}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for Objects<K, V> {
    type Output = V;

    /// # Panics
    /// As a `BTreeMap` does, if there is no such object.
    fn index(&self, key: &Q) -> &V {
        &self.0[key]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_not_changed_with_its_original_and_shares_what_stays() {
        let mut objects: Objects<u8, String> = (0..3).map(|n| (n, n.to_string())).collect();
        let copy = objects.clone();
        assert!(objects.remove(&9).is_none());
        objects.retain(|_, _| true);
        assert!(objects.is_copy_of(&copy), "nothing was changed");
        objects.insert(1, "one".to_owned());
        objects.remove(&2);
        assert_eq!(copy.values().collect::<Vec<_>>(), ["0", "1", "2"]);
        assert_eq!(objects.values().collect::<Vec<_>>(), ["0", "one"]);
        assert!(Arc::ptr_eq(
            &objects.shared(&0).unwrap(),
            &copy.shared(&0).unwrap()
        ));
        assert!(objects != copy);
        assert_eq!(objects.differing(&copy), [&1, &2]);
        objects.insert(7, "new".to_owned());
        assert_eq!(copy.differing(&objects), [&1, &2, &7]);
        objects = (0..3).map(|n| (n, n.to_string())).collect();
        assert!(
            objects.differing(&copy).is_empty(),
            "equal, though not shared"
        );
        assert!(objects == copy && !objects.is_copy_of(&copy));
    }
}
