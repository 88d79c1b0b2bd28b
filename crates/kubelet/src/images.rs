//! Images for containers: pull policies, pulls in parallel, back-off after failures, credentials.
// upstream: pkg/kubelet/images, image_manager.go
mod credentials;

use crate::backoff::Backoff;
use crate::events::{Recorder, Severity};
use crate::pods::PodExt;
use crate::security::ImageUser;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use parking_lot::Mutex;
use pintle_runtime::cri::{self, ImageService};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const BACK_OFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// Why there is no image; `reason` is the container's waiting reason.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// `ErrImagePull`, `ImagePullBackOff`, `ErrImageNeverPull`, `InvalidImageName`, `ImageInspectError`.
    pub reason: String,
    /// For the user.
    pub message: String,
    /// When trying again makes sense.
    pub retry_at: Option<Instant>,
}

/// An image that is on this machine.
#[derive(Clone, Debug)]
pub struct Ready {
    /// What the runtime calls it.
    pub reference: String,
    /// Who it runs as.
    pub user: ImageUser,
}

struct Failures {
    backoff: Backoff,
    at: Instant,
    message: String,
}

/// The node's images.
pub struct Images {
    service: Arc<dyn ImageService>,
    recorder: Recorder,
    /// By pod UID and image.
    failures: Mutex<HashMap<(String, String), Failures>>,
}

/// The name with `:latest` when it has neither tag nor digest; `None` when it cannot be an image's name.
fn with_default_tag(name: &str) -> Option<String> {
    let path_ok = |c: char| c.is_ascii_alphanumeric() || "._-/:@+".contains(c);
    let (repository, _) = name.split_once('@').unwrap_or((name, ""));
    let last = repository.rsplit('/').next().unwrap_or_default();
    let (bare, tag) = last.split_once(':').map_or((last, None), |(bare, tag)| (bare, Some(tag)));
    let prefix = &repository[..repository.len() - last.len()];
    let lower = prefix.split_once('/').map_or("", |(_, rest)| rest);
    let valid = !name.is_empty()
        && name.chars().all(path_ok)
        && !bare.is_empty()
        && !bare.contains(|c: char| c.is_ascii_uppercase())
        && !lower.contains(|c: char| c.is_ascii_uppercase())
        && !repository.contains("//")
        && !name.starts_with('/')
        && tag.is_none_or(|tag| !tag.is_empty() && !tag.contains(':'));
    valid.then(|| if tag.is_some() || name.contains('@') { name.to_owned() } else { format!("{name}:latest") })
}

impl Images {
    /// Images of `service`.
    pub fn new(service: Arc<dyn ImageService>, recorder: Recorder) -> Self {
        Images { service, recorder, failures: Mutex::default() }
    }

    /// Makes sure that the image of `container` is here.
    pub async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        secrets: &[Arc<Secret>],
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<Ready, Error> {
        let asked = container.image.as_deref().unwrap_or_default();
        let warn = |reason: &str, message: &str| {
            self.recorder.container(pod, &container.name, Severity::Warning, reason, message);
        };
        let Some(name) = with_default_tag(asked) else {
            let message = format!(
                "Failed to apply default image tag {asked:?}: couldn't parse image name {asked:?}: invalid reference format"
            );
            warn("InspectFailed", &message);
            return Err(Error { reason: "InvalidImageName".into(), message, retry_at: None });
        };
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        let spec = cri::ImageSpec { image: name, user_specified_image: asked.to_owned(), ..Default::default() };
        if policy != "Always" {
            if let Some(ready) = self.find(&spec).await? {
                let message = format!("Container image {asked:?} already present on machine");
                let message = format!("{message} and can be accessed by the pod");
                self.recorder.container(pod, &container.name, Severity::Normal, "Pulled", message);
                return Ok(ready);
            }
            if policy == "Never" {
                let message = format!("Container image {asked:?} is not present with pull policy of Never");
                warn("ErrImageNeverPull", &message);
                return Err(Error { reason: "ErrImageNeverPull".into(), message, retry_at: None });
            }
        }
        self.pull(pod, container, spec, secrets, sandbox).await
    }

    /// The image, when it is on this machine.
    pub async fn find(&self, spec: &cri::ImageSpec) -> Result<Option<Ready>, Error> {
        let request = cri::ImageStatusRequest { image: Some(spec.clone()), verbose: false };
        let response = self.service.image_status(request).await.map_err(|status| Error {
            reason: "ImageInspectError".into(),
            message: format!("Failed to inspect image {:?}: {}", spec.image, status.message()),
            retry_at: None,
        })?;
        Ok(response.image.map(|image| Ready {
            reference: image.id,
            user: ImageUser {
                uid: image.uid.map(|uid| uid.value).or(if image.username.is_empty() { Some(0) } else { None }),
                username: image.username,
            },
        }))
    }

