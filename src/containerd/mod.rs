//! containerd's API in the namespace of the caller: blobs, leases, images, containers and their snapshots.
//!
//! Everything here waits, on threads that may.

mod containers;
mod error;
mod images;
pub(crate) mod labels;
pub(crate) mod lease;
mod put;
mod read;
pub(crate) mod snapshots;
pub(crate) mod store;
pub(crate) mod upload;
pub(crate) mod version;

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tokio::runtime::Handle;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

pub(crate) use self::error::{Error, Result};
pub(crate) use self::version::Version;
use crate::proto::content::content_client::ContentClient;
use crate::proto::leases::leases_client::LeasesClient;

/// Metadata of a call that names its namespace (pkg/namespaces of containerd).
const NAMESPACE: &str = "containerd-namespace";
/// Metadata of a call that names the lease of what it makes (core/leases of containerd).
const LEASE: &str = "containerd-lease";
/// The namespace of a call that names none.
const DEFAULT_NAMESPACE: &str = "default";
/// Largest message, as containerd has it.
const MAX_MESSAGE: usize = 16 << 20;
/// Bytes of a blob on their way to us.
const WINDOW: u32 = 8 << 20;
/// Longest time without any answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// containerd, reached when it is needed and again after it was away.
#[derive(Debug, Clone)]
pub(crate) struct Containerd {
    content: ContentClient<Channel>,
    leases: LeasesClient<Channel>,
    /// For services that are seldom called.
    channel: Channel,
    known: version::Known,
    runtime: Handle,
}

/// For whom something is done: namespace and lease of the call that asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Scope {
    /// As the metadata of a call say.
    pub(crate) fn of(metadata: &MetadataMap) -> Self {
        let default = || MetadataValue::from_static(DEFAULT_NAMESPACE);
        let given = |key| metadata.get(key).filter(|value| !value.is_empty()).cloned();
        Self { namespace: given(NAMESPACE).unwrap_or_else(default), lease: given(LEASE) }
    }

    /// Of a namespace that a caller named.
    ///
    /// # Errors
    /// When no call can carry that name.
    pub(crate) fn named(namespace: &str) -> Result<Self> {
        let bad = || Error::Unusable { what: "name of a namespace", text: namespace.to_owned() };
        let value = namespace.parse().ok().filter(|_| !namespace.is_empty());
        Ok(Self { namespace: value.ok_or_else(bad)?, lease: None })
    }

    /// The namespace.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.to_str().unwrap_or_default()
    }

    /// The same for what outlasts the call, which may take its lease with it.
    pub(crate) fn without_lease(&self) -> Self {
        Self { lease: None, ..self.clone() }
    }

    /// The same for what `lease` protects.
    fn with_lease(&self, lease: MetadataValue<Ascii>) -> Self {
        Self { lease: Some(lease), ..self.clone() }
    }

    /// A call of ours on behalf of this one.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(NAMESPACE, self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert(LEASE, lease.clone());
        }
        request
    }
}

impl Containerd {
    /// containerd at `address`; nothing is asked of it yet. To be called on a thread of the runtime.
    ///
    /// # Errors
    /// When `address` is nothing to connect to.
    pub(crate) fn at(address: &Path) -> Result<Self> {
        let text = || address.display().to_string();
        let bad = || Error::Unusable { what: "address of containerd", text: text() };
        let uri = format!("unix://{}", address.to_str().ok_or_else(bad)?);
        let endpoint = Endpoint::from_shared(uri).map_err(|_| bad())?;
        let channel = endpoint
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .connect_timeout(PATIENCE)
            .connect_lazy();
        Ok(Self {
            content: ContentClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            leases: LeasesClient::new(channel.clone()),
            channel,
            known: version::Known::default(),
            runtime: Handle::current(),
        })
    }

    /// What our tasks run on.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Waits for one answer.
    fn wait<T>(&self, answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        wait(&self.runtime, answer)
    }
}

/// Waits for `answer`, on a thread that may block, and not for ever.
fn wait<T>(runtime: &Handle, answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = async {
        let silence = || Status::new(Code::DeadlineExceeded, format!("no answer in {PATIENCE:?}"));
        tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(silence()))
    };
    runtime.block_on(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_and_lease_are_passed_on() {
        let mut metadata = MetadataMap::new();
        let of_nobody = Scope::of(&metadata).request(());
        assert_eq!(of_nobody.metadata().get(NAMESPACE).unwrap(), "default");
        assert!(of_nobody.metadata().get(LEASE).is_none());
        metadata.insert(NAMESPACE, "k8s.io".parse().unwrap());
        metadata.insert(LEASE, "l1".parse().unwrap());
        let request = Scope::of(&metadata).request(());
        assert_eq!(request.metadata().get(NAMESPACE).unwrap(), "k8s.io");
        assert_eq!(request.metadata().get(LEASE).unwrap(), "l1");
        metadata.insert(NAMESPACE, "".parse().unwrap());
        assert_eq!(Scope::of(&metadata).request(()).metadata().get(NAMESPACE).unwrap(), "default");
    }
}
