//! The roll-up of requests to rows of the stored minute tables, while the lines are read.
//!
//! What the rows are is defined by the SQL of `queries/rollup*.sql`; a test holds this to it. It is here because it is many
//! times as fast: a log line's texts are looked up, not copied, and no line is kept.

mod columns;
mod reading;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;
use arrow::array::StringViewArray;
use arrow::record_batch::RecordBatch;
use indexmap::{IndexMap, IndexSet};

use crate::content::{Kind, part};
use crate::geo::Country;
use crate::logs::fields::{Field, FieldSet};
use crate::logs::spare::Pool;
use crate::logs::{LoggedRequest, RequestSink};
use crate::network_type::NetworkType;
use crate::schema::Table;
use crate::session::component::Component;
use crate::viewer;
use columns::{activity_columns, batches, credential_columns, delivery_columns, refusal_columns};
pub use reading::Reading;
use reading::{Last, Refused};

/// Bytes of what is remembered only while an object is read (paths, agents, refused ids), beyond which the object goes on as another
/// part: its segments are counted anew, and its most refused ids are others. It bounds memory.
const PART_BYTES: usize = 64 << 20;

const MINUTE: i64 = 60_000_000;

/// One segment in so many is recorded in `deliveries`.
const RECORDED_SEGMENTS: i64 = 8;

/// The place of a text among those of a tally.
type Id = u32;

// Quick, and keyed by chance: log lines are written by attackers.
type Map<K, V> = HashMap<K, V, RandomState>;
type Set<K> = HashSet<K, RandomState>;
type Rows<K, V> = IndexMap<K, V, RandomState>;

fn id_of(place: usize) -> Id {
    Id::try_from(place).expect("memory ends long before 2^32 texts")
}

/// Texts, each once.
#[derive(Default)]
struct Texts(IndexSet<Box<str>, RandomState>);

impl Texts {
    fn id(&mut self, text: &str) -> Id {
        id_of(self.0.get_index_of(text).unwrap_or_else(|| self.0.insert_full(text.into()).0))
    }

    fn get(&self, id: Id) -> &str {
        &self.0[id as usize]
    }

    /// All of them, by their places. Columns of rows take from it, and share its memory.
    fn column(&self) -> StringViewArray {
        StringViewArray::from_iter_values(&self.0)
    }

    /// The lesser text of two, as MIN of SQL has it.
    fn min(&self, a: Option<Id>, b: Option<Id>) -> Option<Id> {
        match (a, b) {
            (Some(a), Some(b)) if a != b => Some(if self.get(a) <= self.get(b) { a } else { b }),
            (a, b) => a.or(b),
        }
    }
}

/// The key columns of `activity`. Instants are microseconds since the epoch.
#[derive(Clone, PartialEq, Eq, Hash)]
struct ActivityKey {
    minute: i64,
    session: Id,
    network: Option<Id>,
    country: Option<Country>,
    asn: Option<i64>,
    user_agent: Option<Id>,
    referer_host: Option<Id>,
    content: Option<Id>,
    bound: bool,
}

#[derive(Clone)]
struct Activity {
    distribution: Option<Id>,
    derived: bool,
    ip: Option<IpAddr>,
    device: &'static str,
    network_type: Option<NetworkType>,
    latitude: Option<f64>,
    longitude: Option<f64>,
    accuracy_km: Option<i64>,
    requests: i64,
    manifests: i64,
    segments: i64,
    bytes: i64,
    first_seen: i64,
    last_seen: i64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct DeliveryKey {
    minute: i64,
    session: Id,
    segment: i64,
    network: Id,
    bound: bool,
}

struct Delivery {
    asn: Option<i64>,
    network_type: Option<NetworkType>,
    requests: i64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct CredentialKey {
    session: Id,
    scheme: &'static str,
    component: Component,
    credential: Id,
}

struct Seen {
    token_expires: Option<i64>,
    unknown_expiry: bool,
    first_seen: i64,
    last_seen: i64,
}

/// `session`: none for the ids that share a row.
#[derive(Clone, PartialEq, Eq, Hash)]
struct RefusalKey {
    minute: i64,
    session: Option<Id>,
}

#[derive(Default)]
struct Refusal {
    requests: i64,
    networks: i64,
}

/// Rows of the stored minute tables: of one object, or of several that were taken together.
#[derive(Default)]
pub struct Tally {
    texts: Texts,
    activity: Rows<ActivityKey, Activity>,
    deliveries: Rows<DeliveryKey, Delivery>,
    credentials: Rows<CredentialKey, Seen>,
    refusals: Rows<RefusalKey, Refusal>,
    reading: Reading,
    /// Where the memory of the reading is from.
    spare: Option<Arc<Pool<Reading>>>,
}

impl RequestSink for Tally {
    fn needed_fields(&self) -> FieldSet {
        FieldSet::of([Field::Distribution, Field::Country, Field::Asn, Field::UserAgent, Field::Referer, Field::Method])
    }

