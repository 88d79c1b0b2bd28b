//! Makes `kube::Client`s that act as a given identity, in process or over the network.
use kube::Client;
use pintle_api::user::UserInfo;
use std::sync::Arc;

/// A cheap handle that hands out API clients. In process each client acts as the identity it was made for; over the
/// network the connection's own credentials decide and the identity is ignored.
#[derive(Clone)]
pub struct Clients {
    make: Arc<dyn Fn(UserInfo) -> Client + Send + Sync>,
}

impl Clients {
    /// Clients made by `make`: the API server's in-process entry, given the caller's identity.
    pub fn new(make: impl Fn(UserInfo) -> Client + Send + Sync + 'static) -> Self {
        Clients { make: Arc::new(make) }
    }

    /// Clients that all share `client` and its credentials.
    pub fn remote(client: Client) -> Self {
        Clients::new(move |_| client.clone())
    }

    /// A client that acts as `user`.
    pub fn user(&self, user: UserInfo) -> Client {
        (self.make)(user)
    }

    /// A client that acts as `system:serviceaccount:kube-system:<name>`, as upstream's controllers do.
    pub fn controller(&self, name: &str) -> Client {
        self.user(UserInfo::service_account("kube-system", name))
    }
}
