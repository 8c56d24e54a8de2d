//! The allow-list: what never counts against anybody, with its reason and until when.
//!
//! An entry for a session spares the session. One for a network, an autonomous system, a user agent or a referer takes
//! requests out of what detectors see: the rest of the session is judged without them. Agents and referers can be forged:
//! who sends an allowed one with every request is seen by no detector.

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::AddAssign;
use std::str::FromStr;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, Utc};

use crate::privacy::Disguise;
use crate::rows::texts;

/// An entry of the config.
#[derive(Clone, Debug, PartialEq)]
pub struct Allow {
    pub what: Allowed,
    pub reason: String,
    /// Not in force from here on; none: always in force.
    pub until: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Allowed {
    Session(String),
    Network(Block),
    /// The networks of a block, in the form in which they are stored.
    Networks(HashSet<String>),
    Asn(i64),
    /// The whole user agent, decoded.
    UserAgent(String),
    /// A host and those below it, lower case.
    Referer(String),
}

/// A block of addresses, `203.0.113.0/24` or one address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    address: u128,
    v6: bool,
    bits: u8,
}

impl FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Block, String> {
        let wrong = || format!("{text:?} is no network: write 203.0.113.0/24, 203.0.113.7 or 2001:db8::/48");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let (address, v6) = number(address.parse().map_err(|_| wrong())?);
        let most = if v6 { 128 } else { 32 };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(wrong());
        }
        if v6 && bits > 64 {
            return Err(format!("{text:?}: IPv6 networks are known as /64, a longer prefix cannot be told apart"));
        }
        Ok(Block { address, v6, bits })
    }
}

impl Block {
    /// The networks in it as they are stored.
    fn in_disguise(self, disguise: &Disguise) -> Result<Allowed, String> {
        let shown = self.address(self.address);
        let (of_v4, of_v6) = match disguise {
            Disguise::Keep => return Ok(Allowed::Network(self)),
            Disguise::Truncate => (24, 48),
            Disguise::Hash(_) => (16, 48),
        };
        let bound = if self.v6 { of_v6 } else { of_v4 };
        if matches!(disguise, Disguise::Truncate) {
            let wide = self.bits <= bound;
            let message = || {
                format!(
                    "{shown}/{}: with [privacy] addresses = \"truncate\" networks are known as /{bound}: allow that",
                    self.bits
                )
            };
            return wide.then_some(Allowed::Network(self)).ok_or_else(message);
        }
        if self.bits < bound {
            return Err(format!(
                "{shown}/{}: with [privacy] addresses = \"hash\" each network in it is looked for by its digest, and these are too \
                 many: allow parts of it, /{bound} or smaller, or its autonomous system",
                self.bits
            ));
        }
        let (width, step) = if self.v6 { (64 - self.bits, 64) } else { (32 - self.bits, 0) };
        let first = ((self.address >> step) >> width) << width;
        let networks = (0..1u128 << width).map(|number| {
            let address = self.address((first + number) << step);
            crate::viewer::network(disguise.address(address))
        });
        Ok(Allowed::Networks(networks.collect()))
    }

    fn address(self, number: u128) -> IpAddr {
        if self.v6 { IpAddr::V6(number.into()) } else { IpAddr::V4((number as u32).into()) }
    }

    /// Whether a value of the column `network` lies in it.
    fn has(&self, network: &str) -> bool {
        let address = network.strip_suffix("::/64").map_or_else(
            || network.split('/').next().unwrap_or_default().parse::<IpAddr>(),
            |prefix| format!("{prefix}::").parse(),
        );
        let Ok(address) = address else { return false };
        let (address, v6) = number(address);
        let width = if self.v6 { 128 } else { 32 };
        let shift = u32::from(width - self.bits);
        // All addresses are in a block of no bits.
        v6 == self.v6 && (address ^ self.address).checked_shr(shift).unwrap_or(0) == 0
    }
}

fn number(address: IpAddr) -> (u128, bool) {
    match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), false),
        IpAddr::V6(v6) => (u128::from(v6), true),
    }
}

/// The columns of `activity` by which entries take requests out, and that are told of these.
pub const JUDGED: [&str; 7] = ["minute", "session_id", "network", "asn", "user_agent", "referer_host", "requests"];

/// The entries of a config.
#[derive(Clone, Debug, Default)]
pub struct AllowList(pub Vec<Allow>);

