//! Images: references, the store of unpacked layers, archives to load, packing, pulling. Start at [`store::ImageStore`].
pub mod archive;
pub mod control;
pub mod digest;
pub(crate) mod directory;
pub mod layer;
pub mod pack;
pub mod pull;
pub mod reference;
pub mod store;
