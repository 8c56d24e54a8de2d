//! The WAF rule group: desired rules from the active revocations, and the reconciliation of the group.
//!
//! [`pack`] and [`plan`] are pure; the group itself is behind [`RuleGroup`].

mod alternation;
mod aws;
pub mod forecast;
mod form;
pub mod journal;
pub mod pack;
pub mod plan;
pub mod sync;

use async_trait::async_trait;
use aws_sdk_wafv2::types::Rule;

use crate::engine::EngineError;
use crate::store::StoreError;
pub use aws::AwsRuleGroup;

/// WCUs of a rule group, at most, and the size assumed where no group can be asked.
/// Source: AWS WAF quotas, "WCUs per rule group".
pub const MAX_CAPACITY: u64 = 5_000;

/// The group as it was read.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// WCUs that the group was made with; they cannot change.
    pub capacity: u64,
    /// In the order of the group.
    pub rules: Vec<Rule>,
    /// Proof of what was read: an update with an older one is refused.
    pub version: String,
}

/// A rule group, as far as streamwarden needs one.
///
/// An update replaces all rules at once, or none; it is refused with [`WafError::Conflict`] if the group
/// changed since the snapshot was read. Everything but the rules stays as it is.
#[async_trait]
pub trait RuleGroup: Send + Sync {
    /// Its name, for messages.
    fn name(&self) -> &str;

    async fn read(&self) -> Result<Snapshot, WafError>;

    /// What WAF says that rules cost, in WCUs.
    async fn cost(&self, rules: Vec<Rule>) -> Result<u64, WafError>;

    /// The version that the group has then is given back.
    async fn update(&self, since: &Snapshot, rules: Vec<Rule>) -> Result<String, WafError>;
}

/// Why the group could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WafError {
    #[error("the rule group {group} was changed by somebody else at the same time")]
    Conflict { group: String },
    /// Later attempts may succeed.
    #[error("WAF cannot {action} the rule group {group} now: {reason}")]
    Unavailable { group: String, action: &'static str, reason: String },
    /// Later attempts fail alike until somebody changes something.
    #[error("WAF does not {action} the rule group {group}: {reason}")]
    Refused { group: String, action: &'static str, reason: String },
    #[error(
        "the rule group {group} does not hold what WAF has accepted; look at it with `streamwarden waf show`, and report this"
    )]
    Different { group: String },
    #[error("{last}; given up after {attempts} attempts, the next run tries again")]
    GivenUp { attempts: u32, last: Box<WafError> },
    /// What was to be sent may be out of date.
    #[error(transparent)]
    State(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl WafError {
    pub fn is_retryable(&self) -> bool {
        matches!(self, WafError::Conflict { .. } | WafError::Unavailable { .. })
    }
}
