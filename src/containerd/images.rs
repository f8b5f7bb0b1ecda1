//! Images: names that lead to documents.

use prost_types::{FieldMask, Timestamp};
use tonic::Code;
use tonic::transport::Channel;

use super::{Containerd, Error, Result, Scope};
use crate::proto::images::images_client::ImagesClient;
use crate::proto::images::{
    CreateImageRequest, GetImageRequest, Image, ListImagesRequest, UpdateImageRequest,
};

impl Containerd {
    fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(super::MAX_MESSAGE)
    }

    /// The image called `name`, if there is one.
    ///
    /// # Errors
    /// When containerd does not say.
    pub(crate) fn image(&self, scope: &Scope, name: &str) -> Result<Option<Image>> {
        let request = scope.request(GetImageRequest { name: name.to_owned() });
        match self.wait(self.images().get(request)) {
            Ok(answer) => Ok(answer.into_inner().image),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(Error::answer(format!("finding image {name:?}"))(status)),
        }
    }

    /// All images of the namespace.
    ///
    /// # Errors
    /// When containerd does not say.
    pub(crate) fn all_images(&self, scope: &Scope) -> Result<Vec<Image>> {
        let answer = self.wait(self.images().list(scope.request(ListImagesRequest::default())));
        Ok(answer.map_err(Error::answer("listing images"))?.into_inner().images)
    }

    /// Has the name of `image` lead to its target; what it led to before, it does no more. The time, if there is one,
    /// counts as that at which it was made.
    ///
    /// # Errors
    /// When containerd refuses.
    pub(crate) fn name_image(
        &self,
        scope: &Scope,
        image: Image,
        time: Option<Timestamp>,
    ) -> Result<()> {
        let failed = || Error::answer(format!("naming image {:?}", image.name));
        let create = CreateImageRequest { image: Some(image.clone()), source_date_epoch: time };
        match self.wait(self.images().create(scope.request(create))) {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(failed()(status)),
        }
        let update = UpdateImageRequest {
            image: Some(image.clone()),
            update_mask: Some(FieldMask { paths: vec!["target".to_owned()] }),
            source_date_epoch: time,
        };
        let updated = self.wait(self.images().update(scope.request(update)));
        updated.map(drop).map_err(failed())
    }
}