    fn take(&mut self, request: &LoggedRequest<'_>) {
        if request.refused {
            self.refuse(request);
        }
        // Nothing is watched by other methods, and a preflight (OPTIONS) is answered before any token is looked at.
        let watches = request.line.method.is_none_or(|method| matches!(method, "GET" | "HEAD"));
        if request.accepted && watches && request.playback.is_some() {
            self.accept(request);
        }
        if self.reading.bytes >= PART_BYTES {
            self.end_part();
        }
    }

    fn finish(&mut self) {
        self.end_part();
        if let Some(spare) = &self.spare {
            spare.give(std::mem::take(&mut self.reading));
        }
    }
}

impl Tally {
    /// What an object is read into, with memory that the reading of another one has left.
    pub fn with_spare(spare: &Arc<Pool<Reading>>) -> Tally {
        Tally { reading: spare.take().unwrap_or_default(), spare: Some(spare.clone()), ..Tally::default() }
    }

    /// Forgets what belongs to the reading of an object, or of a part of it.
    fn end_part(&mut self) {
        std::mem::take(&mut self.reading.refused).roll(&mut self.texts, &mut self.refusals);
        self.reading.clear();
    }

    /// Rows of all tables.
    pub fn rows(&self) -> usize {
        self.activity.len() + self.deliveries.len() + self.credentials.len() + self.refusals.len()
    }

    fn refuse(&mut self, request: &LoggedRequest<'_>) {
        let Refused { texts, requests } = &mut self.reading.refused;
        let session = request.playback.map(|playback| texts.id(&playback.session.id));
        let network = request.address.map(|address| texts.id(&viewer::network(address)));
        let before = requests.len();
        *requests.entry((minute(request.line.time), session, network)).or_default() += 1;
        if requests.len() > before {
            self.reading.bytes += 128 + request.playback.map_or(0, |playback| playback.session.id.len());
        }
    }

    fn accept(&mut self, request: &LoggedRequest<'_>) {
        let Some(playback) = request.playback else { return };
        let line = request.line;
        let seat = self.reading.seat(playback, &mut self.texts);
        let (path_id, path) = self.reading.path(request.path, request.kind, &mut self.texts);
        let minute = minute(line.time);
        let row = match self.reading.same_row(seat, request, minute, path.content, &self.texts) {
            Some(row) => {
                let known = &mut self.activity[row];
                known.requests += 1;
                known.bytes += request.bytes;
                known.first_seen = known.first_seen.min(line.time);
                known.last_seen = known.last_seen.max(line.time);
                row
            }
            None => self.row(seat, request, minute, path.content),
        };
        let activity = &mut self.activity[row];
        activity.manifests += i64::from(path.kind == Kind::Manifest);
        if path.kind == Kind::Segment && self.reading.fetched.insert((row as u32, path_id as u32)) {
            activity.segments += 1;
            self.reading.bytes += 16;
        }
        let segment = path.segment.and_then(|segment| part(segment, request.first_byte));
        let key = self.activity.get_index(row).expect("it was just found").0;
        if let (Some(segment), Some(network)) =
            (segment.filter(|segment| segment % RECORDED_SEGMENTS == 0), key.network)
        {
            let key = DeliveryKey { minute, session: key.session, segment, network, bound: key.bound };
            let place = &request.place;
            let delivery = Delivery { asn: place.asn, network_type: place.network_type, requests: 1 };
            self.deliveries.entry(key).and_modify(|known| known.add(&delivery)).or_insert(delivery);
        }
        if let Some(credential) = &playback.session.credential {
            let (id, seat) = self.reading.seats.get_index_mut(seat).expect("it was just found");
            let row = *seat.credential.get_or_insert_with(|| {
                let key = CredentialKey {
                    session: *id,
                    scheme: playback.scheme,
                    component: credential.component.clone(),
                    credential: self.texts.id(&credential.text),
                };
                let entry = self.credentials.entry(key);
                let row = entry.index();
                entry.or_insert(Seen {
                    token_expires: None,
                    unknown_expiry: false,
                    first_seen: i64::MAX,
                    last_seen: i64::MIN,
                });
                row
            });
            let expires = playback.session.token_expires.map(|time| time.timestamp_micros());
            self.credentials[row].add(&Seen {
                token_expires: expires,
                unknown_expiry: expires.is_none(),
                first_seen: line.time,
                last_seen: line.time,
            });
        }
    }

