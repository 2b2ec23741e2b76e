//! Models of the Hugging Face hub: their names, the cache on disk that Python's `huggingface_hub` shares, and how they get
//! there.
//!
//! A [`Reference`] names a model: one of the [`KNOWN`] short names or `owner/repository`. The [`Cache`] says where it is on
//! disk, without a network; [`pull`] downloads it with a [`Client`]. What arrives is compared with the checksum that the
//! hub announces before it gets its name, and a download that was cut short goes on where it stopped.
//!
//! The crate `hf-hub` does not serve here: 0.5 appends to a partial file whatever the server sends, compares no checksums and
//! builds paths from headers; 1.0 starts interrupted files anew, compares none either and brings two hundred crates.

mod cache;
mod client;
mod download;
mod error;
mod names;
mod pull;
mod select;

pub use cache::{Cache, CachedModel};
pub use client::Client;
pub use error::HubError;
pub use names::{KNOWN, Reference};
pub use pull::{PullEvent, Pulled, pull};
