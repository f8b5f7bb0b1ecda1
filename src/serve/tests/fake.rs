//! A containerd that is played: its content store, its leases, its version, and the keys of its snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use erolith_differ::Digest;
use prost::bytes::Bytes;
use tokio_stream::Iter;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::content::content_server::Content;
use crate::proto::content::*;
use crate::proto::leases::leases_server::Leases;
use crate::proto::leases::*;
use crate::proto::snapshots as api;
use crate::proto::snapshots::snapshots_server::Snapshots;
use crate::proto::version::VersionResponse;
use crate::proto::version::version_server::Version;

/// A blob with what is known of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    pub(super) data: Vec<u8>,
    pub(super) labels: BTreeMap<String, String>,
    /// The only namespace that has it; all have it without one.
    pub(super) only_in: Option<String>,
    /// `namespace` of the call that wrote it, and its lease.
    pub(super) namespace: String,
    pub(super) lease: String,
}

#[derive(Debug, Default)]
pub(super) struct Fake {
    pub(super) blobs: Mutex<BTreeMap<String, Stored>>,
    /// Blobs that were read.
    pub(super) reads: Mutex<Vec<String>>,
    /// Leases, with their labels and what was added to them by hand.
    pub(super) leases: Mutex<BTreeMap<String, BTreeMap<String, String>>>,
    pub(super) resources: Mutex<BTreeSet<(String, String)>>,
    pub(super) aborted: Mutex<Vec<String>>,
    /// How often it says what it knows of a blob, before the blob is gone; nothing is for ever.
    pub(super) infos: Mutex<Option<u32>>,
    /// What it says of itself; nothing is no answer.
    pub(super) version: Mutex<Option<String>>,
    /// Keys of snapshots that it knows, as clients say them; nothing is no answer.
    pub(super) snapshots: Mutex<Option<BTreeSet<String>>>,
}

impl Fake {
    /// Puts a blob there. Returns its digest.
    pub(super) fn put(&self, data: &[u8]) -> String {
        let digest = Digest::of(data).to_string();
        let stored = Stored { data: data.to_vec(), ..Stored::default() };
        self.blobs.lock().unwrap().insert(digest.clone(), stored);
        digest
    }

    /// Puts a blob with these labels there, for one namespace.
    pub(super) fn put_in(&self, namespace: &str, data: &[u8], labels: &[(&str, &str)]) -> String {
        let digest = Digest::of(data).to_string();
        let stored = Stored {
            data: data.to_vec(),
            labels: super::labels(labels),
            only_in: Some(namespace.to_owned()),
            ..Stored::default()
        };
        self.blobs.lock().unwrap().insert(digest.clone(), stored);
        digest
    }

    fn get(&self, digest: &str, metadata: &MetadataMap) -> Result<Stored, Status> {
        let missing = || Status::not_found(format!("content {digest}: not found"));
        let namespace = header(metadata, "containerd-namespace");
        let stored = self.blobs.lock().unwrap().get(digest).cloned();
        let has = |stored: &Stored| stored.only_in.as_ref().is_none_or(|only| *only == namespace);
        stored.filter(has).ok_or_else(missing)
    }

    fn commit(&self, mut stored: Stored, request: WriteContentRequest) -> Result<String, Status> {
        let digest = Digest::of(&stored.data).to_string();
        if !request.expected.is_empty() && request.expected != digest {
            return Err(Status::failed_precondition("unexpected commit digest"));
        }
        if request.total != i64::try_from(stored.data.len()).unwrap() {
            return Err(Status::failed_precondition("unexpected commit size"));
        }
        let mut blobs = self.blobs.lock().unwrap();
        if blobs.contains_key(&digest) {
            return Err(Status::already_exists(digest));
        }
        stored.labels = request.labels;
        blobs.insert(digest.clone(), stored);
        Ok(digest)
    }
}

fn header(metadata: &MetadataMap, key: &str) -> String {
    let value = metadata.get(key).map(|value| value.to_str().unwrap().to_owned());
    value.unwrap_or_default()
}

