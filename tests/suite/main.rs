//! The program as its users run it: the built binary, real files, real servers.

#[allow(dead_code)]
#[path = "../../examples/generate/model/mod.rs"]
mod model;
mod support;

mod aws;
mod bad_input;
mod by_hand;
mod check;
mod commands;
mod daemon;
mod deploy;
mod detection;
mod enforcement;
mod formats;
mod notify;
mod once;
mod parity;
mod privacy;
mod replay;
mod state;
