//! Blocks and releases that a person asked for, in the same history as the automatic ones.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use datafusion::prelude::SessionContext;
use serde::{Deserialize, Serialize};

use crate::engine::{Sql, fetch, replace, sql};
use crate::history::{Event, EventKind, Origin, Recorder, Standing, block_behind, stored};
use crate::pass::Warden;
use crate::rows;
use crate::schema::Table;
use crate::session::component::Credential;
use crate::session::{Scheme, secure_media_delivery};
use crate::smd_table::Contents;
use crate::store::Store;
use crate::time::Span;
use crate::waf::journal::ENFORCED;
use crate::waf::pack::{TOO_LONG, fits};

const LAST_STATES: Sql = sql!("engine/last_states.sql");
const WITH_CREDENTIALS: Sql = sql!("engine/with_credentials.sql");

/// Who asks, why, and when.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    pub sessions: &'a BTreeSet<String>,
    pub reason: Option<&'a str>,
    /// A person or a program, for the history.
    pub actor: &'a str,
    pub now: DateTime<Utc>,
    pub run_id: &'a str,
}

/// What became of an order: the object of `revoke` and `restore` with `--output json`.
#[derive(Debug, Default, Serialize)]
pub struct Done {
    pub sessions: Vec<String>,
    /// Sessions for which nothing was done, and why.
    pub refused: BTreeMap<String, String>,
}

/// A row of the stored table `credentials`.
#[derive(Serialize)]
struct CredentialRow<'a> {
    batch: i64,
    session_id: &'a str,
    scheme: &'a str,
    credential: &'a str,
    token_expires: Option<DateTime<Utc>>,
    unknown_expiry: bool,
    first_seen: DateTime<Utc>,
    last_seen: DateTime<Utc>,
    component: String,
}

/// A session that the tables know.
#[derive(Deserialize)]
struct Known {
    session_id: String,
}

