//! Leases: what they name is not collected as garbage. A call that containerd passes on does not bring the lease of its
//! caller along before 2.4, so what is uploaded needs one of ours.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use erolith_mkfs::meta::Time;
use tonic::metadata::{Ascii, MetadataValue};

use super::error::{Error, Result};
use super::{Containerd, Scope};
use crate::proto::leases::{
    AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, Resource,
};

/// How long a blob may be on its way. The lease of one that never came ends by itself then.
const UPLOAD: Duration = Duration::from_secs(60 * 60);
/// How long a blob that came is kept for its caller to take it over: callers name it in a lease or in a document of
/// theirs at once.
const HANDOVER: Duration = Duration::from_secs(10 * 60);
/// The label of a lease that says for which call it was made, by the `ref` of that call.
const REFERENCE: &str = "org.erolith.lease.reference";
/// The label that says when a lease ends, in the form of RFC 3339 (core/metadata of containerd).
const EXPIRE: &str = "containerd.io/gc.expire";

/// A scope with a lease. One that was made here ends by itself, unless it is given up before.
#[derive(Debug, Clone)]
pub(crate) struct Leased {
    /// With the lease.
    pub(super) scope: Scope,
    /// The lease, when it is ours.
    id: Option<String>,
}

/// When a lease of `lifetime` that begins `now` ends, to the second.
fn expiry(now: SystemTime, lifetime: Duration) -> String {
    let end = now.duration_since(UNIX_EPOCH).unwrap_or_default() + lifetime;
    let sec = i64::try_from(end.as_secs()).unwrap_or(i64::MAX);
    crate::term::iso(Time { sec, nsec: 0 })
}

impl Leased {
    /// The scope, for calls whose results the lease is to keep.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }
}

impl Containerd {
    /// The scope itself if it has a lease, else with a new one.
    ///
    /// # Errors
    /// When containerd gives none.
    pub(super) fn leased(&self, scope: &Scope) -> Result<Leased> {
        if scope.lease.is_some() {
            return Ok(Leased { scope: scope.clone(), id: None });
        }
        self.lease(scope, UPLOAD)
    }

    /// Keeps a blob that was uploaded under a lease of ours for its caller, who made a call with this `ref`; one of the
    /// caller's keeps it already.
    ///
    /// # Errors
    /// When containerd gives no lease.
    pub(crate) fn hand_over(&self, leased: &Leased, digest: &str, reference: &str) -> Result<()> {
        if leased.id.is_none() {
            return Ok(());
        }
        let labels = match reference {
            "" => BTreeMap::new(),
            _ => BTreeMap::from([(REFERENCE.to_owned(), reference.to_owned())]),
        };
        let kept = self.labelled_lease(&leased.scope, HANDOVER, labels)?;
        self.protect(&kept, digest)?;
        self.give_up(leased);
        Ok(())
    }

    /// Gives up what [`Containerd::hand_over`] keeps for the call with this `ref`, because its caller has taken it over.
    /// What cannot be given up ends by itself.
    pub(crate) fn release(&self, scope: &Scope, reference: &str) {
        let filters = vec![format!("labels.\"{REFERENCE}\"==\"{reference}\"")];
        let listed = self.wait(self.leases.clone().list(scope.request(ListRequest { filters })));
        let listed = listed.map(|answer| answer.into_inner().leases).unwrap_or_default();
        for lease in listed {
            self.give_up(&Leased { scope: scope.clone(), id: Some(lease.id) });
        }
    }

    /// The scope with a new lease, which lasts for `lifetime`.
    ///
    /// # Errors
    /// When containerd gives none.
    pub(crate) fn lease(&self, scope: &Scope, lifetime: Duration) -> Result<Leased> {
        self.labelled_lease(scope, lifetime, BTreeMap::new())
    }

    fn labelled_lease(
        &self,
        scope: &Scope,
        lifetime: Duration,
        mut labels: BTreeMap<String, String>,
    ) -> Result<Leased> {
        let id = format!("erolith-{}", uuid::Uuid::new_v4());
        labels.insert(EXPIRE.to_owned(), expiry(SystemTime::now(), lifetime));
        let create = CreateRequest { id: id.clone(), labels };
        self.wait(self.leases.clone().create(scope.request(create)))
            .map_err(Error::answer("making a lease"))?;
        let bad = |_| Error::Unusable { what: "name of a lease", text: id.clone() };
        let lease: MetadataValue<Ascii> = id.parse().map_err(bad)?;
        Ok(Leased { scope: scope.with_lease(lease), id: Some(id) })
    }

    /// Adds a blob that was there already to our lease; one of the caller's is left as it is.
    ///
    /// # Errors
    /// When containerd does not take it.
    pub(crate) fn protect(&self, leased: &Leased, digest: &str) -> Result<()> {
        let Some(id) = leased.id.clone() else { return Ok(()) };
        let resource = Resource { id: digest.to_owned(), r#type: "content".to_owned() };
        let add = AddResourceRequest { id, resource: Some(resource) };
        let added = self.wait(self.leases.clone().add_resource(leased.scope.request(add)));
        added.map(drop).map_err(Error::answer(format!("adding blob {digest} to a lease")))
    }

    /// Gives our lease up, because nothing came of it, or because something else protects what it did.
    pub(crate) fn give_up(&self, leased: &Leased) {
        let Some(id) = leased.id.clone() else { return };
        let delete = DeleteRequest { id, sync: false };
        if let Err(status) = self.wait(self.leases.clone().delete(leased.scope.request(delete))) {
            // It ends by itself.
            tracing::debug!(%status, "a lease could not be given up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_end_at_a_time_that_containerd_can_read() {
        let now = UNIX_EPOCH + Duration::new(1_760_000_000, 123);
        assert_eq!(expiry(now, Duration::from_secs(3600)), "2025-10-09T09:53:20Z");
    }
}