/// What the entries for requests took out of what detectors see.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spared {
    pub requests: u64,
    /// In no order, several times where rows of several minutes were taken out.
    pub sessions: Vec<String>,
    /// Rows of minutes before this one, in microseconds since the epoch, were counted.
    pub counted_until: i64,
}

impl AddAssign for Spared {
    /// Adds what was taken out of other sessions' rows.
    fn add_assign(&mut self, other: Spared) {
        self.requests += other.requests;
        self.sessions.extend(other.sessions);
        self.counted_until = self.counted_until.max(other.counted_until);
    }
}

impl AllowList {
    /// The same entries about addresses as they are stored. An error says which network cannot be told from others then.
    pub fn in_disguise(self, disguise: &Disguise) -> Result<AllowList, String> {
        let entries = self.0.into_iter().map(|allow| match allow.what {
            Allowed::Network(block) => Ok(Allow { what: block.in_disguise(disguise)?, ..allow }),
            _ => Ok(allow),
        });
        Ok(AllowList(entries.collect::<Result<_, String>>()?))
    }

    /// The entry that spares a session at `now`.
    pub fn of_session(&self, session_id: &str, now: DateTime<Utc>) -> Option<&Allow> {
        self.in_force(now).find(|allow| matches!(&allow.what, Allowed::Session(id) if id == session_id))
    }

    /// Whether an entry takes requests out at `now`.
    pub fn takes_requests(&self, now: DateTime<Utc>) -> bool {
        self.in_force(now).any(|allow| !matches!(allow.what, Allowed::Session(_)))
    }

    fn in_force(&self, now: DateTime<Utc>) -> impl Iterator<Item = &Allow> {
        self.0.iter().filter(move |allow| allow.until.is_none_or(|until| now < until))
    }

    /// The rows of a minute table that are left at `now`. A table without a column that an entry is about is not judged by it.
    /// Those of minutes from `spared.counted_until` on are counted.
    pub fn filter(&self, batch: &RecordBatch, now: DateTime<Utc>, spared: &mut Spared) -> Result<RecordBatch, String> {
        let mut taken = vec![false; batch.num_rows()];
        for allow in self.in_force(now) {
            match &allow.what {
                Allowed::Session(_) => {}
                Allowed::Network(block) => mark(batch, "network", &mut taken, |network| block.has(network))?,
                Allowed::Networks(networks) => {
                    mark(batch, "network", &mut taken, |network| networks.contains(network))?;
                }
                Allowed::UserAgent(agent) => mark(batch, "user_agent", &mut taken, |text| text == agent)?,
                Allowed::Referer(host) => mark(batch, "referer_host", &mut taken, |text| {
                    text == host || text.strip_suffix(host.as_str()).is_some_and(|below| below.ends_with('.'))
                })?,
                Allowed::Asn(asn) => {
                    if let Some(column) = batch.column_by_name("asn") {
                        let asns = column.as_primitive::<Int64Type>().iter();
                        taken.iter_mut().zip(asns).for_each(|(taken, of)| *taken |= of == Some(*asn));
                    }
                }
            }
        }
        if !taken.contains(&true) {
            return Ok(batch.clone());
        }
        let requests = batch.column_by_name("requests").ok_or("a minute table has requests")?;
        let requests = requests.as_primitive::<Int64Type>();
        let minutes = batch.column_by_name("minute").ok_or("a minute table has minutes")?;
        let minutes = minutes.as_primitive::<TimestampMicrosecondType>().values();
        let counts = |row: usize| taken[row] && minutes[row] >= spared.counted_until;
        let counted: Vec<usize> = (0..batch.num_rows()).filter(|row| counts(*row)).collect();
        let sessions: Vec<Option<&str>> = texts(batch, "session_id")?.collect();
        for row in counted {
            let session = sessions[row];
            spared.requests += if requests.is_null(row) { 0 } else { requests.value(row).unsigned_abs() };
            spared.sessions.extend(session.map(str::to_owned));
        }
        let left: BooleanArray = taken.into_iter().map(|taken| Some(!taken)).collect();
        filter_record_batch(batch, &left).map_err(|error| error.to_string())
    }
}

