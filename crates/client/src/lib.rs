//! Clients of the API: [`Clients`] makes a `kube::Client` for an identity, [`informer::Informers`] shares one watch per
//! kind among all components of a process, [`work_queue::WorkQueue`] drives level-triggered reconcilers.
pub mod clients;
pub mod index;
pub mod informer;
pub mod recorder;
pub mod remote;
pub mod work_queue;

pub use clients::Clients;
pub use index::Index;
pub use informer::{Informer, Informers};
pub use recorder::Recorder;
pub use remote::Remote;
pub use work_queue::WorkQueue;
