//! `streamwarden revoke` and `restore`: blocks by hand.

use std::collections::BTreeSet;
use std::io::BufRead;

use super::{print, print_json, tell_alarms};
use crate::alarm::Ending;
use crate::by_hand::{self, Done, Order};
use crate::cli::{Common, Output, UsageError};
use crate::pass::Warden;
use crate::pass::enforce::{Enforced, How, WafState, enforce};
use crate::store::{DeltaStore, Root, StateLock};
use crate::text::printable;
use crate::time::Span;
use crate::waf::journal::Author;
use crate::waf::{RuleGroup, WafError};

#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// The session; - reads them from stdin, one a line.
    #[arg(value_name = "SESSION|-")]
    session: String,
    /// A token, signature or key of the session, where its id is not what WAF matches; several may be given.
    #[arg(long, value_name = "TEXT")]
    credential: Vec<String>,
    /// The scheme of the config that it belongs to, where several could take it and no request of it was seen.
    #[arg(long, value_name = "NAME")]
    scheme: Option<String>,
    /// For how long, as 24h; not longer than activity_retention of the state. A block that lasts longer is not made shorter.
    #[arg(long, default_value = "24h", value_name = "SPAN")]
    ttl: Span,
    #[command(flatten)]
    common: HandArgs,
}

#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// The session; - reads them from stdin, one a line.
    #[arg(value_name = "SESSION|-")]
    session: String,
    #[command(flatten)]
    common: HandArgs,
}

#[derive(Debug, clap::Args)]
struct HandArgs {
    /// Why, for the history.
    #[arg(long)]
    reason: Option<String>,
    /// Brings the WAF rule group in step at once; else the next run does.
    #[arg(long)]
    sync: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

enum What<'a> {
    Revoke { credentials: &'a [String], scheme: Option<&'a str>, ttl: Span },
    Restore,
}

pub async fn revoke(common: &Common, args: RevokeArgs) -> anyhow::Result<Ending> {
    if args.session == "-" && !args.credential.is_empty() {
        return Err(UsageError("--credential is for one session, not for a list".to_owned()).into());
    }
    let what = What::Revoke { credentials: &args.credential, scheme: args.scheme.as_deref(), ttl: args.ttl };
    run(common, &args.session, what, &args.common).await
}

pub async fn restore(common: &Common, args: RestoreArgs) -> anyhow::Result<Ending> {
    run(common, &args.session, What::Restore, &args.common).await
}

async fn run(cli: &Common, session: &str, what: What<'_>, args: &HandArgs) -> anyhow::Result<Ending> {
    let config = cli.load()?;
    let clock = cli.clock(&config);
    if let What::Revoke { ttl, .. } = what {
        if ttl.is_zero() {
            return Err(UsageError("--ttl must be longer than nothing".to_owned()).into());
        }
        if ttl > config.activity_retention {
            let message = format!(
                "--ttl {ttl} is longer than [state] activity_retention = {}: what WAF matches is kept no longer",
                config.activity_retention
            );
            return Err(UsageError(message).into());
        }
    }
    let sessions = sessions(session)?;
    let warden = Warden::new(config).await?;
    let group = warden.rule_group().await;
    if args.sync && group.is_none() {
        return Err(UsageError("--sync: the config names no rule group: [waf] name and id".to_owned()).into());
    }
    let actor = actor();
    let root = Root::connect(&warden.config.state).await;
    // A run takes seconds: a person waits for it.
    let lock = StateLock::acquire(&root, true, warden.config.lease).await?;
    let now = clock.now();
    let order = Order { sessions: &sessions, reason: args.reason.as_deref(), actor: &actor, now, run_id: &cli.run_id };
    let worked = async {
        let store = DeltaStore::open_or_create(&root, &lock).await?;
        let done = match what {
            What::Revoke { credentials, scheme, ttl } => {
                by_hand::revoke(&warden, &store, &order, credentials, scheme, ttl).await?
            }
            What::Restore => by_hand::restore(&warden, &store, &order).await?,
        };
        let synced = match group.filter(|_| args.sync) {
            None => None,
            Some(group) => {
                let author = Author { store: &store, now, run_id: &cli.run_id };
                let how = How::Sync { drop_unknown: false };
                let enforced = enforce(&warden, Some(&group), author, &|| lock.check_held(), how).await;
                Some(enforced.map(|enforced| (group.name().to_owned(), enforced)))
            }
        };
        anyhow::Ok((done, synced))
    };
    let worked = worked.await;
    lock.release().await;
    let (done, synced) = worked?;
    let title = if matches!(what, What::Restore) { "restored" } else { "revoked" };
    tell(title, &done, synced.as_ref(), args.output)?;
    let recorded = if done.refused.is_empty() { Ending::Done } else { Ending::Attention };
    match synced {
        Some(Err(error)) => {
            Err(anyhow::Error::from(error).context("recorded, but WAF is not in step; the next run tries again"))
        }
        Some(Ok((_, enforced))) => Ok(tell_alarms(&enforced.alarms).max(recorded)),
        None => Ok(recorded),
    }
}

fn tell(
    title: &str,
    done: &Done,
    synced: Option<&Result<(String, Enforced), WafError>>,
    output: Output,
) -> anyhow::Result<()> {
    if output == Output::Json {
        return print_json(done);
    }
    let mut text = String::new();
    for session in &done.sessions {
        text += &format!("{title} {}\n", printable(session));
    }
    for (session, reason) in &done.refused {
        text += &format!("not {title} {}: {reason}\n", printable(session));
    }
    match synced {
        Some(Ok((group, enforced))) => {
            let what = if enforced.waf == WafState::Updated { "updated" } else { "in force already" };
            text += &format!("rule group {group} {what}\n");
        }
        Some(Err(_)) => {}
        None if done.sessions.is_empty() => {}
        None => text += "the next run brings WAF in step (--sync does it at once)\n",
    }
    print(&text)
}

/// The session, or those on stdin.
fn sessions(session: &str) -> anyhow::Result<BTreeSet<String>> {
    let sessions: BTreeSet<String> = match session {
        "-" => {
            // What is no text is no id, and refused as such.
            let lines = std::io::stdin().lock().split(b'\n').collect::<Result<Vec<Vec<u8>>, _>>()?;
            let lines = lines.iter().map(|line| String::from_utf8_lossy(line).trim().to_owned());
            lines.filter(|line| !line.is_empty()).collect()
        }
        session => BTreeSet::from([session.to_owned()]),
    };
    if sessions.is_empty() {
        return Err(UsageError("there is no session on stdin".to_owned()).into());
    }
    Ok(sessions)
}

/// Who asks: STREAMWARDEN_ACTOR, else the user that the program runs as.
fn actor() -> String {
    let named = ["STREAMWARDEN_ACTOR", "SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    // SAFETY: it cannot fail and touches no memory.
    named.unwrap_or_else(|| format!("uid {}", unsafe { libc::getuid() }))
}
