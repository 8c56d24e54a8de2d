//! What becomes of viewers' addresses before anything is stored: `[privacy] addresses`.
//!
//! Country, operator and position are looked up by the true address. From there on there is only what comes out here, in the form
//! of an address: one of IPv4 stays one of IPv4, as detectors tell races of the two apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::config::{Addresses, ConfigError, Privacy};
use crate::source::Location;
use crate::store::{ADDRESS_FORM_FILE, ADDRESS_KEY_FILE, Put, Root, StoreError};

/// Bytes of a key, at least. Source: NIST SP 800-107, 5.3.4: a key as strong as the digest is wide needs no more.
const KEY_BYTES: usize = 32;

/// How addresses are stored.
#[derive(Clone, Default)]
pub enum Disguise {
    #[default]
    Keep,
    /// IPv4 cut to /24, IPv6 to /48.
    Truncate,
    /// In place of the network a keyed digest of it, written as an address that nobody has: of 240.0.0.0/4, reserved and never
    /// assigned (RFC 1112), 28 bits of digest; of fd00::/8 (RFC 4193) 56 bits.
    Hash(Box<Key>),
}

/// What makes digests that only its holder can make.
#[derive(Clone)]
pub struct Key {
    secret: Vec<u8>,
    mac: Hmac<Sha256>,
}

/// The file that tells in which form a state has addresses.
#[derive(Default, Deserialize, Serialize)]
struct Form {
    addresses: String,
    since: Option<DateTime<Utc>>,
}

impl Key {
    fn new(secret: Vec<u8>) -> Key {
        let mac = Hmac::new_from_slice(&secret).expect("a key may have any length");
        Key { secret, mac }
    }

    /// One that nobody knows, as text: two random UUIDs have 244 random bits.
    fn random() -> Key {
        let halves = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
        Key::new(halves.map(|half| half.simple().to_string()).concat().into_bytes())
    }

    fn digest(&self, bytes: &[u8]) -> u64 {
        let digest = self.mac.clone().chain_update(bytes).finalize().into_bytes();
        u64::from_be_bytes(digest[..8].try_into().expect("eight bytes of 32"))
    }
}

impl Disguise {
    /// Digests by a key of at least 32 bytes.
    pub fn hash(key: &[u8]) -> Disguise {
        Disguise::Hash(Box::new(Key::new(key.to_vec())))
    }

    /// As the config has it. The key of a state that has none yet is made up; [`Disguise::keep_key`] keeps it.
    pub async fn open(privacy: &Privacy, config: &Path, state: &Location) -> anyhow::Result<Disguise> {
        let key = match (privacy.addresses, &privacy.key_file) {
            (Addresses::Keep, _) => return Ok(Disguise::Keep),
            (Addresses::Truncate, _) => return Ok(Disguise::Truncate),
            (Addresses::Hash, Some(file)) => {
                let wrong = |message: String| ConfigError::Value {
                    path: config.to_owned(),
                    key: "privacy.key_file".to_owned(),
                    message: format!("{}: {message}", file.display()),
                };
                let secret = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
                let secret = secret.trim_ascii().to_vec();
                if secret.len() < KEY_BYTES {
                    let message = format!("a key has at least {KEY_BYTES} bytes; `openssl rand -hex 32` makes one");
                    return Err(wrong(message).into());
                }
                Key::new(secret)
            }
            (Addresses::Hash, None) => match Root::connect(state).await.read(ADDRESS_KEY_FILE).await? {
                Some(hex) => Key::new(hex.trim_ascii().to_vec()),
                None => Key::random(),
            },
        };
        Ok(Disguise::Hash(Box::new(key)))
    }

    /// Puts the key into a state that has none. An error if the state has another one: what was and what will be stored would not
    /// go together.
    pub async fn keep_key(&self, privacy: &Privacy, root: &Root) -> Result<(), StoreError> {
        let Disguise::Hash(key) = self else { return Ok(()) };
        if privacy.key_file.is_some() {
            return Ok(());
        }
        if root.create(ADDRESS_KEY_FILE, &String::from_utf8_lossy(&key.secret)).await? == Put::Refused {
            let there = root.read(ADDRESS_KEY_FILE).await?.unwrap_or_default();
            if there.trim_ascii() != key.secret {
                let message = "another run has made the key of [privacy] addresses meanwhile; run again";
                return Err(root.error(std::io::Error::other(message)));
            }
        }
        Ok(())
    }

