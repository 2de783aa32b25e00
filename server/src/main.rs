//! The `cask` binary: parses the command line and hands over to a command.

mod access;
mod config;
mod service;
mod transport;

fn main() {}
