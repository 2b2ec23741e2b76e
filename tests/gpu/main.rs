//! The GPU backend: each kernel against its CPU twin, whole models against the fixtures, and what a token costs.
//!
//! Without a GPU these tests run on one that the CPU emulates (Mesa's lavapipe, Debian: `apt-get install
//! mesa-vulkan-drivers libvulkan1`). Where there is none either they are left out with a note, but fail if `CI` is set.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod attention;
mod cli;
#[path = "../common/mod.rs"]
mod common;
mod head;
mod linear;
mod model;
mod placement;
mod quantize;
mod robust;
mod shaders;
mod support;
