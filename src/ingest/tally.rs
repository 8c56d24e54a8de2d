//! The roll-up of requests to rows of the stored minute tables, while the lines are read.
//!
//! What the rows are is defined by the SQL of `queries/rollup*.sql`; a test holds this to it. It is here because it is many
//! times as fast: a log line's texts are looked up, not copied, and no line is kept.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;
use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, StringViewArray, StringViewBuilder, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::compute::take;
use arrow::record_batch::RecordBatch;
use chrono::DateTime;
use indexmap::{IndexMap, IndexSet};

use crate::content::{Kind, asset_of_folder, content};
use crate::geo::{Country, Place};
use crate::logs::fields::{Field, FieldSet};
use crate::logs::spare::Pool;
use crate::logs::{LoggedRequest, RequestSink, decode, user_agent};
use crate::network_type::NetworkType;
use crate::schema::Table;
use crate::session::component::Component;
use crate::session::{Playback, Session};
use crate::viewer;

/// Bytes of what is remembered only while an object is read (paths, agents, refused ids), beyond which the object goes on as another
/// part: its segments are counted anew, and its most refused ids are others. It bounds memory.
const PART_BYTES: usize = 64 << 20;

/// Refused ids of an object and minute with rows of their own.
const REFUSED_IDS: usize = 100;

/// Rows in a record batch, at most.
const BATCH_ROWS: usize = 8_192;

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

/// What is remembered of a session that is read: the last row of activity that it had, which as a rule is that of its next
/// request, too.
struct Seat {
    session: Arc<Session>,
    scheme: &'static str,
    /// The row of its credential, once there is one.
    credential: Option<usize>,
    last: Option<Last>,
}

/// A row of activity, and the request that it was found for. Whoever sends the next one with the same need not look it up.
struct Last {
    row: usize,
    minute: i64,
    address: Option<IpAddr>,
    place: Place,
    agent: Option<usize>,
    referer: Option<usize>,
    content: Option<Id>,
    distribution: Option<Id>,
}

/// What is remembered of a path.
#[derive(Clone, Copy)]
struct Path {
    content: Option<Id>,
    kind: Kind,
    segment: Option<i64>,
}

/// What is remembered only while an object is read.
#[derive(Default)]
pub struct Reading {
    /// By the ids of the sessions.
    seats: Rows<Id, Seat>,
    recent: Recent,
    addresses: Map<IpAddr, Id>,
    agents: Rows<Box<str>, (Id, &'static str)>,
    referers: Rows<Box<str>, Option<Id>>,
    paths: Rows<Box<str>, Path>,
    /// Of folders the length of the asset's, which is its beginning.
    folders: Map<Box<str>, Option<usize>>,
    /// The rows of activity and the paths of segments that were fetched.
    fetched: Set<(u32, u32)>,
    refused: Refused,
    /// Of all that, about: an attacker can make it grow without rows of `activity`.
    bytes: usize,
}

/// The places of seats by where their sessions are in memory: the same token gives the same session, as a rule, so that its id need
/// not be looked up for each request. What is found here may be another's, and has to be compared.
struct Recent(Box<[u32; Recent::PLACES]>);

impl Recent {
    const PLACES: usize = 1 << 13;