    /// The row of activity that a request belongs to, which is counted in it, but for what its path says.
    fn row(&mut self, seat: usize, request: &LoggedRequest<'_>, minute: i64, content: Option<Id>) -> usize {
        let (texts, reading) = (&mut self.texts, &mut self.reading);
        let (line, place) = (request.line, request.place);
        let network = request.address.map(|address| reading.network(address, texts));
        let agent = line.user_agent.map(|field| reading.agent(field, texts));
        let referer = line.referer.map(|field| reading.referer(field, texts));
        let distribution = request.distribution.map(|distribution| texts.id(distribution));
        let (id, seat) = reading.seats.get_index_mut(seat).expect("it was just found");
        let known_agent = agent.map(|agent| reading.agents[agent]);
        let key = ActivityKey {
            minute,
            session: *id,
            network,
            country: place.country,
            asn: place.asn,
            user_agent: known_agent.map(|(id, _)| id),
            referer_host: referer.and_then(|referer| reading.referers[referer]),
            content,
            bound: seat.session.bound,
        };
        let activity = Activity {
            distribution,
            derived: seat.session.derived,
            ip: request.address,
            device: known_agent.map_or_else(|| viewer::device(None), |(_, device)| device),
            network_type: place.network_type,
            latitude: place.position.map(|position| position.latitude),
            longitude: place.position.map(|position| position.longitude),
            accuracy_km: place.position.and_then(|position| position.accuracy_km),
            requests: 1,
            manifests: 0,
            segments: 0,
            bytes: request.bytes,
            first_seen: line.time,
            last_seen: line.time,
        };
        let entry = self.activity.entry(key);
        let row = entry.index();
        entry.and_modify(|known| known.add(&activity, texts)).or_insert(activity);
        let address = request.address;
        seat.last = Some(Last { row, minute, address, place, agent, referer, content, distribution });
        row
    }

    /// Takes the rows of another, which was read to its end.
    pub fn add(&mut self, other: Tally) {
        if self.rows() == 0 {
            *self = other;
            return;
        }
        let ids: Vec<Id> = other.texts.0.into_iter().map(|text| id_of(self.texts.0.insert_full(text).0)).collect();
        let id = |id: Id| ids[id as usize];
        for (key, activity) in other.activity {
            let key = ActivityKey {
                session: id(key.session),
                network: key.network.map(id),
                user_agent: key.user_agent.map(id),
                referer_host: key.referer_host.map(id),
                content: key.content.map(id),
                ..key
            };
            let activity = Activity { distribution: activity.distribution.map(id), ..activity };
            let texts = &self.texts;
            self.activity.entry(key).and_modify(|known| known.add(&activity, texts)).or_insert(activity);
        }
        for (key, delivery) in other.deliveries {
            let key = DeliveryKey { session: id(key.session), network: id(key.network), ..key };
            self.deliveries.entry(key).and_modify(|known| known.add(&delivery)).or_insert(delivery);
        }
        for (key, seen) in other.credentials {
            let key = CredentialKey { session: id(key.session), credential: id(key.credential), ..key };
            self.credentials.entry(key).and_modify(|known| known.add(&seen)).or_insert(seen);
        }
        for (key, refusal) in other.refusals {
            let known = self.refusals.entry(RefusalKey { session: key.session.map(id), ..key }).or_default();
            known.requests += refusal.requests;
            known.networks += refusal.networks;
        }
    }

