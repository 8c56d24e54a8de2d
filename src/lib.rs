//! streamwarden finds playback sessions that are shared or pirated, in Amazon CloudFront access logs, and
//! blocks them at the edge.
//!
//! ```text
//!  source, logs, session, geo     log objects to rows of `requests`
//!  ingest (as queries/rollup*.sql) requests to `activity` and its companions, in batches
//!  detect    queries/detectors    activity to `findings`, one sliding window at a time
//!  decide, history                findings to events of `revocations`
//!  waf                            active revocations to rules of the WAF rule group
//! ```
//!
//! One direction, no way back. [`pass`] is that picture once; `daemon` is a pass on a schedule; [`replay`] is
//! its top half over any logs with nothing written. What parses, decides, packs and compares is pure; files,
//! S3, Delta tables and WAF are at the rim, behind [`source::LogSource`], [`store::Store`] and
//! [`waf::RuleGroup`].

pub mod alarm;
pub mod allow;
pub mod aws;
pub mod by_hand;
pub mod check;
pub mod cli;
mod cmd;
pub mod config;
pub mod content;
mod daemon;
pub mod decide;
pub mod detect;
pub mod engine;
pub mod explain;
pub mod geo;
pub mod history;
pub mod ingest;
pub mod logs;
mod memory_pool;
pub mod network_type;
pub mod notices;
pub mod notify;
pub mod pass;
pub mod privacy;
pub mod progress;
pub mod replay;
pub mod requests;
pub mod rows;
pub mod schedule;
pub mod schema;
pub mod session;
mod signals;
pub mod silence;
pub mod smd_table;
pub mod source;
pub mod store;
pub mod text;
pub mod time;
pub mod upkeep;
pub mod viewer;
pub mod waf;
