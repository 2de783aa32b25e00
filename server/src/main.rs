//! The `cask` binary: parses the command line and hands over to a command.

mod access;
mod service;

fn main() {}
