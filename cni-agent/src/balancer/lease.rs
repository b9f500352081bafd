//! One of several agents is the holder of a Lease (coordination.k8s.io/v1), and another once it is gone.
//!
//! Clocks of nodes differ, so an agent doesn't compare the time in a Lease with its own: a holder is
//! gone when its Lease did not change for [`LASTS`] since this agent saw it so.

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Error,
    api::{DeleteParams, GetParams, PostParams, Preconditions},
};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// After so long without a sign of its holder a Lease is another's.
pub const LASTS: Duration = Duration::from_secs(3);
/// How often a holder gives a sign, and others look.
pub const RENEWED: Duration = Duration::from_secs(1);
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(2);

/// What an agent knows of a Lease.
#[derive(Clone, Debug)]
struct Noted {
    holder: String,
    /// The object's version: it changes with each sign of the holder.
    version: String,
    /// When this agent first saw it so.
    since: Instant,
}

/// What is to be done about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing: another holds it, or nobody wants it.
    Leave,
    /// Take it, or give a sign.
    Hold,
    /// Let another have it at once.
    Release,
}

/// PURE: what `me` does about a Lease.
fn step(me: &str, noted: Option<&Noted>, candidate: bool, now: Instant) -> Step {
    let Some(noted) = noted else {
        return if candidate { Step::Hold } else { Step::Leave };
    };
    if noted.holder == me {
        return if candidate { Step::Hold } else { Step::Release };
    }
    let gone = noted.holder.is_empty() || now.duration_since(noted.since) >= LASTS;
    if candidate && gone {
        Step::Hold
    } else {
        Step::Leave
    }
}

/// An agent's share in a Lease.
pub struct Share {
    leases: Api<Lease>,
    name: String,
    /// The agent's node.
    me: String,
    noted: Option<Noted>,
    holds: bool,
    /// When the last sign that the API server took was sent.
    signed: Option<Instant>,
    failing: bool,
}

impl Share {
    /// Of the Lease of that name.
    pub fn new(leases: Api<Lease>, name: String, me: String) -> Self {
        Self {
            leases,
            name,
            me,
            noted: None,
            holds: false,
            signed: None,
            failing: false,
        }
    }

    /// The Lease's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the last look failed.
    pub fn failing(&self) -> bool {
        self.failing
    }

    /// Until when nobody else can hold it, whatever happens; none while another may.
    pub fn sure_until(&self) -> Option<Instant> {
        self.signed.filter(|_| self.holds).map(|at| at + LASTS)
    }

    /// When another's Lease ends unless its holder gives a sign; none while there is no other.
    pub fn due(&self) -> Option<Instant> {
        let other = self.noted.as_ref().filter(|_| !self.holds);
        other.map(|noted| noted.since + LASTS)
    }

    /// Whether this agent holds it, as far as is known. It goes on to while the API server doesn't answer:
    /// then nobody could take it over.
    pub fn holds(&self) -> bool {
        self.holds
    }

    /// Looks at the Lease and does its step. `candidate`: this agent may hold it.
    ///
    /// # Errors
    /// The API server did not answer or refused; what is held stays held.
    pub async fn look(&mut self, candidate: bool) -> Result<(), Error> {
        let late = |error| Err(Error::Service(Box::new(error)));
        let looked = timeout(PATIENCE, self.try_look(candidate)).await;
        let looked = looked.unwrap_or_else(late);
        self.failing = looked.is_err();
        looked
    }

