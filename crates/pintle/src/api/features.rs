//! What operators switch on in the API server, from its settings. Start at [`features`].
use crate::cli::ApiServerOptions;
use anyhow::{Context, Result, anyhow, bail};
use pintle_apiserver::Features;
use pintle_apiserver::audit::backend::{Backend, Mode};
use pintle_apiserver::audit::{Audit, log, policy::Policy, webhook};
use pintle_apiserver::flow_control::FlowControl;
use pintle_apiserver::registry::Registry;
use pintle_apiserver::remote::Remote;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The size in bytes from which an audit event is large.
const LARGE_EVENT: usize = 100 << 10;
const BUFFER: usize = 10_000;

/// What `options` switch on.
pub async fn features(options: &ApiServerOptions, registry: &Registry, stop: &CancellationToken) -> Result<Features> {
    let flow_control = match options.enable_priority_and_fairness {
        Some(false) => None,
        _ => {
            let seats =
                options.max_requests_inflight.unwrap_or(400) + options.max_mutating_requests_inflight.unwrap_or(200);
            Some(FlowControl::start(registry, seats, stop).await.context("API priority and fairness")?)
        }
    };
    Ok(Features { audit: audit(options)?, flow_control })
}

fn audit(options: &ApiServerOptions) -> Result<Option<Audit>> {
    let Some(path) = &options.audit_policy_file else {
        if options.audit_log_path.is_some() || options.audit_webhook_config_file.is_some() {
            tracing::warn!("no --audit-policy-file: no audit events are recorded");
        }
        return Ok(None);
    };
    let policy = std::fs::read_to_string(path).with_context(|| format!("the audit policy {}", path.display()))?;
    let policy = Policy::parse(&policy).map_err(|error| anyhow!("the audit policy {}: {error}", path.display()))?;
    let mut backends = Vec::new();
    if let Some(path) = &options.audit_log_path {
        backends.push(log_backend(path, options)?);
    }
    if let Some(path) = &options.audit_webhook_config_file {
        backends.push(webhook_backend(path, options)?);
    }
    if backends.is_empty() {
        tracing::warn!("neither --audit-log-path nor --audit-webhook-config-file: no audit events are recorded");
        return Ok(None);
    }
    Ok(Some(Audit::new(policy, backends)))
}

fn log_backend(path: &Path, options: &ApiServerOptions) -> Result<Backend> {
    let config = log::Config {
        path: path.to_owned(),
        max_age: options.audit_log_maxage.unwrap_or(366),
        max_backups: options.audit_log_maxbackup.unwrap_or(100),
        max_size: options.audit_log_maxsize.unwrap_or(100),
        compress: options.audit_log_compress.unwrap_or(false),
        mode: mode(options.audit_log_mode.as_deref(), "--audit-log-mode", Mode::Blocking)?,
        buffer: options.audit_log_batch_buffer_size.unwrap_or(BUFFER),
        size_limit: size_limit(options.audit_log_truncate_enabled, options.audit_log_truncate_max_event_size),
    };
    log::start(config).with_context(|| format!("the audit log {}", path.display()))
}

fn webhook_backend(path: &Path, options: &ApiServerOptions) -> Result<Backend> {
    let remote = Remote::of_kubeconfig(path).map_err(|error| anyhow!("--audit-webhook-config-file {error}"))?;
    let throttled = options.audit_webhook_batch_throttle_enable.unwrap_or(true);
    let qps = options.audit_webhook_batch_throttle_qps.unwrap_or(10.0);
    let burst = options.audit_webhook_batch_throttle_burst.unwrap_or(15);
    if throttled && (qps <= 0.0 || burst == 0) {
        bail!("--audit-webhook-batch-throttle-qps and -burst must be positive numbers");
    }
    let wait = |given: Option<&String>, flag, otherwise| duration(given, flag, Duration::from_secs(otherwise));
    let config = webhook::Config {
        mode: mode(options.audit_webhook_mode.as_deref(), "--audit-webhook-mode", Mode::Batch)?,
        buffer: options.audit_webhook_batch_buffer_size.unwrap_or(BUFFER),
        batch: options.audit_webhook_batch_max_size.unwrap_or(400).max(1),
        wait: wait(options.audit_webhook_batch_max_wait.as_ref(), "--audit-webhook-batch-max-wait", 30)?,
        throttle: throttled.then_some((qps, burst)),
        backoff: wait(options.audit_webhook_initial_backoff.as_ref(), "--audit-webhook-initial-backoff", 10)?,
        size_limit: size_limit(options.audit_webhook_truncate_enabled, options.audit_webhook_truncate_max_event_size),
    };
    Ok(webhook::start(remote, config))
}

fn mode(given: Option<&str>, flag: &str, otherwise: Mode) -> Result<Mode> {
    given.map_or(Ok(otherwise), |text| text.parse().map_err(|error| anyhow!("{flag}: {error}")))
}

fn size_limit(enabled: Option<bool>, size: Option<usize>) -> Option<usize> {
    enabled.unwrap_or(false).then(|| size.unwrap_or(LARGE_EVENT))
}

/// A time as Go writes it, `1m30s`.
pub fn duration(given: Option<&String>, flag: &str, otherwise: Duration) -> Result<Duration> {
    let Some(text) = given else { return Ok(otherwise) };
    pintle_apiserver::parse_go_duration(text)
        .with_context(|| format!("{flag} {text}: a time is written like 30s or 1m30s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_audited_without_a_policy_and_a_place() {
        let mut options = ApiServerOptions::default();
        assert!(audit(&options).expect("valid").is_none());
        let directory = std::env::temp_dir().join(format!("pintle-features-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("writable");
        let policy = directory.join("policy.yaml");
        std::fs::write(&policy, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n")
            .expect("writable");
        options.audit_policy_file = Some(policy.clone());
        assert!(audit(&options).expect("valid").is_none());
        options.audit_log_path = Some(directory.join("audit.log"));
        assert!(audit(&options).expect("valid").is_some());
        options.audit_log_mode = Some("sometimes".into());
        let error = audit(&options).expect_err("no such mode").to_string();
        assert!(error.contains("--audit-log-mode"), "{error}");
        std::fs::remove_dir_all(&directory).expect("removable");
    }
}
