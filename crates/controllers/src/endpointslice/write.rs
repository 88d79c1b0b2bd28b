//! Writes what a plan asks of the slices of one Service, for both controllers that make slices.
use crate::claim::name;
use crate::error::{Error, unless_not_found};
use crate::expectations::Expectations;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, PostParams};

/// Slices to make, to change and (by name) to delete.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<String>,
}

/// Carries out `changes`; `expectations` of `key` tell when the local copy shows what was created.
pub async fn write(
    api: &Api<EndpointSlice>,
    changes: &Changes,
    expectations: &Expectations,
    key: &str,
) -> Result<(), Error> {
    expectations.expect_creations(key, changes.create.len());
    for (done, slice) in changes.create.iter().enumerate() {
        if let Err(error) = api.create(&PostParams::default(), slice).await {
            for _ in done..changes.create.len() {
                expectations.created(key);
            }
            return Err(error.into());
        }
    }
    for slice in &changes.update {
        unless_not_found(api.replace(name(slice), &PostParams::default(), slice).await)?;
    }
    for slice in &changes.delete {
        unless_not_found(api.delete(slice, &DeleteParams::default()).await)?;
    }
    Ok(())
}