    async fn try_look(&mut self, candidate: bool) -> Result<(), Error> {
        // As the API server has it in memory: every node asks each second. What is stale is refused by its
        // version.
        let found = match self.leases.get_with(&self.name, &GetParams::any()).await {
            Err(Error::Api(status)) if status.code == 404 => None,
            found => Some(found?),
        };
        let now = Instant::now();
        self.note(found.as_ref(), now);
        let done = match step(&self.me, self.noted.as_ref(), candidate, now) {
            Step::Leave => {
                self.holds = false;
                return Ok(());
            }
            Step::Hold => self.hold(found).await,
            Step::Release => self.release(found).await,
        };
        match done {
            Ok(()) => Ok(()),
            // It was changed meanwhile. The next look tells by whom; until then this one holds what it held.
            Err(Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn note(&mut self, found: Option<&Lease>, now: Instant) {
        let seen = found.map(|lease| {
            let version = lease.metadata.resource_version.clone();
            (holder(lease).to_owned(), version.unwrap_or_default())
        });
        let Some((holder, version)) = seen else {
            self.noted = None;
            return;
        };
        // While this agent could not look, the holder may have given signs, or could not either.
        let looked = self.noted.as_ref().filter(|_| !self.failing);
        let same = looked.filter(|n| n.version == version);
        let since = same.map_or(now, |noted| noted.since);
        self.noted = Some(Noted {
            holder,
            version,
            since,
        });
    }

    async fn hold(&mut self, found: Option<Lease>) -> Result<(), Error> {
        let sent = Instant::now();
        let now = MicroTime(Timestamp::now());
        let params = PostParams::default();
        match found {
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(self.spec(now.clone(), now, 0)),
                };
                self.leases.create(&params, &lease).await?;
            }
            Some(mut lease) => {
                let before = lease.spec.take().unwrap_or_default();
                let changes = before.lease_transitions.unwrap_or(0);
                let own = before.holder_identity.as_deref() == Some(self.me.as_str());
                lease.spec = Some(match before.acquire_time {
                    Some(acquired) if own => self.spec(acquired, now, changes),
                    _ => self.spec(now.clone(), now, changes.saturating_add(1)),
                });
                // With the version it was read with: 409 when another was faster.
                self.leases.replace(&self.name, &params, &lease).await?;
            }
        }
        (self.holds, self.signed) = (true, Some(sent));
        Ok(())
    }

    fn spec(&self, acquired: MicroTime, renewed: MicroTime, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            acquire_time: Some(acquired),
            renew_time: Some(renewed),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    async fn release(&mut self, found: Option<Lease>) -> Result<(), Error> {
        self.holds = false;
        let Some(mut lease) = found else {
            return Ok(());
        };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
        }
        let params = PostParams::default();
        self.leases.replace(&self.name, &params, &lease).await?;
        Ok(())
    }

    /// Gives it up, because the agent ends. What fails is no fault: others wait until it has lasted.
    pub async fn give_up(&mut self) {
        if !self.holds {
            return;
        }
        let given = async {
            let found = self.leases.get_opt(&self.name).await?;
            let own = found.filter(|lease| holder(lease) == self.me);
            self.release(own).await
        };
        if let Err(error) = given.await {
            tracing::warn!(%error, lease = self.name, "a Lease can't be given up");
        }
    }
}

fn holder(lease: &Lease) -> &str {
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
    holder.unwrap_or_default()
}

/// Removes a Lease that nobody holds.
///
/// # Errors
/// Those of the API server.
pub async fn remove_free(leases: &Api<Lease>, name: &str) -> Result<(), Error> {
    let found = timeout(PATIENCE, leases.get_opt(name)).await;
    let found = found.unwrap_or_else(|late| Err(Error::Service(Box::new(late))))?;
    let Some(lease) = found.filter(|lease| holder(lease).is_empty()) else {
        return Ok(());
    };
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            resource_version: lease.metadata.resource_version,
            uid: None,
        }),
        ..DeleteParams::default()
    };
    leases.delete(name, &params).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(holder: &str, since: Instant) -> Option<Noted> {
        Some(Noted {
            holder: holder.into(),
            version: "1".into(),
            since,
        })
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_or_its_holder_gave_no_sign_for_long() {
        let now = Instant::now() + Duration::from_secs(60);
        let silent = now - LASTS;
        let lately = silent + Duration::from_millis(1);
        for (what, noted, candidate, expected) in [
            ("none is there", None, true, Step::Hold),
            ("none is there and none wanted", None, false, Step::Leave),
            ("another's", noted("b", lately), true, Step::Leave),
            (
                "another's who is gone",
                noted("b", silent),
                true,
                Step::Hold,
            ),
            (
                "of one who is gone, not wanted",
                noted("b", silent),
                false,
                Step::Leave,
            ),
            ("released", noted("", now), true, Step::Hold),
            ("its own", noted("a", lately), true, Step::Hold),
            (
                "its own from before a restart",
                noted("a", silent),
                true,
                Step::Hold,
            ),
            (
                "its own, not wanted any more",
                noted("a", lately),
                false,
                Step::Release,
            ),
        ] {
            assert_eq!(
                step("a", noted.as_ref(), candidate, now),
                expected,
                "{what}"
            );
        }
    }
}
