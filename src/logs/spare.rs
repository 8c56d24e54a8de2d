//! What the reading of an object leaves for that of the next ones.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use ahash::RandomState;

use crate::geo::{Geo, Place};
use crate::session::{Identifier, Scheme};

const REMEMBERED_ADDRESSES: usize = 1 << 16;

/// Values that nobody uses at the moment. There are as many as were ever used at once.
pub struct Pool<T>(Mutex<Vec<T>>);

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Pool(Mutex::default())
    }
}

impl<T> Pool<T> {
    pub fn take(&self) -> Option<T> {
        self.0.lock().expect("not poisoned").pop()
    }

    pub fn give(&self, value: T) {
        self.0.lock().expect("not poisoned").push(value);
    }

    /// Gives the memory back.
    pub fn clear(&self) {
        self.0.lock().expect("not poisoned").clear();
    }
}

/// What objects were read with.
#[derive(Default)]
pub struct Spare {
    /// What they were in as they are stored, and what that was unpacked to: memory that is new to the process has to be cleared page
    /// by page.
    pub packed: Pool<Vec<u8>>,
    pub unpacked: Pool<Vec<u8>>,
    pub known: Pool<Known>,
}

impl Spare {
    pub fn clear(&self) {
        self.packed.clear();
        self.unpacked.clear();
        self.known.clear();
    }
}

/// What was found out of texts that come again in the next lines, and in the next objects.
pub struct Known {
    /// Of tokens.
    pub identifier: Identifier,
    /// Of addresses, as they are logged.
    addresses: HashMap<Box<str>, (IpAddr, Place), RandomState>,
}

impl Known {
    pub fn new(schemes: Arc<[Scheme]>) -> Known {
        Known { identifier: Identifier::new(schemes), addresses: HashMap::default() }
    }

    /// An address, and where it is by the GeoIP files; none if that is no address.
    pub fn address(&mut self, text: &str, geo: &Geo) -> Option<(IpAddr, Place)> {
        if let Some(known) = self.addresses.get(text) {
            return Some(*known);
        }
        let address = text.parse::<IpAddr>().ok()?.to_canonical();
        let found = (address, geo.place(address));
        if self.addresses.len() >= REMEMBERED_ADDRESSES {
            self.addresses.clear();
        }
        self.addresses.insert(text.into(), found);
        Some(found)
    }
}