/// Blocks sessions for `ttl`, or for as long as they are blocked already, if that is longer. `credentials` are what WAF is to
/// match for the one session, beside what the logs show of it. The history has one event each; WAF is for the next sync.
pub async fn revoke(
    warden: &Warden,
    store: &dyn Store,
    order: &Order<'_>,
    credentials: &[String],
    scheme: Option<&str>,
    ttl: Span,
) -> anyhow::Result<Done> {
    let now = order.now;
    let session = warden.engine.session_over(store, now).await?;
    let asked = rows::texts_batch("session_id", order.sessions);
    replace(&session, "asked", asked.schema(), vec![asked])?;
    let known: Vec<Known> = fetch(&session, WITH_CREDENTIALS, vec![]).await?;
    let known: HashSet<String> = known.into_iter().map(|row| row.session_id).collect();
    let blocks = stored::standing_blocks(&session).await?;
    let mut recorder = recorder(&session, order.now, order.actor, order.run_id).await?;
    let mut done = Done::default();
    let mut matched: Vec<(&str, &'static str, Credential)> = Vec::new();
    for id in order.sessions {
        // What the logs show of it is enough, and knows when its tokens expire.
        if !credentials.is_empty() || !known.contains(id) {
            match credentials_of(&warden.config.sessions, scheme, id, credentials) {
                Ok(given) => {
                    matched.extend(given.into_iter().map(|(scheme, credential)| (id.as_str(), scheme, credential)));
                }
                Err(reason) => {
                    done.refused.insert(id.clone(), reason);
                    continue;
                }
            }
        }
        let until = blocks.iter().find(|block| block.session_id == *id).and_then(|block| block.expires_at);
        let expires_at = until.unwrap_or(now).max(now + ttl.delta());
        recorder.by_hand(EventKind::Revoked, Origin::Manual, id, order.reason, Some(expires_at));
        done.sessions.push(id.clone());
    }
    append_credentials(store, &matched, now).await?;
    append(store, recorder).await?;
    Ok(done)
}

/// Ends the blocks of sessions, or lets them go where they are held. Automatic blocks do not come back for
/// `[guard] restore_grace`.
pub async fn restore(warden: &Warden, store: &dyn Store, order: &Order<'_>) -> anyhow::Result<Done> {
    let session = warden.engine.session_over(store, order.now).await?;
    let (blocks, held) = (stored::begin_standing_blocks(&session), stored::held(&session).await?);
    let blocks: Vec<Event> = blocks.rows().await?;
    // What is in the rules but lost from the history can be ended only so.
    let group = warden.config.waf.as_ref().and_then(|waf| waf.group()).map(|(_, id)| id);
    let enforced: Vec<Known> = match group {
        Some(group) => fetch(&session, ENFORCED, vec![("group", group.into())]).await?,
        None => vec![],
    };
    let standing: HashSet<&str> = blocks
        .iter()
        .chain(&held)
        .map(|event| event.session_id.as_str())
        .chain(enforced.iter().map(|known| known.session_id.as_str()))
        .collect();
    let mut recorder = recorder(&session, order.now, order.actor, order.run_id).await?;
    let mut done = Done::default();
    for id in order.sessions {
        if standing.contains(id.as_str()) {
            recorder.by_hand(EventKind::Restored, Origin::Manual, id, order.reason, None);
            done.sessions.push(id.clone());
        } else {
            done.refused.insert(id.clone(), "it is neither blocked nor held".to_owned());
        }
    }
    append(store, recorder).await?;
    Ok(done)
}

/// What came of the rows of Secure Media Delivery's table.
#[derive(Debug, Default)]
pub struct TakenIn {
    pub events: Vec<Event>,
    /// Sessions of rows that cannot be taken in, and why.
    pub refused: BTreeMap<String, String>,
}

/// Takes in the manual revocations of Secure Media Delivery's table: each is a block until its `ttl`, and no longer than
/// `[state] activity_retention` at a time, after which a row that is still there extends it. A row that is gone ends its block, and
/// no other.
/// What a person restored stays so until the row is written anew.
pub async fn take_in(
    warden: &Warden,
    store: &dyn Store,
    contents: &Contents,
    table: &str,
    now: DateTime<Utc>,
    run_id: &str,
) -> anyhow::Result<TakenIn> {
    let session = warden.engine.session_over(store, now).await?;
    let asked = rows::texts_batch("session_id", contents.manual.iter().map(|row| &row.session_id));
    replace(&session, "asked", asked.schema(), vec![asked])?;
    let known: Vec<Known> = fetch(&session, WITH_CREDENTIALS, vec![]).await?;
    let known: HashSet<String> = known.into_iter().map(|row| row.session_id).collect();
    let mut events_of: BTreeMap<String, Vec<Event>> = BTreeMap::new();
    for event in fetch::<Event>(&session, LAST_STATES, vec![]).await? {
        events_of.entry(event.session_id.clone()).or_default().push(event);
    }
    let standings: BTreeMap<&str, Standing> =
        events_of.iter().map(|(session, events)| (session.as_str(), Standing::of(events))).collect();
    let nothing = Standing::default();
    let actor = format!("DynamoDB table {table}");
    let mut recorder = recorder(&session, now, &actor, run_id).await?;
    let mut taken = TakenIn::default();
    taken.refused.extend(contents.unusable.iter().map(|(session, why)| (session.clone(), (*why).to_owned())));
    let mut matched: Vec<(&str, &'static str, Credential)> = Vec::new();
    let behind = |id: &str| block_behind(events_of.get(id)?, Origin::Dynamodb, now);
    let retention = warden.config.activity_retention.delta();
    for row in &contents.manual {
        let id = row.session_id.as_str();
        let standing = standings.get(id).unwrap_or(&nothing);
        let active = standing.active.as_ref().filter(|active| active.expires_at > now);
        let of_table = active.filter(|active| active.origin == Origin::Dynamodb);
        if row.ttl <= now {
            if of_table.is_some() {
                end(&mut recorder, id, "the ttl of its row was put back", behind(id));
            }
            continue;
        }
        if standing.restored_at.is_some_and(|restored| row.last_updated.is_none_or(|updated| updated <= restored)) {
            continue;
        }
        let expires_at = row.ttl.min(now + retention);
        let kind = match (of_table, active) {
            // The ttl was put back.
            (Some(active), _) if row.ttl < active.expires_at => {
                if let Some(other) = behind(id).filter(|other| other.expires_at > Some(row.ttl)) {
                    end(&mut recorder, id, "the ttl of its row was put back", Some(other));
                    continue;
                }
                EventKind::Revoked
            }
            // Half of the time is left, or all of it that there is.
            (Some(active), _) if active.expires_at >= row.ttl.min(now + retention / 2) => continue,
            (Some(_), _) => EventKind::Extended,
            // Another block that lasts as long is not made shorter.
            (None, Some(active)) if active.expires_at >= expires_at => continue,
            (None, _) => EventKind::Revoked,
        };
        // It is their id that the table has, whatever other schemes there are.
        match credentials_of(&warden.config.sessions, Some(secure_media_delivery::NAME), id, &[]) {
            Ok(own) => matched.extend(own.into_iter().map(|(scheme, credential)| (id, scheme, credential))),
            Err(_) if known.contains(id) => {}
            Err(why) => {
                taken.refused.insert(id.to_owned(), why);
                continue;
            }
        }
        recorder.by_hand(kind, Origin::Dynamodb, id, row.reason.as_deref(), Some(expires_at));
    }
    for (id, standing) in &standings {
        let active = standing.active.as_ref().filter(|active| active.expires_at > now);
        if active.is_some_and(|active| active.origin == Origin::Dynamodb) && !contents.sessions.contains(*id) {
            end(&mut recorder, id, "its row is gone from the table", behind(id));
        }
    }
    append_credentials(store, &matched, now).await?;
    taken.events = recorder.events.clone();
    append(store, recorder).await?;
    Ok(taken)
}

/// Ends the block of a row, and of nobody else: the one `behind` it goes on.
fn end(recorder: &mut Recorder<'_>, id: &str, why: &str, behind: Option<&Event>) {
    match behind {
        Some(block) => recorder.resume(block, format!("{why}; the block of before goes on")),
        None => recorder.by_hand(EventKind::Restored, Origin::Dynamodb, id, Some(why), None),
    }
}

/// What WAF is to match for a session: what was given, or its id where that is the credential; of the scheme that is named,
/// or of the only one that takes it. Why not, where there is none, or no rule can hold it.
fn credentials_of(
    schemes: &[Scheme],
    named: Option<&str>,
    id: &str,
    given: &[String],
) -> Result<Vec<(&'static str, Credential)>, String> {
    let found = matched_by(schemes, named, id, given)?;
    if found.iter().all(|(_, credential)| fits(credential)) { Ok(found) } else { Err(TOO_LONG.to_owned()) }
}

fn matched_by(
    schemes: &[Scheme],
    named: Option<&str>,
    id: &str,
    given: &[String],
) -> Result<Vec<(&'static str, Credential)>, String> {
    let schemes = || schemes.iter().filter(|scheme| named.is_none_or(|named| named == scheme.name()));
    if let Some(named) = named
        && schemes().next().is_none()
    {
        return Err(format!("the config has no [[session]] of the scheme {named}"));
    }
    if given.is_empty() {
        let own = schemes().filter_map(|scheme| Some((scheme.name(), scheme.credential_of_id(id)?)));
        let mut own: Vec<(&'static str, Credential)> = own.collect();
        own.dedup();
        return match own.len() {
            0 => Err(
                "no request of it was seen, and it is no id that WAF matches (by the scheme, or by its min_length, max_length and \
                      alphabet): a token or signature of it is needed (revoke --credential)"
                    .to_owned(),
            ),
            1 => Ok(own),
            // One scheme's id may be somebody else's in another.
            _ => Err("no request of it was seen, and it may be an id of several schemes of the config: say of which \
                      (revoke --scheme)"
                .to_owned()),
        };
    }
    let of = |text: &String| {
        if let Some(other) = schemes().find_map(|scheme| scheme.session_of_text(text)).filter(|other| other != id) {
            return Err(format!(
                "--credential is a token of the session {other}, which would be blocked under another name"
            ));
        }
        let found = schemes().find_map(|scheme| Some((scheme.name(), scheme.credential_of_text(text)?)));
        found.ok_or_else(|| {
            "--credential is no token, signature or key by which a scheme of the config is matched".to_owned()
        })
    };
    given.iter().map(of).collect()
}

/// Stores what WAF is to match for sessions.
async fn append_credentials(
    store: &dyn Store,
    matched: &[(&str, &'static str, Credential)],
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    if matched.is_empty() {
        return Ok(());
    }
    let stored: Vec<CredentialRow> = matched
        .iter()
        .map(|(session_id, scheme, credential)| CredentialRow {
            batch: 0,
            session_id,
            scheme,
            credential: &credential.text,
            token_expires: None,
            unknown_expiry: true,
            first_seen: now,
            last_seen: now,
            component: credential.component.to_string(),
        })
        .collect();
    let batch = rows::encode(Table::Credentials.schema().stored(), &stored).map_err(anyhow::Error::msg)?;
    store.append(Table::Credentials, vec![batch], &[]).await?;
    Ok(())
}

async fn recorder<'a>(
    session: &SessionContext,
    now: DateTime<Utc>,
    actor: &'a str,
    run_id: &'a str,
) -> anyhow::Result<Recorder<'a>> {
    let next_sequence = stored::length(session, now).await?.sequence + 1;
    Ok(Recorder { now, next_sequence, run_id, actor, events: Vec::new() })
}

async fn append(store: &dyn Store, recorder: Recorder<'_>) -> anyhow::Result<()> {
    if !recorder.events.is_empty() {
        let rows = stored::rows_of(&recorder.events).map_err(anyhow::Error::msg)?;
        store.append(Table::Revocations, rows, &[]).await?;
    }
    Ok(())
}
