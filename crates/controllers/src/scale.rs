//! The scale subresource of any kind that has one: [`Scales`] finds the resource of a kind and reads or writes its scale.
use crate::discovery::{Resource, served};
use crate::error::{Error, is_not_found};
use k8s_openapi::api::autoscaling::v1::Scale;
use kube::Client;
use kube::api::{Api, DynamicObject, PostParams};
use parking_lot::Mutex;
use std::collections::HashMap;

/// Which object is scaled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Group and version, for example `apps/v1`.
    pub api_version: String,
    /// Kind, for example `Deployment`.
    pub kind: String,
    /// Name.
    pub name: String,
}

impl Target {
    fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

/// Why there is no scale.
#[derive(Debug, thiserror::Error)]
pub enum NoScale {
    /// No resource of that kind is served.
    #[error("no matches for kind \"{kind}\" in version \"{api_version}\"")]
    Unknown {
        /// The kind asked for.
        kind: String,
        /// The version asked for.
        api_version: String,
    },
    /// The kind has no scale subresource.
    #[error("{0} does not implement the scale subresource")]
    NotScalable(String),
    /// The object does not exist; the API's own words.
    #[error("{0}")]
    NotFound(String),
    /// The API could not be asked.
    #[error("{0}")]
    Failed(#[from] Error),
}

/// Reads and writes scales; remembers which resource a kind is.
pub struct Scales {
    client: Client,
    known: Mutex<HashMap<(String, String), Resource>>,
}

impl Scales {
    /// Through `client`.
    pub fn new(client: Client) -> Self {
        Scales { client, known: Mutex::default() }
    }

    /// The scale of `target`, with the resource that it is.
    pub async fn get(&self, namespace: &str, target: &Target) -> Result<(Resource, Scale), NoScale> {
        let resource = self.resource(target).await?;
        let result = self.api(namespace, &resource).get_scale(&target.name).await;
        match result {
            Ok(scale) => Ok((resource, scale)),
            Err(error) if is_not_found(&error) && !resource.scalable => {
                Err(NoScale::NotScalable(group_resource(&resource)))
            }
            Err(error) if is_not_found(&error) => Err(NoScale::NotFound(crate::error::message(&error))),
            Err(error) => Err(NoScale::Failed(error.into())),
        }
    }

    /// Writes `scale` to the object of that name.
    pub async fn set(&self, namespace: &str, resource: &Resource, name: &str, scale: &Scale) -> kube::Result<()> {
        self.api(namespace, resource).replace_scale(name, &PostParams::default(), scale).await.map(drop)
    }

    fn api(&self, namespace: &str, resource: &Resource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resource.api)
    }

    /// The resource that the kind of `target` is.
    pub async fn resource(&self, target: &Target) -> Result<Resource, NoScale> {
        let key = (target.group().to_owned(), target.kind.clone());
        let known = self.known.lock().get(&key).cloned();
        if let Some(resource) = known {
            return Ok(resource);
        }
        let found = served(&self.client)
            .await?
            .resources
            .into_iter()
            .find(|resource| resource.api.group == key.0 && resource.api.kind == key.1);
        let Some(resource) = found else {
            return Err(NoScale::Unknown { kind: target.kind.clone(), api_version: target.api_version.clone() });
        };
        if resource.scalable {
            // A kind without scale may get one by a change of its definition, so only the others are remembered.
            self.known.lock().insert(key, resource.clone());
        }
        Ok(resource)
    }
}

/// `plural.group`, or the plural alone for the core group.
pub fn group_resource(resource: &Resource) -> String {
    match resource.api.group.as_str() {
        "" => resource.api.plural.clone(),
        group => format!("{}.{group}", resource.api.plural),
    }
}