    /// The rows of each table, in the stored schema and with their batch number; `activity` last.
    pub fn into_rows(self, batch: i64) -> [(Table, Vec<RecordBatch>); 4] {
        let texts = &self.texts.column();
        [
            (Table::Refusals, batches(Table::Refusals, batch, &self.refusals, |rows| refusal_columns(texts, rows))),
            (
                Table::Deliveries,
                batches(Table::Deliveries, batch, &self.deliveries, |rows| delivery_columns(texts, rows)),
            ),
            (
                Table::Credentials,
                batches(Table::Credentials, batch, &self.credentials, |rows| credential_columns(texts, rows)),
            ),
            (Table::Activity, batches(Table::Activity, batch, &self.activity, |rows| activity_columns(texts, rows))),
        ]
    }
}

impl Activity {
    fn add(&mut self, other: &Activity, texts: &Texts) {
        self.distribution = texts.min(self.distribution, other.distribution);
        self.derived |= other.derived;
        self.ip = lesser_address(self.ip, other.ip);
        self.device = self.device.min(other.device);
        self.network_type = lesser(self.network_type, other.network_type);
        self.latitude = least(self.latitude, other.latitude, f64::min);
        self.longitude = least(self.longitude, other.longitude, f64::min);
        self.accuracy_km = self.accuracy_km.max(other.accuracy_km);
        self.requests += other.requests;
        self.manifests += other.manifests;
        self.segments += other.segments;
        self.bytes += other.bytes;
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
    }
}

impl Delivery {
    fn add(&mut self, other: &Delivery) {
        self.asn = least(self.asn, other.asn, i64::min);
        self.network_type = lesser(self.network_type, other.network_type);
        self.requests += other.requests;
    }
}

impl Seen {
    fn add(&mut self, other: &Seen) {
        self.token_expires = self.token_expires.max(other.token_expires);
        self.unknown_expiry |= other.unknown_expiry;
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
    }
}

/// The least of two, where nothing is no value, as MIN of SQL has it.
fn least<T>(a: Option<T>, b: Option<T>, min: impl FnOnce(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(min(a, b)),
        (a, b) => a.or(b),
    }
}

/// By name, as MIN of SQL has it.
fn lesser(a: Option<NetworkType>, b: Option<NetworkType>) -> Option<NetworkType> {
    least(a, b, |a, b| if a.name() <= b.name() { a } else { b })
}

/// By text, as MIN of SQL has it.
fn lesser_address(a: Option<IpAddr>, b: Option<IpAddr>) -> Option<IpAddr> {
    least(a, b, |a, b| if a == b || a.to_string() <= b.to_string() { a } else { b })
}

fn minute(time: i64) -> i64 {
    time.div_euclid(MINUTE) * MINUTE
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use datafusion::datasource::MemTable;
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;
    use crate::config;
    use crate::engine::{Engine, Sql, prepare, sql};
    use crate::geo::Geo;
    use crate::logs::{Batches, LogForm, ReadContext, read_object};
    use crate::privacy::Disguise;
    use crate::rows::to_json;
    use crate::session::Scheme;

    /// The definition: each table and its roll-up.
    const ROLLUPS: [(Table, Sql); 4] = [
        (Table::Refusals, sql!("rollup_refusals.sql")),
        (Table::Deliveries, sql!("rollup_deliveries.sql")),
        (Table::Credentials, sql!("rollup_credentials.sql")),
        (Table::Activity, sql!("rollup.sql")),
    ];

    type TableRows = Vec<(Table, Vec<Map<String, Value>>)>;

    fn context() -> ReadContext {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/geoip");
        let config = config::GeoIp {
            country: Some(format!("{folder}/country.mmdb").into()),
            asn: Some(format!("{folder}/asn.mmdb").into()),
        };
        let geo = Arc::new(Geo::open(&config, &Default::default()).unwrap());
        ReadContext::new(Scheme::without_keys().into(), geo, [403].into(), Disguise::Keep)
    }

    fn sorted(rows: &[RecordBatch]) -> Vec<Map<String, Value>> {
        let mut rows = to_json(rows).unwrap();
        rows.iter_mut().for_each(|row| drop(row.remove("batch")));
        rows.sort_by_key(|row| serde_json::to_string(row).unwrap());
        rows
    }

    /// As the lines are read, objects together.
    fn tallied(objects: &[(String, String)]) -> TableRows {
        let mut all = Tally::default();
        for (name, text) in objects {
            let mut tally = Tally::default();
            read_object(text.as_bytes(), name, &LogForm::default(), &context(), &mut tally).unwrap();
            all.add(tally);
        }
        all.into_rows(1).iter().map(|(table, rows)| (*table, sorted(rows))).collect()
    }

    /// As the SQL says.
    fn defined(objects: &[(String, String)]) -> TableRows {
        let mut requests = Vec::new();
        for (name, text) in objects {
            let keep = |rows| {
                requests.push(rows);
                ControlFlow::Continue(())
            };
            let mut sink = Batches::new(Table::Requests.schema().public(), keep);
            read_object(text.as_bytes(), name, &LogForm::default(), &context(), &mut sink).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let session = Engine::new(&config::Engine::default()).unwrap().session();
            let table = MemTable::try_new(Table::Requests.schema().public(), vec![requests]).unwrap();
            session.register_table("requests", Arc::new(table)).unwrap();
            let mut rows = Vec::new();
            for (table, sql) in ROLLUPS {
                let made = prepare(&session, sql, vec![]).await.unwrap().collect().await.unwrap();
                let made: Vec<RecordBatch> =
                    made.iter().map(|batch| crate::rows::conform(batch, &table.schema().stored()).unwrap()).collect();
                rows.push((table, sorted(&made)));
            }
            rows
        })
    }

