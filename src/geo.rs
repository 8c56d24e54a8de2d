//! Country and operator of an address, from MaxMind-format files.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use maxminddb::{PathElement, Reader};

use crate::config::GeoIp;

/// The opened files; without one, its answer is always none.
#[derive(Default)]
pub struct Geo {
    country: Option<Reader<Vec<u8>>>,
    asn: Option<Reader<Vec<u8>>>,
}

/// What is known of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub country: Option<Country>,
    pub asn: Option<i64>,
}

/// An ISO 3166-1 alpha-2 code, upper case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Why a GeoIP file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("[geoip] {key}: cannot use {path}: {source}")]
pub struct GeoError {
    key: &'static str,
    path: PathBuf,
    source: maxminddb::MaxMindDbError,
}

impl Geo {
    pub fn open(config: &GeoIp) -> Result<Geo, GeoError> {
        let open = |key: &'static str, path: &Option<PathBuf>| {
            path.as_deref()
                .map(|path: &Path| read(path).map_err(|source| GeoError { key, path: path.to_owned(), source }))
                .transpose()
        };
        Ok(Geo { country: open("country", &config.country)?, asn: open("asn", &config.asn)? })
    }

    pub fn place(&self, address: IpAddr) -> Place {
        // `country_code` is what the files of ip-location-db call it.
        const ISO_CODE: [PathElement<'_>; 2] = [PathElement::Key("country"), PathElement::Key("iso_code")];
        const COUNTRY_CODE: [PathElement<'_>; 1] = [PathElement::Key("country_code")];
        const ASN: [PathElement<'_>; 1] = [PathElement::Key("autonomous_system_number")];
        let country = self.country.as_ref().and_then(|reader| {
            let found = reader.lookup(address).ok()?;
            let code: Option<&str> = found.decode_path(&ISO_CODE).ok().flatten();
            code.or_else(|| found.decode_path(&COUNTRY_CODE).ok().flatten()).and_then(Country::parse)
        });
        let asn: Option<u32> =
            self.asn.as_ref().and_then(|reader| reader.lookup(address).ok()?.decode_path(&ASN).ok().flatten());
        Place { country, asn: asn.map(i64::from) }
    }
}

fn read(path: &Path) -> Result<Reader<Vec<u8>>, maxminddb::MaxMindDbError> {
    Reader::open_readfile(path)
}