    fn of(&mut self, session: &Arc<Session>) -> &mut u32 {
        // Where values are differs in the middle bits: the upper ones of a product are made of all of them.
        let mixed = (Arc::as_ptr(session) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &mut self.0[(mixed >> (64 - Self::PLACES.ilog2())) as usize]
    }
}

impl Default for Recent {
    fn default() -> Self {
        Recent(Box::new([0; Self::PLACES]))
    }
}

/// Refused requests by minute, id and network, with texts of their own.
#[derive(Default)]
struct Refused {
    texts: Texts,
    requests: Rows<(i64, Option<Id>, Option<Id>), i64>,
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
        let (path_id, path) = self.reading.path(request.path, &mut self.texts);
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
        let key = self.activity.get_index(row).expect("it was just found").0;
        if let (Some(segment), Some(network)) =
            (path.segment.filter(|segment| segment % RECORDED_SEGMENTS == 0), key.network)
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
        let network = request.address.map(|address| match reading.addresses.get(&address) {
            Some(known) => *known,
            None => {
                let network = texts.id(&viewer::network(address));
                reading.bytes += 64;
                reading.addresses.insert(address, network);
                network
            }
        });
        let agent = line.user_agent.map(|field| match reading.agents.get_index_of(field) {
            Some(known) => known,
            None => {
                let agent = user_agent(field);
                let known = (texts.id(&agent), viewer::device(Some(&agent)));
                reading.bytes += 64 + field.len();
                reading.agents.insert_full(field.into(), known).0
            }
        });
        let referer = line.referer.map(|field| match reading.referers.get_index_of(field) {
            Some(known) => known,
            None => {
                let host = viewer::referer_host(&decode(field)).map(|host| texts.id(&host));
                reading.bytes += 64 + field.len();
                reading.referers.insert_full(field.into(), host).0
            }
        });
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

impl Reading {
    /// Forgets all, and keeps the memory.
    fn clear(&mut self) {
        let Reading { seats, recent: _, addresses, agents, referers, paths, folders, fetched, refused, bytes } = self;
        seats.clear();
        addresses.clear();
        agents.clear();
        referers.clear();
        paths.clear();
        folders.clear();
        fetched.clear();
        *refused = Refused::default();
        *bytes = 0;
    }

    /// The place of a session among those that are read. A session may have several tokens: its seat is that of the last one.
    fn seat(&mut self, playback: &Playback<'_>, texts: &mut Texts) -> usize {
        let (session, scheme) = (&playback.session, playback.scheme);
        let recent = self.recent.of(session);
        let is_of = |seat: &Seat| Arc::ptr_eq(&seat.session, session) && seat.scheme == scheme;
        if let Some((_, seat)) = self.seats.get_index(*recent as usize)
            && is_of(seat)
        {
            return *recent as usize;
        }
        let id = texts.id(&session.id);
        let new = || Seat { session: session.clone(), scheme, credential: None, last: None };
        let place = match self.seats.get_full_mut(&id) {
            Some((place, _, seat)) => {
                if *seat.session == **session && seat.scheme == scheme {
                    seat.session = session.clone();
                } else {
                    *seat = new();
                }
                place
            }
            None => {
                self.bytes += 256 + 3 * session.id.len();
                self.seats.insert_full(id, new()).0
            }
        };
        *recent = id_of(place);
        place
    }

    /// A path's number, and what it is of.
    fn path(&mut self, text: &str, texts: &mut Texts) -> (usize, Path) {
        if let Some((number, _, path)) = self.paths.get_full(text) {
            return (number, *path);
        }
        let folders = &mut self.folders;
        let of = content(text, |folder| {
            let length = match folders.get(folder) {
                Some(length) => *length,
                None => {
                    self.bytes += 64 + folder.len();
                    let length = asset_of_folder(folder).map(str::len);
                    folders.insert(folder.into(), length);
                    length
                }
            };
            length.map(|length| &folder[..length])
        });
        let path = Path { content: of.asset.map(|asset| texts.id(asset)), kind: of.kind, segment: of.segment };
        self.bytes += 96 + text.len();
        (self.paths.insert_full(text.into(), path).0, path)
    }

