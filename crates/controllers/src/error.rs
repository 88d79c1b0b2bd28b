//! Why a reconcile did not finish; every one is retried with back-off.
use kube::core::Status;

/// Why a reconcile did not finish.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused a request or could not be reached.
    #[error("{}", message(.0))]
    Api(Box<kube::Error>),
    /// The local copy is older than what this controller wrote; the next change brings it back.
    #[error("{0} is not up to date yet")]
    Stale(String),
    /// Work is left that cannot be done now.
    #[error("{0}")]
    Unfinished(String),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Error::Api(Box::new(error))
    }
}

impl Error {
    /// The API's answer, if it was one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Error::Api(error) => status(error),
            _ => None,
        }
    }
}

fn status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// The text of `error` as a user of Kubernetes expects it in events and conditions.
pub fn message(error: &kube::Error) -> String {
    status(error).map_or_else(|| error.to_string(), |status| status.message.clone())
}

/// True if the API answered with `reason` (`NotFound`, `Conflict`, …).
pub fn is_reason(error: &kube::Error, reason: &str) -> bool {
    status(error).is_some_and(|status| status.reason == reason)
}

/// True if the object does not exist.
pub fn is_not_found(error: &kube::Error) -> bool {
    is_reason(error, "NotFound")
}

/// True if an object of that name exists.
pub fn is_already_exists(error: &kube::Error) -> bool {
    is_reason(error, "AlreadyExists")
}

/// True if the object changed since it was read.
pub fn is_conflict(error: &kube::Error) -> bool {
    is_reason(error, "Conflict")
}

/// True if creation failed because the namespace is being deleted: nothing more can be done there.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let causes = status(error).and_then(|status| status.details.as_ref()).map(|details| details.causes.as_slice());
    causes.unwrap_or_default().iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// `Ok` if the deletion or update found nothing to change.
pub fn unless_not_found<T>(result: kube::Result<T>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
