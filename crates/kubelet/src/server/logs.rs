//! `/containerLogs`: which log, and which part of it.
use super::{Body, Failure, Server, query_pairs};
use crate::logs::{self, Options, Reader};
use crate::pods::PodExt;
use crate::view::{self, ContainerView, State};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Chunks that may wait for a slow reader.
const QUEUE: usize = 8;

impl Server {
    /// Streams a container's log.
    pub(super) async fn container_logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &str,
    ) -> Result<Response<Body>, Failure> {
        let (options, previous) = parse(query)?;
        let pod = self.pod(namespace, pod)?;
        if pod.container_spec(container).is_none() {
            let (name, namespace) = (pod.name(), pod.namespace());
            return Err(Failure::not_found(format!("container {container:?} not found in pod \"{name}_{namespace}\"")));
        }
        let found = self.instance(&pod, container, previous).await?;
        let (path, watches) = (PathBuf::from(&found.log_path), self.kubelet.log_watches.clone());
        let (sender, mut receiver) = mpsc::channel::<std::io::Result<Bytes>>(QUEUE);
        let running = RunningCheck { kubelet: self.kubelet.clone(), pod: pod.uid().to_owned(), id: found.id };
        tokio::spawn(async move {
            let mut reader = match Reader::open(path, options, &watches) {
                Ok(reader) => reader,
                Err(error) => {
                    // Nobody listens any more when this fails.
                    sender.send(Err(error)).await.ok();
                    return;
                }
            };
            if let Err(error) = reader.copy(&sender, || running.is_running()).await {
                sender.send(Err(error)).await.ok();
            }
        });
        let stream = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
        let stream = futures::StreamExt::map(stream, |chunk| chunk.map(Frame::data));
        let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
        let text = hyper::header::HeaderValue::from_static("text/plain");
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, text);
        Ok(response)
    }

    /// The container instance whose log is meant.
    // upstream: pkg/kubelet, validateContainerLogStatus
    async fn instance(&self, pod: &Arc<Pod>, name: &str, previous: bool) -> Result<ContainerView, Failure> {
        let view = view::read(self.kubelet.runtime.as_ref(), pod.uid(), &mut HashMap::new()).await;
        let view = view.map_err(|status| Failure::internal(crate::rpc_text(&status)))?;
        let mut instances = view.containers.iter().filter(|one| one.name == name);
        let newest = instances.next();
        if previous {
            // A container that waits to start again: the instance that died last is the previous one.
            let dead = newest.filter(|one| one.state == State::Exited && waits(pod, name));
            let before = instances.find(|one| one.state == State::Exited);
            return dead.or(before).cloned().ok_or_else(|| {
                Failure::bad_request(format!(
                    "previous terminated container {name:?} in pod {:?} not found",
                    pod.name()
                ))
            });
        }
        match newest {
            Some(found) if found.state != State::Created => Ok(found.clone()),
            _ => {
                let status = self.kubelet.statuses.get(pod.uid()).or_else(|| pod.status.clone()).unwrap_or_default();
                let lists =
                    [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
                let mut all = lists.into_iter().flat_map(|list| list.iter().flatten());
                let state = all.find(|one| one.name == name).and_then(|one| one.state.as_ref());
                let reason = state.and_then(|state| state.waiting.as_ref()?.reason.clone());
                let (what, reason) = match reason.as_deref() {
                    Some("ErrImagePull") => ("trying and failing to pull image", None),
                    Some("ImagePullBackOff") => ("trying and failing to pull image", None),
                    _ => ("waiting to start", reason),
                };
                let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                Err(Failure::bad_request(format!("container {name:?} in pod {:?} is {what}{reason}", pod.name())))
            }
        }
    }
}

/// Whether the container waits to start again: its dead instance is then the previous one.
fn waits(pod: &Pod, name: &str) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut mine = statuses.filter(|one| one.name == name);
    mine.any(|one| one.state.as_ref().is_some_and(|state| state.waiting.is_some()))
}

struct RunningCheck {
    kubelet: Arc<crate::kubelet::Kubelet>,
    pod: String,
    id: String,
}

impl RunningCheck {
    /// Whether the container runs.
    async fn is_running(&self) -> bool {
        let mut known = HashMap::new();
        match view::read(self.kubelet.runtime.as_ref(), &self.pod, &mut known).await {
            Ok(view) => view.find_id(&self.id).is_some_and(|found| found.state == State::Running),
            Err(_) => false,
        }
    }
}

fn parse(query: &str) -> Result<(Options, bool), Failure> {
    let (mut options, mut previous) = (Options::default(), false);
    for (key, value) in query_pairs(query) {
        let number =
            || value.parse::<u64>().map_err(|_| Failure::bad_request(format!("invalid value for {key}: {value:?}")));
        let yes = matches!(value.as_str(), "true" | "1");
        match key.as_str() {
            "follow" => options.follow = yes,
            "timestamps" => options.timestamps = yes,
            "previous" => previous = yes,
            "tailLines" if !value.is_empty() => options.tail = Some(usize::try_from(number()?).unwrap_or(usize::MAX)),
            "limitBytes" if !value.is_empty() => options.limit = Some(number()?),
            "sinceSeconds" if !value.is_empty() => {
                let seconds = i64::try_from(number()?).unwrap_or(i64::MAX);
                options.since = Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).ok();
            }
            "sinceTime" if !value.is_empty() => {
                let time = value.parse().map_err(|_| Failure::bad_request(format!("invalid sinceTime {value:?}")))?;
                options.since = Some(time);
            }
            "stream" => {
                options.stream = match value.as_str() {
                    "Stdout" => Some(logs::Stream::Stdout),
                    "Stderr" => Some(logs::Stream::Stderr),
                    _ => None,
                };
            }
            _ => {}
        }
    }
    Ok((options, previous))
}
