//! Cuts traffic into log objects and names them.
//!
//! Traits of the real ones that readers trip over: rows out of order, rows that arrive in a
//! later object, rows of the next hour's first minute, no newline at the end of some objects.
//! The same rows are in an object whatever the format.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::addresses::Plan;
use super::format::{Format, Row};
use super::networks::MINUTE;
use super::request::Request;

/// The distribution that the objects are named after.
const DISTRIBUTION: &str = "EDFDVBD6EXAMPLE";

/// The Firehose stream and its version.
const STREAM: &str = "rt-logs-1";

const HOUR: i64 = 60 * MINUTE;

/// Writes objects into a folder.
pub struct Writer {
    folder: PathBuf,
    format: Format,
    /// About how many rows an object has.
    object_rows: usize,
    plan: Plan,
    rng: ChaCha8Rng,
    /// Rows that will be delivered later than the others of their time.
    late: Vec<Request>,
    written: Written,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub objects: usize,
    pub rows: usize,
    /// Of the compressed objects.
    pub bytes: usize,
}

impl Writer {
    /// A writer into a folder.
    pub fn new(folder: PathBuf, format: Format, seed: u64, object_rows: usize) -> Self {
        Writer {
            folder,
            format,
            object_rows: object_rows.max(1),
            plan: Plan::new(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            late: vec![],
            written: Written::default(),
        }
    }

    /// Writes the requests of a slice of time within one hour, but for some that are late.
    pub fn write(&mut self, requests: Vec<Request>) -> io::Result<()> {
        let mut late = std::mem::take(&mut self.late);
        let late_hour = late.first().map(|request| request.finished / HOUR);
        let count = requests.len().div_ceil(self.object_rows);
        let mut objects: Vec<Vec<Request>> = vec![vec![]; count];
        for request in requests {
            let hour = request.finished / HOUR;
            let early = request.finished % HOUR < MINUTE;
            if early && late_hour.is_some_and(|late| late < hour) && self.rng.random_ratio(1, 5) {
                // Slips into the last object of the hour before.
                late.push(request);
            } else if self.rng.random_ratio(1, 40) {
                self.late.push(request);
            } else {
                // A server's log holds the rows of the viewers that it served.
                objects[server(&request) % count].push(request);
            }
        }
        if let Some(hour) = late_hour {
            self.object(hour, late)?;
        }
        for object in objects {
            if let Some(hour) = object.first().map(|request| request.finished / HOUR) {
                self.object(hour, object)?;
            }
        }
        Ok(())
    }

    /// Writes what is left.
    pub fn finish(mut self) -> io::Result<Written> {
        let late = std::mem::take(&mut self.late);
        if let Some(hour) = late.first().map(|request| request.finished / HOUR) {
            self.object(hour, late)?;
        }
        Ok(self.written)
    }

    fn object(&mut self, hour: i64, mut requests: Vec<Request>) -> io::Result<()> {
        requests.sort_by_cached_key(|request| request.finished + self.rng.random_range(0..40_000));
        let unended = self.rng.random_ratio(1, 5);
        let unique = self.rng.random();
        let rows: Vec<Row> = requests.iter().map(|request| Row { request, plan: &self.plan }).collect();
        let bytes = self.format.object(&rows, unended)?;
        self.written.objects += 1;
        self.written.rows += requests.len();
        self.written.bytes += bytes.len();
        let last = requests.iter().map(|request| request.finished).max().unwrap_or_default();
        let path = self.folder.join(key(self.format, hour * HOUR, last, unique));
        fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
        fs::write(&path, bytes)?;
        // What S3 calls last-modified, and aws s3 sync keeps.
        fs::File::open(path)?.set_modified(arrival(last, &mut ChaCha8Rng::seed_from_u64(unique.into())).into())
    }
}

/// When an object is delivered whose last request finished at a time, in epoch milliseconds.
fn arrival(last: i64, rng: &mut ChaCha8Rng) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(last + rng.random_range(MINUTE..15 * MINUTE)).unwrap_or_default()
}

/// The name of an object, with its folders: of an hour, with a last record at some time, in epoch milliseconds.
fn key(format: Format, hour: i64, last: i64, unique: u32) -> String {
    let hour = DateTime::from_timestamp_millis(hour).unwrap_or_default();
    let name = format!("{DISTRIBUTION}.{}.{unique:08x}", hour.format("%Y-%m-%d-%H"));
    let hive = hour.format("year=%Y/month=%m/day=%d/hour=%H");
    match format {
        Format::Standard | Format::Plain | Format::Raw => format!("{name}.gz"),
        Format::W3c => format!("{hive}/{name}.gz"),
        Format::Json => {
            format!("AWSLogs/aws-account-id=111122223333/CloudFront/DistributionId={DISTRIBUTION}/{hive}/{name}.gz")
        }
        Format::Parquet => format!("{name}.parquet"),
        Format::Realtime | Format::RealtimeJoined => {
            let mut rng = ChaCha8Rng::seed_from_u64(unique.into());
            let arrival = arrival(last, &mut rng);
            let id = uuid::Builder::from_random_bytes(rng.random()).into_uuid();
            format!("{}/{STREAM}-{}-{id}.gz", arrival.format("%Y/%m/%d/%H"), arrival.format("%Y-%m-%d-%H-%M-%S"))
        }
    }
}

