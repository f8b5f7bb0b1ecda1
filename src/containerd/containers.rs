//! Containers, and the processes in them.

use tonic::Code;
use tonic::transport::Channel;

use super::{Containerd, Error, Result, Scope};
use crate::proto::containers::containers_client::ContainersClient;
use crate::proto::containers::{Container, GetContainerRequest, ListContainersRequest};
use crate::proto::task::Status;
use crate::proto::tasks::tasks_client::TasksClient;
use crate::proto::tasks::{GetRequest, PauseTaskRequest, ResumeTaskRequest};

impl Containerd {
    fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(super::MAX_MESSAGE)
    }

    fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }

    /// The container called `id`, if there is one.
    ///
    /// # Errors
    /// When containerd does not say.
    pub(crate) fn container(&self, scope: &Scope, id: &str) -> Result<Option<Container>> {
        let request = scope.request(GetContainerRequest { id: id.to_owned() });
        match self.wait(self.containers().get(request)) {
            Ok(answer) => Ok(answer.into_inner().container),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(Error::answer(format!("finding container {id:?}"))(status)),
        }
    }

    /// The containers that one of `filters` matches (github.com/containerd/containerd, package filters).
    ///
    /// # Errors
    /// When containerd does not say.
    pub(crate) fn matching_containers(
        &self,
        scope: &Scope,
        filters: Vec<String>,
    ) -> Result<Vec<Container>> {
        let request = scope.request(ListContainersRequest { filters });
        let answer = self.wait(self.containers().list(request));
        Ok(answer.map_err(Error::answer("listing containers"))?.into_inner().containers)
    }

    /// Whether the container is running, and does not only exist.
    ///
    /// # Errors
    /// When containerd does not say.
    pub(crate) fn is_running(&self, scope: &Scope, id: &str) -> Result<bool> {
        let request = GetRequest { container_id: id.to_owned(), ..GetRequest::default() };
        match self.wait(self.tasks().get(scope.request(request))) {
            Ok(answer) => {
                let process = answer.into_inner().process.unwrap_or_default();
                Ok(process.status() == Status::Running)
            }
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(Error::answer(format!("looking at container {id:?}"))(status)),
        }
    }

    /// Stops the processes of a container where they are.
    ///
    /// # Errors
    /// When containerd cannot.
    pub(crate) fn pause(&self, scope: &Scope, id: &str) -> Result<()> {
        let request = PauseTaskRequest { container_id: id.to_owned() };
        let paused = self.wait(self.tasks().pause(scope.request(request)));
        paused.map(drop).map_err(Error::answer(format!("pausing container {id:?}")))
    }

    /// Has the processes of a paused container go on.
    ///
    /// # Errors
    /// When containerd cannot.
    pub(crate) fn resume(&self, scope: &Scope, id: &str) -> Result<()> {
        let request = ResumeTaskRequest { container_id: id.to_owned() };
        let resumed = self.wait(self.tasks().resume(scope.request(request)));
        resumed.map(drop).map_err(Error::answer(format!("resuming container {id:?}")))
    }
}
