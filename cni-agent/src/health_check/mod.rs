//! `healthCheckNodePort` of Services with `externalTrafficPolicy: Local`: load balancers ask each node there
//! whether it has endpoints of the Service, and send to those that have. Answers are as kube-proxy's.
//! [`serve`] opens and closes the ports as what is desired changes.

mod port;
#[cfg(test)]
mod tests;

use crate::service::HealthCheck;
use port::Port;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// What is told at each port.
pub type Checks = BTreeMap<u16, HealthCheck>;

/// Ports that can't be served, each with why and the remedy.
#[derive(Clone, Debug, Default)]
pub struct Problems(Arc<Mutex<BTreeMap<u16, String>>>);

impl Problems {
    /// By port.
    pub fn snapshot(&self) -> Vec<String> {
        let problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        problems.values().cloned().collect()
    }

    fn set(&self, port: u16, problem: Option<String>) {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => {
                if problems.get(&port) != Some(&problem) {
                    tracing::error!("{problem}");
                }
                problems.insert(port, problem);
            }
            None => {
                problems.remove(&port);
            }
        }
    }
}

/// Serves what is desired until nobody tells it any more. A port that another process has is told in
/// `problems` and tried again.
pub async fn serve(mut desired: watch::Receiver<Checks>, problems: Problems) {
    let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
    loop {
        let checks = desired.borrow_and_update().clone();
        let gone = ports.extract_if(.., |number, _| !checks.contains_key(number));
        for (number, port) in gone.collect::<Vec<_>>() {
            // Its socket is closed when this returns: who wants the number next may have it.
            port.close().await;
            problems.set(number, None);
        }
        for (number, check) in checks {
            match ports.get(&number) {
                Some(port) => port.tell(check),
                None => {
                    ports.insert(number, Port::open(number, check, problems.clone()));
                }
            }
        }
        if desired.changed().await.is_err() {
            return;
        }
    }
}