    const FIELDS: &str = "#Fields: date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status \
                          cs(Referer) cs(User-Agent) cs-uri-query cs(Cookie) x-edge-response-result-type sc-range-start\n";

    /// {"ssn":true,"exp":1795200000}, {"exp":1795200060}, {"ssn":true}
    const PAYLOADS: [&str; 3] =
        ["eyJzc24iOnRydWUsImV4cCI6MTc5NTIwMDAwMH0", "eyJleHAiOjE3OTUyMDAwNjB9", "eyJzc24iOnRydWV9"];

    prop_compose! {
        fn line()(
            second in 0u32..180,
            bytes in 0u32..5_000,
            ip in prop::sample::select(vec!["198.18.0.1", "198.18.0.2", "198.18.129.7", "203.0.113.9", "2001:db8:1:2::5", "2001:db8:1:2::4", "-"]),
            method in prop::sample::select(vec!["GET", "GET", "HEAD", "OPTIONS", "POST", "-"]),
            session in prop::sample::select(vec!["Session00001", "Session00002", "Session00003", ""]),
            payload in prop::sample::select(PAYLOADS.to_vec()),
            path in prop::sample::select(vec!["/live/a/720p/s1.ts", "/live/a/360p/s1.ts", "/live/a/s2.ts", "/live/a/i.m3u8", "/vod/b/s8.m4s", "/x.key", "/", "/news_7.ts"]),
            status in prop::sample::select(vec!["200", "200", "200", "206", "403", "404", "000"]),
            referer in prop::sample::select(vec!["-", "https://www.example.com/watch", "https://WWW.example.com/", "nothing%20here"]),
            agent in prop::sample::select(vec!["-", "ffmpeg/6.0", "Mozilla/5.0%20(iPhone)", "Mozilla/5.0%2520(iPhone)", "Kodi/20"]),
            cookie in prop::sample::select(vec!["-", "-", "CloudFront-Signature=abcdefghijklmnopqrstuvwx;%20CloudFront-Key-Pair-Id=K1;%20CloudFront-Expires=1795200000"]),
            result in prop::sample::select(vec!["Hit", "Miss", "Hit", "Error"]),
            range in prop::sample::select(vec!["-", "-", "0", "8", "9", "more"]),
        ) -> String {
            let token = if session.is_empty() { String::new() } else { format!("/{session}.e30.{payload}.c2lnbmF0dXJl") };
            let (minute, second) = (59 + second / 60, second % 60);
            let time = format!("{:02}:{:02}:{second:02}", 19 + minute / 60, minute % 60);
            format!("2026-11-20\t{time}\tLHR61\t{bytes}\t{ip}\t{method}\td1.cloudfront.net\t{token}{path}\t{status}\t{referer}\t{agent}\t-\t{cookie}\t{result}\t{range}\n")
        }
    }

