//! One operation at a time for each attachment; different attachments don't wait for each other.

use crate::model::AttachmentId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Locks by attachment; a lock exists only while somebody holds it or waits for it.
#[derive(Debug, Default)]
pub(super) struct AttachmentLocks(Arc<Mutex<HashMap<AttachmentId, Arc<AsyncMutex<()>>>>>);

/// Holds an attachment's lock.
#[derive(Debug)]
pub(super) struct AttachmentGuard {
    id: AttachmentId,
    held: Option<OwnedMutexGuard<()>>,
    locks: Arc<Mutex<HashMap<AttachmentId, Arc<AsyncMutex<()>>>>>,
}

impl AttachmentLocks {
    /// Waits until no other operation on `id` runs.
    pub(super) async fn lock(&self, id: &AttachmentId) -> AttachmentGuard {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.entry(id.clone()).or_default().clone()
        };
        AttachmentGuard {
            id: id.clone(),
            held: Some(lock.lock_owned().await),
            locks: self.0.clone(),
        }
    }
}

impl AttachmentLocks {
    /// Takes the lock if no other operation on `id` runs or waits.
    pub(super) fn try_lock(&self, id: &AttachmentId) -> Option<AttachmentGuard> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.contains_key(id) {
            return None;
        }
        let lock = Arc::new(AsyncMutex::new(()));
        let held = lock.clone().try_lock_owned().ok();
        locks.insert(id.clone(), lock);
        Some(AttachmentGuard {
            id: id.clone(),
            held,
            locks: self.0.clone(),
        })
    }
}

impl Drop for AttachmentGuard {
    fn drop(&mut self) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.held.take());
        // Only the table itself still knows the lock: nobody waits.
        if locks
            .get(&self.id)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            locks.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_operation_waits_and_the_table_ends_empty() {
        let locks = Arc::new(AttachmentLocks::default());
        let id = AttachmentId::new("c1", "eth0").unwrap();
        let first = locks.lock(&id).await;
        let other = locks.lock(&AttachmentId::new("c2", "eth0").unwrap()).await;
        let waiting = tokio::spawn({
            let (locks, id) = (locks.clone(), id.clone());
            async move {
                let _second = locks.lock(&id).await;
            }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert!(locks.try_lock(&id).is_none(), "it is busy");
        drop(first);
        waiting.await.unwrap();
        drop(other);
        let third = locks.try_lock(&id).unwrap();
        assert!(locks.try_lock(&id).is_none());
        drop(third);
        assert!(locks.0.lock().unwrap().is_empty());
    }
}