#[tonic::async_trait]
impl Content for Fake {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let metadata = request.metadata().clone();
        let digest = request.into_inner().digest;
        if let Some(left) = self.infos.lock().unwrap().as_mut() {
            *left = left.checked_sub(1).ok_or_else(|| Status::not_found(digest.clone()))?;
        }
        let Stored { labels, data, .. } = self.get(&digest, &metadata)?;
        let size = i64::try_from(data.len()).unwrap();
        let info = Some(Info { digest, size, labels, ..Default::default() });
        Ok(Response::new(InfoResponse { info }))
    }

    type ListStream = Iter<std::vec::IntoIter<Result<ListContentResponse, Status>>>;

    async fn list(
        &self,
        request: Request<ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = request.into_inner().filters;
        let matches = |labels: &BTreeMap<String, String>| {
            let name = "containerd.io/uncompressed";
            let text = labels.get(name).map(|value| format!("labels.\"{name}\"=={value}"));
            text.is_some_and(|text| filters.iter().any(|filter| text.starts_with(filter.as_str())))
        };
        let blobs = self.blobs.lock().unwrap();
        let info = blobs.iter().filter(|(_, stored)| matches(&stored.labels));
        let info = info.map(|(digest, stored)| Info {
            digest: digest.clone(),
            labels: stored.labels.clone(),
            ..Info::default()
        });
        let answer = ListContentResponse { info: info.collect() };
        Ok(Response::new(tokio_stream::iter(vec![Ok(answer)])))
    }

    async fn update(
        &self,
        request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Status> {
        let UpdateRequest { info, update_mask } = request.into_inner();
        let info = info.unwrap();
        let mut blobs = self.blobs.lock().unwrap();
        let blob = blobs.get_mut(&info.digest).unwrap();
        for path in update_mask.unwrap().paths {
            let key = path.strip_prefix("labels.").unwrap();
            blob.labels.insert(key.to_owned(), info.labels[key].clone());
        }
        Ok(Response::new(UpdateResponse { info: Some(info) }))
    }

    type ReadStream = Iter<std::vec::IntoIter<Result<ReadContentResponse, Status>>>;

    async fn read(
        &self,
        request: Request<ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let metadata = request.metadata().clone();
        let digest = request.into_inner().digest;
        let data = self.get(&digest, &metadata)?.data;
        self.reads.lock().unwrap().push(digest);
        let parts = data
            .chunks(32 * 1024)
            .map(|part| Ok(ReadContentResponse { offset: 0, data: Bytes::copy_from_slice(part) }));
        Ok(Response::new(tokio_stream::iter(parts.collect::<Vec<_>>())))
    }

    type WriteStream = Iter<std::vec::IntoIter<Result<WriteContentResponse, Status>>>;

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let namespace = header(request.metadata(), "containerd-namespace");
        let lease = header(request.metadata(), "containerd-lease");
        assert!(self.leases.lock().unwrap().contains_key(&lease), "no lease {lease:?}");
        let mut messages = request.into_inner();
        let mut stored = Stored { namespace, lease, ..Stored::default() };
        let mut answers = Vec::new();
        while let Some(message) = messages.message().await? {
            assert!(!message.r#ref.is_empty());
            assert_eq!(message.offset, i64::try_from(stored.data.len()).unwrap());
            stored.data.extend_from_slice(&message.data);
            if message.action() == WriteAction::Commit {
                let digest = self.commit(stored, message)?;
                answers.push(Ok(WriteContentResponse { digest, ..Default::default() }));
                break;
            }
            answers.push(Ok(WriteContentResponse::default()));
        }
        Ok(Response::new(tokio_stream::iter(answers)))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<()>, Status> {
        self.aborted.lock().unwrap().push(request.into_inner().r#ref);
        Ok(Response::new(()))
    }
}

#[tonic::async_trait]
impl Leases for Fake {
    async fn create(
        &self,
        request: Request<CreateRequest>,
    ) -> Result<Response<CreateResponse>, Status> {
        let CreateRequest { id, labels } = request.into_inner();
        self.leases.lock().unwrap().insert(id, labels);
        Ok(Response::new(CreateResponse::default()))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<()>, Status> {
        self.leases.lock().unwrap().remove(&request.into_inner().id);
        Ok(Response::new(()))
    }

    /// By labels that are equal: `labels."name"=="value"`.
    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let filters = request.into_inner().filters;
        let is_wanted = |labels: &BTreeMap<String, String>| {
            let is_it = |(name, value): (&String, &String)| {
                filters.contains(&format!("labels.\"{name}\"==\"{value}\""))
            };
            filters.is_empty() || labels.iter().any(is_it)
        };
        let leases = self.leases.lock().unwrap();
        let wanted = leases.iter().filter(|(_, labels)| is_wanted(labels));
        let lease = |(id, labels): (&String, &BTreeMap<String, String>)| Lease {
            id: id.clone(),
            labels: labels.clone(),
            ..Lease::default()
        };
        Ok(Response::new(ListResponse { leases: wanted.map(lease).collect() }))
    }

    async fn add_resource(
        &self,
        request: Request<AddResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let AddResourceRequest { id, resource } = request.into_inner();
        self.resources.lock().unwrap().insert((id, resource.unwrap().id));
        Ok(Response::new(()))
    }
}

#[tonic::async_trait]
impl Version for Fake {
    async fn version(&self, _: Request<()>) -> Result<Response<VersionResponse>, Status> {
        let version = self.version.lock().unwrap().clone();
        let version = version.ok_or_else(|| Status::unavailable("it does not say"))?;
        Ok(Response::new(VersionResponse { version, revision: String::new() }))
    }
}

/// containerd's own service of snapshots, of which only `Stat` is asked.
pub(super) struct Known(pub(super) std::sync::Arc<Fake>);

impl Known {
    fn unasked<T>() -> Result<T, Status> {
        Err(Status::unimplemented("not served here"))
    }
}

#[tonic::async_trait]
impl Snapshots for Known {
    async fn stat(
        &self,
        request: Request<api::StatSnapshotRequest>,
    ) -> Result<Response<api::StatSnapshotResponse>, Status> {
        let key = request.into_inner().key;
        match &*self.0.snapshots.lock().unwrap() {
            None => Err(Status::unavailable("it does not say")),
            Some(known) if known.contains(&key) => {
                Ok(Response::new(api::StatSnapshotResponse::default()))
            }
            Some(_) => Err(Status::not_found(key)),
        }
    }

    async fn prepare(
        &self,
        _: Request<api::PrepareSnapshotRequest>,
    ) -> Result<Response<api::PrepareSnapshotResponse>, Status> {
        Self::unasked()
    }

    async fn view(
        &self,
        _: Request<api::ViewSnapshotRequest>,
    ) -> Result<Response<api::ViewSnapshotResponse>, Status> {
        Self::unasked()
    }

    async fn mounts(
        &self,
        _: Request<api::MountsRequest>,
    ) -> Result<Response<api::MountsResponse>, Status> {
        Self::unasked()
    }

    async fn commit(&self, _: Request<api::CommitSnapshotRequest>) -> Result<Response<()>, Status> {
        Self::unasked()
    }

    async fn remove(&self, _: Request<api::RemoveSnapshotRequest>) -> Result<Response<()>, Status> {
        Self::unasked()
    }

    async fn update(
        &self,
        _: Request<api::UpdateSnapshotRequest>,
    ) -> Result<Response<api::UpdateSnapshotResponse>, Status> {
        Self::unasked()
    }

    type ListStream = Iter<std::vec::IntoIter<Result<api::ListSnapshotsResponse, Status>>>;

    async fn list(
        &self,
        _: Request<api::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        Self::unasked()
    }

    async fn usage(
        &self,
        _: Request<api::UsageRequest>,
    ) -> Result<Response<api::UsageResponse>, Status> {
        Self::unasked()
    }

    async fn cleanup(&self, _: Request<api::CleanupRequest>) -> Result<Response<()>, Status> {
        Self::unasked()
    }
}
