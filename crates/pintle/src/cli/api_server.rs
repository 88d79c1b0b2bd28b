//! Settings of the API server that have upstream's names: auditing, who is believed and who decides.
use clap::{Args, ValueHint};
use std::path::PathBuf;

/// What operators switch on in the API server; nothing of it by default.
#[derive(Args, Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[command(next_help_heading = "API server")]
pub struct ApiServerOptions {
    /// Record requests by the rules in this file (audit.k8s.io/v1 Policy)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_policy_file: Option<PathBuf>,
    /// Write audit events to this file; `-` is the standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_log_path: Option<PathBuf>,
    /// Begin a new audit log at this size in megabytes; 0: never [default: 100]
    #[arg(long, value_name = "MB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_log_maxsize: Option<u64>,
    /// Keep old audit logs for so many days; 0: for ever [default: 366]
    #[arg(long, value_name = "DAYS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_log_maxage: Option<u32>,
    /// Keep so many old audit logs; 0: all [default: 100]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_log_maxbackup: Option<usize>,
    /// Compress old audit logs
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_log_compress: Option<bool>,
    /// How requests wait for the audit log: batch, blocking, blocking-strict [default: blocking]
    #[arg(long, value_name = "MODE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_log_mode: Option<String>,
    /// How many events wait for the audit log at most [default: 10000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_log_batch_buffer_size: Option<usize>,
    /// Write large audit events to the log without their objects
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_log_truncate_enabled: Option<bool>,
    /// From which size in bytes an event of the log is large [default: 102400]
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_log_truncate_max_event_size: Option<usize>,
    /// Send audit events to the webhook in this kubeconfig
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// How requests wait for the audit webhook: batch, blocking, blocking-strict [default: batch]
    #[arg(long, value_name = "MODE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_webhook_mode: Option<String>,
    /// The wait before an audit webhook that failed is asked again [default: 10s]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_webhook_initial_backoff: Option<String>,
    /// How many events wait for the audit webhook at most [default: 10000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_webhook_batch_buffer_size: Option<usize>,
    /// How many events the audit webhook is sent at once at most [default: 400]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_webhook_batch_max_size: Option<usize>,
    /// How long an event waits for others [default: 30s]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_webhook_batch_max_wait: Option<String>,
    /// Limit how often the audit webhook is asked [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_webhook_batch_throttle_enable: Option<bool>,
    /// How often a second the audit webhook is asked [default: 10]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_webhook_batch_throttle_qps: Option<f64>,
    /// How often at once after a pause [default: 15]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_webhook_batch_throttle_burst: Option<u32>,
    /// Send large audit events to the webhook without their objects
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_webhook_truncate_enabled: Option<bool>,
    /// From which size in bytes an event for the webhook is large [default: 102400]
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_webhook_truncate_max_event_size: Option<usize>,
    /// Let requests wait for their turn by FlowSchemas and PriorityLevelConfigurations [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_priority_and_fairness: Option<bool>,
    /// With the next one: how many requests run at the same time [default: 400]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_inflight: Option<usize>,
    /// Added to the number of requests that run at the same time [default: 200]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_mutating_requests_inflight: Option<usize>,
    /// How long the API still answers after it was told to end, while /readyz says so already [default: 0s]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown_delay_duration: Option<String>,
    /// Features to switch on or off by upstream's names, NAME=true|false, separated by commas; AllAlpha and AllBeta are all of a stage
    #[arg(long, value_name = "GATES", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub feature_gates: Vec<String>,
    /// APIs to switch on or off, separated by commas: GROUP/VERSION=true|false, GROUP/VERSION/RESOURCE=…, api/beta=…, api/alpha=…,
    /// api/ga=…, api/all=…
    #[arg(long, value_name = "APIS", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub runtime_config: Vec<String>,
    /// Believe the tokens of this OpenID issuer (an https URL)
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_issuer_url: Option<String>,
    /// The audience that tokens of the issuer must have
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_client_id: Option<String>,
    /// The claim that names the user [default: sub]
    #[arg(long, value_name = "CLAIM")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_username_claim: Option<String>,
    /// Put this before users' names; `-`: nothing [default: the issuer and #, but not for the claim email]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_username_prefix: Option<String>,
    /// The claim that names the user's groups
    #[arg(long, value_name = "CLAIM")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_groups_claim: Option<String>,
    /// Put this before groups' names
    #[arg(long, value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_groups_prefix: Option<String>,
    /// Claims that tokens must have, claim=value, separated by commas
    #[arg(long, value_name = "CLAIMS", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub oidc_required_claim: Vec<String>,
    /// Algorithms that tokens may be signed with, separated by commas [default: RS256]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub oidc_signing_algs: Vec<String>,
    /// The issuer's certificate authority [default: those of the system]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Ask the webhook in this kubeconfig about tokens
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// The version of TokenReview that it is asked in: v1 or v1beta1 [default: v1beta1]
    #[arg(long, value_name = "VERSION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_token_webhook_version: Option<String>,
    /// How long its answers hold [default: 2m]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_token_webhook_cache_ttl: Option<String>,
    /// Who decides what users may do, in this order: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny [default: Node,RBAC]
    #[arg(long, value_name = "MODES", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authorization_mode: Vec<String>,
    /// The webhook in this kubeconfig decides what users may do
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// The version of SubjectAccessReview that it is asked in: v1 or v1beta1 [default: v1beta1]
    #[arg(long, value_name = "VERSION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_webhook_version: Option<String>,
    /// How long what it allowed holds [default: 5m]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_webhook_cache_authorized_ttl: Option<String>,
    /// How long what it refused holds [default: 30s]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_webhook_cache_unauthorized_ttl: Option<String>,
}
