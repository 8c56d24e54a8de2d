//! What is remembered only while an object is read, so that what its lines say again and again is looked up once.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Id, Map, Refusal, RefusalKey, Rows, Set, Texts, id_of};
use crate::content::{Kind, asset_of_folder, content};
use crate::geo::Place;
use crate::logs::{LoggedRequest, decode, user_agent};
use crate::session::{Playback, Session};
use crate::viewer;

/// Refused ids of an object and minute with rows of their own.
const REFUSED_IDS: usize = 100;

/// What is remembered of a session that is read: the last row of activity that it had, which as a rule is that of its next
/// request, too.
pub struct Seat {
    pub(super) session: Arc<Session>,
    pub(super) scheme: &'static str,
    /// The row of its credential, once there is one.
    pub(super) credential: Option<usize>,
    pub(super) last: Option<Last>,
}

/// A row of activity, and the request that it was found for. Whoever sends the next one with the same need not look it up.
pub struct Last {
    pub(super) row: usize,
    pub(super) minute: i64,
    pub(super) address: Option<IpAddr>,
    pub(super) place: Place,
    pub(super) agent: Option<usize>,
    pub(super) referer: Option<usize>,
    pub(super) content: Option<Id>,
    pub(super) distribution: Option<Id>,
}

/// What is remembered of a path.
#[derive(Clone, Copy)]
pub struct Path {
    pub(super) content: Option<Id>,
    pub(super) kind: Kind,
    pub(super) segment: Option<i64>,
}

/// What is remembered only while an object is read.
#[derive(Default)]
pub struct Reading {
    /// By the ids of the sessions.
    pub(super) seats: Rows<Id, Seat>,
    recent: Recent,
    addresses: Map<IpAddr, Id>,
    pub(super) agents: Rows<Box<str>, (Id, &'static str)>,
    pub(super) referers: Rows<Box<str>, Option<Id>>,
    paths: Rows<Box<str>, Path>,
    /// Of folders the length of the asset's, which is its beginning.
    folders: Map<Box<str>, Option<usize>>,
    /// The rows of activity and the paths of segments that were fetched.
    pub(super) fetched: Set<(u32, u32)>,
    pub(super) refused: Refused,
    /// Of all that, about: an attacker can make it grow without rows of `activity`.
    pub(super) bytes: usize,
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
pub struct Refused {
    pub(super) texts: Texts,
    pub(super) requests: Rows<(i64, Option<Id>, Option<Id>), i64>,
}

impl Reading {
    /// Forgets all, and keeps the memory.
    pub(super) fn clear(&mut self) {
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
    pub(super) fn seat(&mut self, playback: &Playback<'_>, texts: &mut Texts) -> usize {
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

    /// The network of an address.
    pub(super) fn network(&mut self, address: IpAddr, texts: &mut Texts) -> Id {
        if let Some(known) = self.addresses.get(&address) {
            return *known;
        }
        let network = texts.id(&viewer::network(address));
        self.bytes += 64;
        self.addresses.insert(address, network);
        network
    }

    /// The place of a user agent, as it is logged.
    pub(super) fn agent(&mut self, field: &str, texts: &mut Texts) -> usize {
        if let Some(known) = self.agents.get_index_of(field) {
            return known;
        }
        let agent = user_agent(field);
        let known = (texts.id(&agent), viewer::device(Some(&agent)));
        self.bytes += 64 + field.len();
        self.agents.insert_full(field.into(), known).0
    }

    /// The place of a referer, as it is logged.
    pub(super) fn referer(&mut self, field: &str, texts: &mut Texts) -> usize {
        if let Some(known) = self.referers.get_index_of(field) {
            return known;
        }
        let host = viewer::referer_host(&decode(field)).map(|host| texts.id(&host));
        self.bytes += 64 + field.len();
        self.referers.insert_full(field.into(), host).0
    }

    /// A path's number, and what it is of.
    pub(super) fn path(&mut self, text: &str, kind: Kind, texts: &mut Texts) -> (usize, Path) {
        if let Some((number, _, path)) = self.paths.get_full(text) {
            return (number, *path);
        }
        let folders = &mut self.folders;
        let of = content(text, kind, |folder| {
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
        let path = Path { content: of.asset.map(|asset| texts.id(asset)), kind, segment: of.segment };
        self.bytes += 96 + text.len();
        (self.paths.insert_full(text.into(), path).0, path)
    }

    /// The row of activity that the session's last request was counted in, if all that a row has by request but the path is the
    /// same.
    pub(super) fn same_row(
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

impl Refused {
    /// Of each minute the most refused ids (ties by id) get rows of their own, the others share one.
    pub(super) fn roll(self, texts: &mut Texts, refusals: &mut Rows<RefusalKey, Refusal>) {
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
