//! A containerd that is played: its content store and its leases.

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

/// A blob with what is known of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    pub(super) data: Vec<u8>,
    pub(super) labels: BTreeMap<String, String>,
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
}

impl Fake {
    /// Puts a blob there. Returns its digest.
    pub(super) fn put(&self, data: &[u8]) -> String {
        let digest = Digest::of(data).to_string();
        let stored = Stored { data: data.to_vec(), ..Stored::default() };
        self.blobs.lock().unwrap().insert(digest.clone(), stored);
        digest
    }

    fn get(&self, digest: &str) -> Result<Stored, Status> {
        let missing = || Status::not_found(format!("content {digest}: not found"));
        self.blobs.lock().unwrap().get(digest).cloned().ok_or_else(missing)
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
        let digest = request.into_inner().digest;
        let Stored { labels, data, .. } = self.get(&digest)?;
        let size = i64::try_from(data.len()).unwrap();
        let info = Some(Info { digest, size, labels, ..Default::default() });
        Ok(Response::new(InfoResponse { info }))
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
        let digest = request.into_inner().digest;
        let data = self.get(&digest)?.data;
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
