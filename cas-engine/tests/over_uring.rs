//! The tests of the engine once more, over io_uring; `support::adapter` sees that they are compiled here. Where the kernel
//! forbids it they say so and run by position.

#![allow(clippy::duplicate_mod, reason = "each of them brings the support along")]

#[path = "loading.rs"]
mod loading;
#[path = "opening.rs"]
mod opening;
#[path = "regressions.rs"]
mod regressions;
#[path = "store.rs"]
mod store;
