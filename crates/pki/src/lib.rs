//! The cluster's certificates and keys: made at first start, kept on disk, renewed while running. Start at [`ClusterPki`].
//!
//! Certificate authorities live for ten years, leaf certificates for one; a leaf is renewed when a third of its life is
//! left, and whoever serves or dials with it ([`Leaf`] resolves certificates for rustls) uses the new one from the next
//! handshake on. Cryptography is ring's, passed explicitly: no process-wide default provider is relied upon.
pub mod authority;
pub mod clock;
pub mod cluster;
pub mod encryption_key;
mod files;
pub mod held;
pub mod kubeconfig;
pub mod leaf;
pub mod request;
pub mod service_account;
pub mod signer;
pub mod tls;

pub use authority::Authority;
pub use clock::Clock;
pub use cluster::{ClusterPki, Params};
pub use encryption_key::EncryptionKey;
pub use held::{Held, Trusted};
pub use kubeconfig::Kubeconfig;
pub use leaf::{Leaf, LeafSpec};
pub use request::SigningRequest;
pub use service_account::ServiceAccountKey;
pub use signer::Usages;

use std::path::PathBuf;

/// Why keys or certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is damaged or belongs to another cluster.
    #[error("{}: {reason}; restore the file, or remove it to have a new one made", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate cannot be made from what was asked for.
    #[error("cannot issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// A certificate request cannot be read, or was not signed with its key.
    #[error("the certificate request cannot be used: {0}")]
    Request(String),
    /// A TLS configuration cannot be built.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}
