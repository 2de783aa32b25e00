//! What the store keeps, over kills and over many times its size: the real binary on the real disk.
//!
//! `kill_storm` kills the server in the middle of storms of uploads; `soak` writes several times its size through a
//! store. Sizes and rounds come from the environment, so that one and the same test is a developer's minute and a
//! full run:
//! - `CASK_STORM_ROUNDS` (50): kills in a storm;
//! - `CASK_SOAK_MIB` (64): the store's size in MiB; five times as much goes through it.

#[path = "../support/mod.rs"]
mod support;

mod kill_storm;
mod soak;

/// A number from the environment, or what stands in for it.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text:?}")),
        Err(_) => default,
    }
}
