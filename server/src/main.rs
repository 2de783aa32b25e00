//! The `cask` binary: parses the command line and hands over to a command.
#![allow(dead_code)]

mod access;
mod cache;
mod config;
mod service;
mod status;
mod transport;

fn main() {}