/// Whether a file has a name that objects have.
pub fn is_object(name: &str) -> bool {
    let standard = name.starts_with(DISTRIBUTION) && (name.ends_with(".gz") || name.ends_with(".parquet"));
    standard || name.starts_with(STREAM) && name.ends_with(".gz")
}

/// The server of an edge location that serves a viewer (FNV-1a: the same for ever).
fn server(request: &Request) -> usize {
    let viewer = match request.client {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6) >> 64,
    };
    let edge = request.edge.bytes();
    let hash = edge
        .chain(viewer.to_be_bytes())
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;
    use std::path::Path;

    use clap::ValueEnum;
    use flate2::read::GzDecoder;

    use super::super::traffic::Stream;
    use super::super::traffic::tests::scenario;
    use super::*;

    /// Objects by name, with their folders.
    fn objects(seed: u64, format: Format) -> (BTreeMap<String, Vec<u8>>, Written) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(folder.path().to_owned(), format, seed, 150);
        for slice in Stream::new(&scenario(seed)) {
            writer.write(slice.requests).unwrap();
        }
        let written = writer.finish().unwrap();
        let mut objects = BTreeMap::new();
        read(folder.path(), "", &mut objects);
        (objects, written)
    }

    fn read(folder: &Path, above: &str, objects: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = format!("{above}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                read(&entry.path(), &format!("{name}/"), objects);
            } else {
                objects.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }

    #[test]
    fn objects_are_well_formed_and_have_the_traits_of_real_ones() {
        let (objects, written) = objects(1, Format::Standard);
        assert_eq!(objects.len(), written.objects);
        let (mut rows, mut next_hour, mut unended, mut unsorted) = (0, 0, 0, 0);
        for (name, object) in &objects {
            let mut text = String::new();
            GzDecoder::new(object.as_slice()).read_to_string(&mut text).unwrap();
            let (date, hour) = (&name[16..26], &name[27..29]);
            let mut times = vec![];
            for line in text.lines().skip(2) {
                let columns: Vec<&str> = line.split('\t').collect();
                assert_eq!(columns.len(), 33, "{line}");
                columns[4].parse::<IpAddr>().unwrap();
                assert_eq!((columns[0], columns[12]), (date, "-"));
                next_hour += usize::from(&columns[1][..2] != hour);
                times.push(columns[1].to_owned());
            }
            rows += times.len();
            unended += usize::from(!text.ends_with('\n'));
            unsorted += usize::from(!times.is_sorted());
        }
        assert_eq!(rows, written.rows);
        assert!(next_hour > 0 && unended > 0 && unsorted > 0);
    }

    #[test]
    fn a_seed_is_the_same_bytes() {
        for &format in Format::value_variants() {
            let (first, _) = objects(1, format);
            assert!(first == objects(1, format).0, "{format:?}");
        }
        let (first, _) = objects(1, Format::Standard);
        assert!(objects(2, Format::Standard).0.keys().all(|name| !first.contains_key(name)));
    }

    #[test]
    fn formats_differ_in_the_folders_only() {
        let (standard, in_standard) = objects(1, Format::Standard);
        let stems = |objects: &BTreeMap<String, Vec<u8>>| -> Vec<String> {
            let files = objects.keys().map(|name| name.rsplit('/').next().unwrap());
            let mut stems: Vec<_> = files.map(|file| file.rsplit_once('.').unwrap().0.to_owned()).collect();
            stems.sort_unstable();
            stems
        };
        for &format in Format::value_variants() {
            let (objects, written) = objects(1, format);
            assert_eq!((written.objects, written.rows), (in_standard.objects, in_standard.rows), "{format:?}");
            assert_eq!(objects.len(), written.objects);
            for name in objects.keys() {
                let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
                assert!(is_object(file), "{name}");
                let date = &file[file.find("2026").unwrap()..];
                let (year, month, day, hour) = (&date[..4], &date[5..7], &date[8..10], &date[11..13]);
                let hive = format!("year={year}/month={month}/day={day}/hour={hour}");
                let expected = match format {
                    Format::W3c => hive,
                    Format::Json => {
                        format!("AWSLogs/aws-account-id=111122223333/CloudFront/DistributionId=EDFDVBD6EXAMPLE/{hive}")
                    }
                    Format::Realtime | Format::RealtimeJoined => format!("{year}/{month}/{day}/{hour}"),
                    _ => String::new(),
                };
                assert_eq!(folder, expected);
            }
            if !matches!(format, Format::Realtime | Format::RealtimeJoined) {
                assert_eq!(stems(&objects), stems(&standard), "{format:?}");
            }
        }
    }
}