    /// The row of activity that the session's last request was counted in, if all that a row has by request but the path is the
    /// same.
    fn same_row(
        &self,
        seat: usize,
        request: &LoggedRequest<'_>,
        minute: i64,
        content: Option<Id>,
        texts: &Texts,
    ) -> Option<usize> {
        let last = self.seats[seat].last.as_ref()?;
        let agent = |agent| &**self.agents.get_index(agent).expect("they stay while an object is read").0;
        let referer = |referer| &**self.referers.get_index(referer).expect("they stay while an object is read").0;
        let is_same = last.minute == minute
            && last.content == content
            && last.address == request.address
            && last.place == request.place
            && last.agent.map(agent) == request.line.user_agent
            && last.referer.map(referer) == request.line.referer
            && last.distribution.map(|id| texts.get(id)) == request.distribution;
        is_same.then_some(last.row)
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

impl Refused {
    /// Of each minute the most refused ids (ties by id) get rows of their own, the others share one.
    fn roll(self, texts: &mut Texts, refusals: &mut Rows<RefusalKey, Refusal>) {
        let own = |id: Id| self.texts.get(id);
        let mut per_session: Map<i64, Map<Id, i64>> = HashMap::default();
        for ((minute, session, _), requests) in &self.requests {
            if let Some(session) = session {
                *per_session.entry(*minute).or_default().entry(*session).or_default() += requests;
            }
        }
        let mut named: Set<(i64, Id)> = HashSet::default();
        for (minute, sessions) in per_session {
            let mut ranked: Vec<(Reverse<i64>, &str, Id)> =
                sessions.into_iter().map(|(session, requests)| (Reverse(requests), own(session), session)).collect();
            ranked.sort_unstable();
            named.extend(ranked.into_iter().take(REFUSED_IDS).map(|(_, _, session)| (minute, session)));
        }
        let mut networks: Set<(i64, Option<Id>, Id)> = HashSet::default();
        for ((minute, session, network), requests) in &self.requests {
            let session = session.filter(|session| named.contains(&(*minute, *session)));
            let key = RefusalKey { minute: *minute, session: session.map(|session| texts.id(own(session))) };
            let refusal = refusals.entry(key).or_default();
            refusal.requests += requests;
            let is_new = network.is_some_and(|network| networks.insert((*minute, session, network)));
            refusal.networks += i64::from(is_new);
        }
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

/// The partition of a minute: its hour.
fn hour(minute: i64) -> String {
    DateTime::from_timestamp_micros(minute).unwrap_or_default().format("%Y-%m-%dT%H").to_string()
}

type Columns = Vec<(&'static str, ArrayRef)>;

/// The rows of a table as record batches. `columns` makes all columns but `batch`.
fn batches<K, V>(
    table: Table,
    batch: i64,
    rows: &Rows<K, V>,
    columns: impl Fn(&[(&K, &V)]) -> Columns,
) -> Vec<RecordBatch> {
    let schema = table.schema().stored();
    let all: Vec<(&K, &V)> = rows.iter().collect();
    all.chunks(BATCH_ROWS)
        .map(|rows| {
            let mut made = columns(rows);
            made.push(("batch", Arc::new(Int64Array::from_value(batch, rows.len()))));
            let in_order = schema.fields().iter().map(|field| {
                let made = made.iter().find(|(name, _)| name == field.name());
                made.unwrap_or_else(|| {
                    unreachable!("{} has a column {} that nothing fills", table.name(), field.name())
                })
                .1
                .clone()
            });
            RecordBatch::try_new(schema.clone(), in_order.collect()).expect("the columns are of the schema's types")
        })
        .collect()
}

fn instants(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn ints(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

/// Of texts that are made for it.
fn strings<T: AsRef<str>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
    let mut strings = StringViewBuilder::new().with_deduplicate_strings();
    values.for_each(|value| strings.append_option(value));
    Arc::new(strings.finish())
}

/// Of the texts of a tally.
fn known(texts: &StringViewArray, ids: impl Iterator<Item = Option<Id>>) -> ArrayRef {
    take(texts, &ids.collect::<UInt32Array>(), None).expect("each id is the place of a text")
}

fn bools(values: impl Iterator<Item = bool>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<BooleanArray>())
}

fn floats(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.collect::<Float64Array>())
}

fn hours(minutes: impl Iterator<Item = i64>) -> ArrayRef {
    let (mut of, mut text) = (i64::MIN, String::new());
    let mut hours = StringViewBuilder::new().with_deduplicate_strings();
    for minute in minutes {
        if minute.div_euclid(60 * MINUTE) != of {
            (of, text) = (minute.div_euclid(60 * MINUTE), hour(minute));
        }
        hours.append_value(&text);
    }
    Arc::new(hours.finish())
}

fn activity_columns(texts: &StringViewArray, rows: &[(&ActivityKey, &Activity)]) -> Columns {
    let keys = || rows.iter().map(|(key, _)| *key);
    let values = || rows.iter().map(|(_, activity)| *activity);
    vec![
        ("hour", hours(keys().map(|key| key.minute))),
        ("minute", instants(keys().map(|key| Some(key.minute)))),
        ("session_id", known(texts, keys().map(|key| Some(key.session)))),
        ("network", known(texts, keys().map(|key| key.network))),
        ("country", strings(keys().map(|key| key.country.as_ref().map(Country::as_str)))),
        ("asn", ints(keys().map(|key| key.asn))),
        ("user_agent", known(texts, keys().map(|key| key.user_agent))),
        ("referer_host", known(texts, keys().map(|key| key.referer_host))),
        ("content", known(texts, keys().map(|key| key.content))),
        ("distribution", known(texts, values().map(|row| row.distribution))),
        ("bound", bools(keys().map(|key| key.bound))),
        ("derived", bools(values().map(|row| row.derived))),
        ("ip", strings(values().map(|row| row.ip.map(|ip| ip.to_string())))),
        ("device", strings(values().map(|row| Some(row.device)))),
        ("network_type", strings(values().map(|row| row.network_type.map(NetworkType::name)))),
        ("latitude", floats(values().map(|row| row.latitude))),
        ("longitude", floats(values().map(|row| row.longitude))),
        ("accuracy_km", ints(values().map(|row| row.accuracy_km))),
        ("requests", ints(values().map(|row| Some(row.requests)))),
        ("manifests", ints(values().map(|row| Some(row.manifests)))),
        ("segments", ints(values().map(|row| Some(row.segments)))),
        ("bytes", ints(values().map(|row| Some(row.bytes)))),
        ("first_seen", instants(values().map(|row| Some(row.first_seen)))),
        ("last_seen", instants(values().map(|row| Some(row.last_seen)))),
    ]
}

fn delivery_columns(texts: &StringViewArray, rows: &[(&DeliveryKey, &Delivery)]) -> Columns {
    let keys = || rows.iter().map(|(key, _)| *key);
    let values = || rows.iter().map(|(_, delivery)| *delivery);
    vec![
        ("hour", hours(keys().map(|key| key.minute))),
        ("minute", instants(keys().map(|key| Some(key.minute)))),
        ("session_id", known(texts, keys().map(|key| Some(key.session)))),
        ("segment", ints(keys().map(|key| Some(key.segment)))),
        ("network", known(texts, keys().map(|key| Some(key.network)))),
        ("bound", bools(keys().map(|key| key.bound))),
        ("asn", ints(values().map(|row| row.asn))),
        ("network_type", strings(values().map(|row| row.network_type.map(NetworkType::name)))),
        ("requests", ints(values().map(|row| Some(row.requests)))),
    ]
}

fn credential_columns(texts: &StringViewArray, rows: &[(&CredentialKey, &Seen)]) -> Columns {
    let keys = || rows.iter().map(|(key, _)| *key);
    let values = || rows.iter().map(|(_, seen)| *seen);
    vec![
        ("session_id", known(texts, keys().map(|key| Some(key.session)))),
        ("scheme", strings(keys().map(|key| Some(key.scheme)))),
        ("component", strings(keys().map(|key| Some(key.component.to_string())))),
        ("credential", known(texts, keys().map(|key| Some(key.credential)))),
        ("token_expires", instants(values().map(|row| row.token_expires))),
        ("unknown_expiry", bools(values().map(|row| row.unknown_expiry))),
        ("first_seen", instants(values().map(|row| Some(row.first_seen)))),
        ("last_seen", instants(values().map(|row| Some(row.last_seen)))),
    ]
}

fn refusal_columns(texts: &StringViewArray, rows: &[(&RefusalKey, &Refusal)]) -> Columns {
    let keys = || rows.iter().map(|(key, _)| *key);
    let values = || rows.iter().map(|(_, refusal)| *refusal);
    vec![
        ("hour", hours(keys().map(|key| key.minute))),
        ("minute", instants(keys().map(|key| Some(key.minute)))),
        ("session_id", known(texts, keys().map(|key| key.session))),
        ("requests", ints(values().map(|row| Some(row.requests)))),
        ("networks", ints(values().map(|row| Some(row.networks)))),
    ]
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
                          cs(Referer) cs(User-Agent) cs-uri-query cs(Cookie) x-edge-response-result-type\n";

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
        ) -> String {
            let token = if session.is_empty() { String::new() } else { format!("/{session}.e30.{payload}.c2lnbmF0dXJl") };
            let (minute, second) = (59 + second / 60, second % 60);
            let time = format!("{:02}:{:02}:{second:02}", 19 + minute / 60, minute % 60);
            format!("2026-11-20\t{time}\tLHR61\t{bytes}\t{ip}\t{method}\td1.cloudfront.net\t{token}{path}\t{status}\t{referer}\t{agent}\t-\t{cookie}\t{result}\n")
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
