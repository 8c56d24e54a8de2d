//! Country, operator and kind of network of an address, from MaxMind-format files.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use maxminddb::{LookupResult, PathElement, Reader};

use crate::config::GeoIp;
use crate::network_type::{NetworkType, NetworkTypes};

/// The opened files; without one, its answer is always none.
#[derive(Default)]
pub struct Geo {
    country: Option<Reader<Vec<u8>>>,
    asn: Option<Reader<Vec<u8>>>,
    types: NetworkTypes,
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    pub country: Option<Country>,
    pub asn: Option<i64>,
    pub network_type: Option<NetworkType>,
    /// Only files of cities have it.
    pub position: Option<Position>,
}

/// A point on the earth, in degrees, and how far from it the viewer may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    pub latitude: f64,
    pub longitude: f64,
    pub accuracy_km: Option<i64>,
}

/// An ISO 3166-1 alpha-2 code, upper case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Country([u8; 2]);

impl Country {
    pub fn parse(text: &str) -> Option<Country> {
        match *text.as_bytes() {
            [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Some(Country([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _ => None,
        }
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("only ASCII letters get in")
    }
}

/// Why nothing can be said of addresses.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    #[error("[geoip] {key}: cannot use {path}: {source}")]
    File { key: &'static str, path: PathBuf, source: maxminddb::MaxMindDbError },
    #[error("[lists] {name}: {message}")]
    List { name: &'static str, message: String },
}

impl Geo {
    /// Opens the files. `lists` are those of the config, some of which tell types of networks.
    pub fn open(config: &GeoIp, lists: &BTreeMap<String, Vec<String>>) -> Result<Geo, GeoError> {
        let open = |key: &'static str, path: &Option<PathBuf>| {
            path.as_deref()
                .map(|path: &Path| read(path).map_err(|source| GeoError::File { key, path: path.to_owned(), source }))
                .transpose()
        };
        let types = NetworkTypes::with_lists(lists).map_err(|(name, message)| GeoError::List { name, message })?;
        Ok(Geo { country: open("country", &config.country)?, asn: open("asn", &config.asn)?, types })
    }

    pub fn place(&self, address: IpAddr) -> Place {
        // `country_code` is what the files of ip-location-db call it.
        const ISO_CODE: [PathElement<'_>; 2] = [PathElement::Key("country"), PathElement::Key("iso_code")];
        const COUNTRY_CODE: [PathElement<'_>; 1] = [PathElement::Key("country_code")];
        const ASN: [PathElement<'_>; 1] = [PathElement::Key("autonomous_system_number")];
        const ORGANIZATION: [PathElement<'_>; 1] = [PathElement::Key("autonomous_system_organization")];
        let found = self.country.as_ref().and_then(|reader| reader.lookup(address).ok());
        let position = found.as_ref().and_then(position);
        let country = found.as_ref().and_then(|found| {
            let code: Option<&str> = found.decode_path(&ISO_CODE).ok().flatten();
            code.or_else(|| found.decode_path(&COUNTRY_CODE).ok().flatten()).and_then(Country::parse)
        });
        let found = self.asn.as_ref().and_then(|reader| reader.lookup(address).ok());
        let asn: Option<u32> = found.as_ref().and_then(|found| found.decode_path(&ASN).ok().flatten());
        let name: Option<&str> = found.as_ref().and_then(|found| found.decode_path(&ORGANIZATION).ok().flatten());
        let asn = asn.map(i64::from);
        Place { country, asn, network_type: self.types.of(asn, name), position }
    }

    /// The kind of network of a system that only its number is known of.
    pub fn network_type(&self, asn: i64) -> Option<NetworkType> {
        self.types.of(Some(asn), None)
    }
}

/// `location` of a GeoIP2 or GeoLite2 City file, as others have it, too.
fn position(found: &LookupResult<'_, Vec<u8>>) -> Option<Position> {
    const LATITUDE: [PathElement<'_>; 2] = [PathElement::Key("location"), PathElement::Key("latitude")];
    const LONGITUDE: [PathElement<'_>; 2] = [PathElement::Key("location"), PathElement::Key("longitude")];
    const ACCURACY: [PathElement<'_>; 2] = [PathElement::Key("location"), PathElement::Key("accuracy_radius")];
    let latitude: f64 = found.decode_path(&LATITUDE).ok()??;
    let longitude: f64 = found.decode_path(&LONGITUDE).ok()??;
    let accuracy: Option<u16> = found.decode_path(&ACCURACY).ok().flatten();
    let on_earth = latitude.abs() <= 90.0 && longitude.abs() <= 180.0;
    on_earth.then(|| Position { latitude, longitude, accuracy_km: accuracy.map(i64::from) })
}

fn read(path: &Path) -> Result<Reader<Vec<u8>>, maxminddb::MaxMindDbError> {
    Reader::open_readfile(path)
}
