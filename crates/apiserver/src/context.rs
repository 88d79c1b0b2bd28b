//! What accompanies a request through the server: [`RequestContext`].
use crate::audit::AuditContext;
use crate::request_info::RequestInfo;
use parking_lot::Mutex;
use pintle_api::user::UserInfo;
use std::sync::Arc;

/// Who asks for what, and what the client is to be told besides the answer.
#[derive(Debug, Default)]
pub struct RequestContext {
    /// The authenticated user (after impersonation).
    pub user: UserInfo,
    /// What is asked for.
    pub info: RequestInfo,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// The request's audit record, if it has one.
    pub audit: Option<Arc<AuditContext>>,
    warnings: Mutex<Vec<String>>,
    /// Where warnings go instead, if the request is handed on.
    shared: Option<SharedWarnings>,
}

/// Warnings of a request that somebody else answers.
pub type SharedWarnings = Arc<Mutex<Vec<String>>>;

impl RequestContext {
    /// A context for `user` and `info`.
    pub fn new(user: UserInfo, info: RequestInfo) -> Self {
        RequestContext { user, info, ..RequestContext::default() }
    }

    /// The context of work that the server does on its own behalf, as `system:apiserver` in group `system:masters`.
    pub fn system() -> Self {
        RequestContext::new(UserInfo::new("system:apiserver", &["system:masters"]), RequestInfo::default())
    }

    /// Adds a warning for the client (a `Warning: 299` header); repeated ones count once.
    pub fn warn(&self, text: impl Into<String>) {
        let (text, mut warnings) = (text.into(), self.shared.as_deref().unwrap_or(&self.warnings).lock());
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Adds an annotation to the request's audit record, if it has one.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        if let Some(audit) = &self.audit {
            audit.annotate(key, value);
        }
    }

    /// Lets warnings be read after the request has been handed on.
    pub fn share_warnings(&mut self) -> SharedWarnings {
        let warnings = std::mem::take(self.warnings.get_mut());
        self.shared.insert(Arc::new(Mutex::new(warnings))).clone()
    }

    /// Takes the warnings collected so far.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock())
    }
}
