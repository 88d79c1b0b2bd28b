//! What accompanies a request through the server: [`RequestContext`].
use crate::request_info::RequestInfo;
use parking_lot::Mutex;
use pintle_api::user::UserInfo;

/// Who asks for what, and what the client is to be told besides the answer.
#[derive(Debug, Default)]
pub struct RequestContext {
    /// The authenticated user (after impersonation).
    pub user: UserInfo,
    /// What is asked for.
    pub info: RequestInfo,
    /// The `User-Agent` header.
    pub user_agent: String,
    warnings: Mutex<Vec<String>>,
}

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
        let (text, mut warnings) = (text.into(), self.warnings.lock());
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Takes the warnings collected so far.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock())
    }
}