/// Marks the rows whose text fits.
fn mark(batch: &RecordBatch, column: &str, taken: &mut [bool], fits: impl Fn(&str) -> bool) -> Result<(), String> {
    if batch.column_by_name(column).is_some() {
        let values = texts(batch, column)?;
        taken.iter_mut().zip(values).for_each(|(taken, value)| *taken |= value.is_some_and(&fits));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Table;

    #[test]
    fn blocks() {
        let block = |text: &str| text.parse::<Block>().unwrap();
        for (text, inside, outside) in [
            ("203.0.113.0/24", "203.0.113.255", "203.0.114.0"),
            ("203.0.113.7", "203.0.113.7", "203.0.113.8"),
            ("2001:db8:1::/48", "2001:db8:1:2::/64", "2001:db8:2:2::/64"),
            ("2001:db8:1:2::/64", "2001:db8:1:2::/64", "2001:db8:1:3::/64"),
            ("2001:db8::/32", "2001:db8::/64", "203.0.113.7"),
            ("0.0.0.0/0", "203.0.113.7", "2001:db8::/64"),
        ] {
            assert!(block(text).has(inside) && !block(text).has(outside), "{text}");
        }
        for wrong in ["203.0.113.0/33", "example.com", "2001:db8::1/128", "203.0.113.0/", ""] {
            assert!(wrong.parse::<Block>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_block_is_allowed_in_whatever_form_addresses_are_stored() {
        let hash = Disguise::hash(b"0123456789abcdef0123456789abcdef");
        let stored = |disguise: &Disguise, address: &str| {
            crate::viewer::network(disguise.address(address.parse::<IpAddr>().unwrap()))
        };
        for (text, inside, outside) in [
            ("203.0.113.0/24", "203.0.113.255", "203.0.114.0"),
            ("203.0.112.0/20", "203.0.127.7", "203.0.128.7"),
            ("2001:db8:1::/48", "2001:db8:1:2::7", "2001:db8:2:2::7"),
        ] {
            for disguise in [&Disguise::Truncate, &hash] {
                let allowed = text.parse::<Block>().unwrap().in_disguise(disguise).unwrap();
                let has = |address: &str| match &allowed {
                    Allowed::Network(block) => block.has(&stored(disguise, address)),
                    Allowed::Networks(networks) => networks.contains(&stored(disguise, address)),
                    _ => false,
                };
                assert!(has(inside) && !has(outside), "{text}");
            }
        }
        let allowed = |text: &str, disguise: &Disguise| text.parse::<Block>().unwrap().in_disguise(disguise);
        assert!(allowed("203.0.113.7", &hash).is_ok());
        assert!(allowed("203.0.113.7", &Disguise::Truncate).unwrap_err().contains("/24"));
        assert!(allowed("203.0.0.0/15", &hash).unwrap_err().contains("/16"));
    }

    #[test]
    fn rows_are_taken_out_while_the_entry_is_in_force() {
        let row = |session: &str, network: &str, asn: i64, agent: &str, referer: &str| {
            serde_json::json!({"minute": "2026-11-20T19:00:00Z", "session_id": session, "network": network, "asn": asn,
                "user_agent": agent, "referer_host": referer, "bound": true, "derived": false, "device": "tv", "requests": 3,
                "manifests": 0, "segments": 3, "bytes": 9, "first_seen": "2026-11-20T19:00:01Z", "last_seen": "2026-11-20T19:00:02Z"})
        };
        let rows = [
            row("a", "203.0.113.7", 1, "x", "example.com"),
            row("b", "198.18.0.1", 2, "x", "example.com"),
            row("c", "198.18.0.2", 3, "Probe/1", "example.com"),
            row("d", "198.18.0.3", 3, "x", "tv.partner.example"),
            row("e", "198.18.0.4", 3, "x", "notpartner.example"),
        ];
        let batch = crate::rows::encode(Table::Activity.schema().public(), &rows).unwrap();
        let allow = |what, until: Option<&str>| Allow {
            what,
            reason: "r".into(),
            until: until.map(|until| until.parse().unwrap()),
        };
        let list = AllowList(vec![
            allow(Allowed::Network("203.0.113.0/24".parse().unwrap()), None),
            allow(Allowed::Asn(2), Some("2026-11-20T20:00:00Z")),
            allow(Allowed::UserAgent("Probe/1".into()), None),
            allow(Allowed::Referer("partner.example".into()), None),
        ]);
        let left = |now: &str| {
            let mut spared = Spared::default();
            let batch = list.filter(&batch, now.parse().unwrap(), &mut spared).unwrap();
            let ids: Vec<String> = texts(&batch, "session_id").unwrap().flatten().map(str::to_owned).collect();
            (ids.concat(), spared.requests, spared.sessions.concat())
        };
        assert_eq!(left("2026-11-20T19:59:59Z"), ("e".into(), 12, "abcd".into()));
        assert_eq!(left("2026-11-20T20:00:00Z"), ("be".into(), 9, "acd".into()));
    }
}