    fn objects(lines: Vec<Vec<String>>) -> Vec<(String, String)> {
        let name = |place| {
            if place % 2 == 0 { format!("logs/E{place}.2026-11-20-19.aaaa.gz") } else { format!("{place}.log") }
        };
        lines.iter().enumerate().map(|(place, lines)| (name(place), format!("{FIELDS}{}", lines.concat()))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_tally_is_what_the_sql_defines(
            lines in prop::collection::vec(prop::collection::vec(line(), 1..120), 1..4),
        ) {
            let objects = objects(lines);
            prop_assert_eq!(tallied(&objects), defined(&objects));
        }
    }

    /// An attacker fills no table: the most refused ids of a minute have rows, whoever else was refused shares one.
    #[test]
    fn of_many_refused_ids_the_most_refused_have_rows() {
        let refused = |session: usize, second: usize, network: usize| {
            format!(
                "2026-11-20\t19:{:02}:{:02}\tLHR61\t9\t198.18.{}.{}\tGET\td1.cloudfront.net\t/Session{session:05}.e30.{}.c2ln/a.ts\t403\t-\t-\t-\t-\tError\n",
                second / 60,
                second % 60,
                network / 200,
                network % 200,
                PAYLOADS[0]
            )
        };
        let mut lines = Vec::new();
        for session in 0..130 {
            // Some more often than others, and ties among them.
            for time in 0..=session % 7 {
                lines.push(refused(session, time, session * 3 + time % 3));
                lines.push(refused(session, 60 + time, session));
            }
        }
        let objects = objects(vec![lines.clone(), lines[..200].to_vec()]);
        assert_eq!(tallied(&objects), defined(&objects));
        let (_, refusals) = &tallied(&objects[..1])[0];
        let in_first = |row: &&Map<String, Value>| row["minute"] == "2026-11-20T19:00:00Z";
        assert_eq!(refusals.iter().filter(in_first).count(), 101, "a hundred and the rest");
    }

    /// Whatever a viewer can vary without a row of its own in `activity` is let go of in time.
    #[test]
    fn memory_is_bounded_by_parts() {
        let line = |ip: &str, session: &str, path: &str, status: u16, agent: &str| {
            format!(
                "2026-11-20\t19:00:00\tLHR61\t9\t{ip}\tGET\td1.cloudfront.net\t/{session}.e30.{}.c2ln/a/{path}.ts\t{status}\t-\t{agent}\t-\t-\tHit\n",
                PAYLOADS[0]
            )
        };
        let usual = line("198.18.0.1", "Session00001", "usual", 200, "Kodi");
        // However often somebody comes back, whatever the scheme: that takes no room.
        let cookie = |n: usize| {
            let path = if n.is_multiple_of(2) { "usual" } else { "other" };
            format!(
                "2026-11-20\t19:00:00\tLHR61\t9\t198.18.0.1\tGET\td1.cloudfront.net\t/a/{path}.ts\t200\t-\tKodi\t-\tCloudFront-Signature=abcdefghijklmnopqrstuvwx\tHit\n"
            )
        };
        let mut tally = Tally::default();
        tally.reading.bytes = PART_BYTES - 10_000;
        let text = format!("{FIELDS}{}", (0..300).map(cookie).collect::<String>());
        read_object(text.as_bytes(), "a", &LogForm::default(), &context(), &mut tally).unwrap();
        assert_eq!(tally.activity.values().map(|row| (row.requests, row.segments)).collect::<Vec<_>>(), [(300, 2)]);

        let varied: [&dyn Fn(usize) -> String; 4] = [
            &|n| line("198.18.0.1", "Session00001", &n.to_string(), 200, "Kodi"),
            &|n| line("198.18.0.1", &format!("Session{n:05}"), "usual", 403, "Kodi"),
            &|n| line(&format!("2001:db8::{n:x}"), "Session00001", "usual", 200, "Kodi"),
            // None of these bytes is text: the agent is the same.
            &|n| {
                let bytes: String = (0..8).map(|digit| format!("%F{:X}", 8 + (n >> (3 * digit)) % 8)).collect();
                line("198.18.0.1", "Session00001", "usual", 200, &bytes)
            },
        ];
        for (place, varied) in varied.into_iter().enumerate() {
            let lines = |count: usize| -> String { (1..=count).map(varied).collect() };
            let segments_of_usual = |count: usize, room: usize| {
                let mut tally = Tally::default();
                tally.reading.bytes = PART_BYTES - room;
                let text = format!("{FIELDS}{usual}{}{usual}", lines(count));
                read_object(text.as_bytes(), "a", &LogForm::default(), &context(), &mut tally).unwrap();
                let usual = tally
                    .activity
                    .iter()
                    .find(|(key, _)| key.network.map(|id| tally.texts.get(id)) == Some("198.18.0.1"));
                usual.unwrap().1.segments
            };
            let new = if place == 0 { 300 } else { 0 };
            assert_eq!(segments_of_usual(300, 1 << 20), 1 + new, "{place}: one part");
            assert_eq!(segments_of_usual(300, 10_000), 2 + new, "{place}: the same segment again, in another part");
        }
    }
}