    /// What tells this form from others, without telling the key.
    fn name(&self) -> String {
        match self {
            Disguise::Keep => "keep".to_owned(),
            Disguise::Truncate => "truncate".to_owned(),
            Disguise::Hash(key) => format!("hash {:016x}", key.digest(b"which key")),
        }
    }

    /// Since when addresses have been stored in this form in a state that knew another one before; none if it never did. The
    /// change is noted once it is seen, if `notes`.
    pub async fn since(
        &self,
        root: &Root,
        now: DateTime<Utc>,
        notes: bool,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let noted = root.read(ADDRESS_FORM_FILE).await?;
        // What cannot be read is another form: nobody is blocked by mistake.
        let noted = noted.map(|text| serde_json::from_slice::<Form>(&text).unwrap_or_default());
        let form = match noted {
            Some(form) if form.addresses == self.name() => return Ok(form.since),
            Some(_) => Form { addresses: self.name(), since: Some(now) },
            None => Form { addresses: self.name(), since: None },
        };
        if notes {
            let text = serde_json::to_string(&form).expect("texts become JSON");
            root.write(ADDRESS_FORM_FILE, &(text + "\n")).await?;
        }
        Ok(form.since)
    }

    /// The address in the form in which it is stored.
    pub fn address(&self, address: IpAddr) -> IpAddr {
        match (self, address) {
            (Disguise::Keep, address) => address,
            (Disguise::Truncate, IpAddr::V4(v4)) => Ipv4Addr::from(u32::from(v4) & 0xffff_ff00).into(),
            (Disguise::Truncate, IpAddr::V6(v6)) => Ipv6Addr::from(u128::from(v6) & (!0 << 80)).into(),
            (Disguise::Hash(key), IpAddr::V4(v4)) => {
                let digest = key.digest(&v4.octets()) as u32;
                Ipv4Addr::from(0xf000_0000 | (digest & 0x0fff_ffff)).into()
            }
            (Disguise::Hash(key), IpAddr::V6(v6)) => {
                // Those of one /64 stay in one.
                let network = key.digest(&v6.octets()[..8]) >> 8 | 0xfd << 56;
                let interface = key.digest(&v6.octets());
                Ipv6Addr::from(u128::from(network) << 64 | u128::from(interface)).into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::viewer::network;

    fn hash() -> Disguise {
        Disguise::hash(&[7; 32])
    }

    fn stored(disguise: &Disguise, address: &str) -> String {
        disguise.address(address.parse().unwrap()).to_string()
    }

    #[test]
    fn truncated_addresses_are_those_of_their_neighbourhood() {
        assert_eq!(stored(&Disguise::Truncate, "198.51.100.77"), "198.51.100.0");
        assert_eq!(stored(&Disguise::Truncate, "2001:db8:1:2::3"), "2001:db8:1::");
        assert_eq!(stored(&Disguise::Keep, "198.51.100.77"), "198.51.100.77");
    }

    #[test]
    fn the_key_decides_what_a_digest_is() {
        let other = Disguise::Hash(Box::new(Key::random()));
        assert_eq!(stored(&hash(), "198.51.100.77"), stored(&hash(), "198.51.100.77"));
        assert_ne!(stored(&hash(), "198.51.100.77"), stored(&other, "198.51.100.77"));
        // hmac.new(bytes([7] * 32), bytes([198, 51, 100, 77]), "sha256") of Python, bytes 4 to 7.
        assert_eq!(stored(&hash(), "198.51.100.77"), "240.124.249.251");
    }

    proptest! {
        #[test]
        fn networks_stay_apart_and_together(one: u128, other: u128, host: u64) {
            let hash = hash();
            let v6 = |bits: u128| IpAddr::from(Ipv6Addr::from(bits | 1 << 125));
            let same_network = (one & (!0 << 64)) | u128::from(host);
            prop_assert_eq!(network(hash.address(v6(one))), network(hash.address(v6(same_network))));
            prop_assert_eq!(
                network(v6(one)) == network(v6(other)),
                network(hash.address(v6(one))) == network(hash.address(v6(other)))
            );
            prop_assert!(network(hash.address(v6(one))).contains(':'));
        }
    }
}