    async fn pull(
        &self,
        pod: &Pod,
        container: &Container,
        spec: cri::ImageSpec,
        secrets: &[Arc<Secret>],
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<Ready, Error> {
        let asked = spec.user_specified_image.clone();
        let event = |severity, reason: &str, message: &str| {
            self.recorder.container(pod, &container.name, severity, reason, message);
        };
        let key = (pod.uid().to_owned(), asked.clone());
        let waiting = self.failures.lock().get(&key).and_then(|failures| {
            let until = failures.backoff.until(failures.at, Instant::now())?;
            Some((until, failures.message.clone()))
        });
        if let Some((until, last)) = waiting {
            let message = format!("Back-off pulling image {asked:?}");
            event(Severity::Normal, "BackOff", &message);
            let message = format!("{message}: {last}");
            return Err(Error { reason: "ImagePullBackOff".into(), message, retry_at: Some(until) });
        }
        event(Severity::Normal, "Pulling", &format!("Pulling image {asked:?}"));
        let start = Instant::now();
        match self.pull_with_credentials(&spec, secrets, sandbox).await {
            Ok(_) => {
                self.failures.lock().remove(&key);
                let took = go_duration(start.elapsed());
                let (ready, size) = self.inspect_pulled(&spec).await?;
                let message = format!(
                    "Successfully pulled image {asked:?} in {took} ({took} including waiting). Image size: {size} bytes."
                );
                event(Severity::Normal, "Pulled", &message);
                Ok(ready)
            }
            Err(status) => {
                let cause = crate::rpc_text(&status);
                event(Severity::Warning, "Failed", &format!("Failed to pull image {asked:?}: {cause}"));
                let now = Instant::now();
                let mut failures = self.failures.lock();
                let failures = failures.entry(key).or_insert_with(|| Failures {
                    backoff: Backoff::new(BACK_OFF.0, BACK_OFF.1),
                    at: now,
                    message: String::new(),
                });
                failures.backoff.next(now, now);
                failures.at = now;
                let (reason, message) = pull_error(&asked, &cause, status.message());
                failures.message = format!("{reason}: {message}");
                // The next look says that the pull is backing off, and until when.
                Err(Error { reason, message, retry_at: None })
            }
        }
    }

    async fn inspect_pulled(&self, spec: &cri::ImageSpec) -> Result<(Ready, u64), Error> {
        let gone = || Error {
            reason: "ErrImagePull".into(),
            message: format!("image {:?} is not present after its pull", spec.image),
            retry_at: None,
        };
        let ready = self.find(spec).await?.ok_or_else(gone)?;
        let request = cri::ImageStatusRequest { image: Some(spec.clone()), verbose: false };
        let size = match self.service.image_status(request).await {
            Ok(response) => response.image.map_or(0, |image| image.size),
            Err(_) => 0,
        };
        Ok((ready, size))
    }

    async fn pull_with_credentials(
        &self,
        spec: &cri::ImageSpec,
        secrets: &[Arc<Secret>],
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<String, tonic::Status> {
        let mut tries: Vec<Option<cri::AuthConfig>> =
            credentials::matching(&spec.image, secrets).into_iter().map(Some).collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut last = tonic::Status::unknown("no credentials to try");
        for auth in tries {
            let request =
                cri::PullImageRequest { image: Some(spec.clone()), auth, sandbox_config: Some(sandbox.clone()) };
            match self.service.pull_image(request).await {
                Ok(response) => return Ok(response.image_ref),
                Err(status) => last = status,
            }
        }
        Err(last)
    }

    /// Forgets the failures of a pod that ended.
    pub fn forget(&self, uid: &str) {
        self.failures.lock().retain(|(pod, _), _| pod != uid);
    }
}

/// Reason and message of a failed pull (upstream: evalCRIPullErr).
fn pull_error(image: &str, cause: &str, message: &str) -> (String, String) {
    for (prefix, words) in [
        ("RegistryUnavailable", "the registry is unavailable"),
        ("SignatureValidationFailed", "the signature validation failed"),
    ] {
        if let Some(rest) = message.strip_prefix(prefix) {
            return (prefix.to_owned(), format!("image pull failed for {image} because {words}{rest}"));
        }
    }
    ("ErrImagePull".to_owned(), cause.to_owned())
}

/// A duration as Go prints it after truncation to milliseconds.
pub fn go_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    if milliseconds < 1000 {
        return format!("{milliseconds}ms");
    }
    let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
    let seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.').to_owned();
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_a_tag_and_bad_names_are_refused() {
        assert_eq!(with_default_tag("nginx").as_deref(), Some("nginx:latest"));
        assert_eq!(with_default_tag("r:5000/a/b:1").as_deref(), Some("r:5000/a/b:1"));
        assert_eq!(with_default_tag("r:5000/a").as_deref(), Some("r:5000/a:latest"));
        assert_eq!(with_default_tag("a@sha256:00").as_deref(), Some("a@sha256:00"));
        for bad in ["", "Nginx", "a b", "nginx:", "a//b", "/a"] {
            assert_eq!(with_default_tag(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_print_as_in_go() {
        for (milliseconds, text) in
            [(0, "0s"), (12, "12ms"), (1200, "1.2s"), (61_005, "1m1.005s"), (3_600_000, "1h0m0s")]
        {
            assert_eq!(go_duration(Duration::from_millis(milliseconds)), text);
        }
    }
}
