//! The `cask` binary: parses the command line and hands over to a command.
#![allow(dead_code)]

mod access;
mod cache;
mod service;
mod status;

fn main() {}
