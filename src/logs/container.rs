//! What a log object's bytes are wrapped in, and how they are cut into lines.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::ReadError;

/// The longest line that is read. CloudFront logs no request with a URL over 8,192 or headers over 32,768
/// bytes; percent-encoding can triple both.
const MAX_LINE_BYTES: usize = 1 << 20;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const PARQUET_MAGIC: [u8; 4] = *b"PAR1";

/// Digest and count of the raw bytes, and an error of the store, which would else look like a broken gzip.
#[derive(Default)]
struct Tally {
    digest: Sha256,
    bytes: u64,
    failed: Option<io::Error>,
}

/// Passes the raw bytes on and keeps the tally.
struct Tallied<R> {
    inner: R,
    tally: Arc<Mutex<Tally>>,
}

impl<R: Read> Read for Tallied<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut tally = self.tally.lock().expect("nothing panics while it holds the tally");
        loop {
            match self.inner.read(buffer) {
                Ok(count) => {
                    tally.digest.update(&buffer[..count]);
                    tally.bytes += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let kind = error.kind();
                    tally.failed = Some(error);
                    return Err(kind.into());
                }
            }
        }
    }
}

/// The text inside an object.
pub struct Container<R: Read> {
    text: Text<R>,
    tally: Arc<Mutex<Tally>>,
}

// One value lives per object read; the size of the larger variant does not matter.
#[allow(clippy::large_enum_variant)]
enum Text<R: Read> {
    Plain(BufReader<Tallied<R>>),
    Gzip(BufReader<MultiGzDecoder<BufReader<Tallied<R>>>>),
}

impl<R: Read> Container<R> {
    /// Decides by the first bytes, never by a name.
    pub fn open(bytes: R) -> Result<Self, ReadError> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let mut raw = BufReader::with_capacity(1 << 16, Tallied { inner: bytes, tally: tally.clone() });
        let start = raw.fill_buf().map_err(|error| store_error(&tally, error))?;
        if start.starts_with(&PARQUET_MAGIC) {
            return Err(ReadError::Format("a Parquet object, which cannot be read yet".into()));
        }
        let text = if start.starts_with(&GZIP_MAGIC) {
            Text::Gzip(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(raw)))
        } else {
            Text::Plain(raw)
        };
        Ok(Container { text, tally })
    }

    fn reader(&mut self) -> &mut dyn BufRead {
        match &mut self.text {
            Text::Plain(reader) => reader,
            Text::Gzip(reader) => reader,
        }
    }

    fn error(&self, error: io::Error) -> ReadError {
        match self.text {
            Text::Plain(_) => store_error(&self.tally, error),
            Text::Gzip(_) => {
                let store_failed = self.tally.lock().expect("not poisoned").failed.is_some();
                if store_failed {
                    return store_error(&self.tally, error);
                }
                let bytes = self.tally.lock().expect("not poisoned").bytes;
                ReadError::Gzip { bytes, source: error }
            }
        }
    }
}

fn store_error(tally: &Mutex<Tally>, error: io::Error) -> ReadError {
    let mut tally = tally.lock().expect("not poisoned");
    ReadError::Store { bytes: tally.bytes, source: tally.failed.take().unwrap_or(error) }
}

/// A line of the text.
pub struct Line<'a> {
    /// From 1.
    pub number: u64,
    /// Its bytes without the line's end, or why there are none.
    pub text: Result<&'a [u8], &'static str>,
}

/// Cuts the text into lines, with memory bounded by the longest line that is read.
pub struct Lines<R: Read> {
    container: Container<R>,
    line: Vec<u8>,
    number: u64,
}

impl<R: Read> Lines<R> {
    pub fn new(container: Container<R>) -> Self {
        Lines { container, line: Vec::with_capacity(4_096), number: 0 }
    }

    /// The next line; none at the end. The last one may lack its newline.
    pub fn next_line(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        self.line.clear();
        let mut too_long = false;
        let mut any = false;
        loop {
            let chunk = match self.container.reader().fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.container.error(error)),
            };
            if chunk.is_empty() {
                break;
            }
            any = true;
            let end = memchr::memchr(b'\n', chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            if self.line.len() + part.len() > MAX_LINE_BYTES {
                too_long = true;
                self.line.clear();
            } else if !too_long {
                self.line.extend_from_slice(part);
            }
            let used = end.map_or(chunk.len(), |end| end + 1);
            self.container.reader().consume(used);
            if end.is_some() {
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        self.number += 1;
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        let text = if too_long { Err("longer than 1 MiB") } else { Ok(self.line.as_slice()) };
        Ok(Some(Line { number: self.number, text }))
    }

    /// Digest (hexadecimal SHA-256) and count of the raw bytes, once all lines were read.
    pub fn finish(self) -> Result<(String, u64), ReadError> {
        let mut tally = self.container.tally.lock().expect("not poisoned");
        let digest = std::mem::take(&mut tally.digest).finalize();
        Ok((digest.iter().map(|byte| format!("{byte:02x}")).collect(), tally.bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn lines(bytes: &[u8]) -> Result<Vec<Result<String, &'static str>>, ReadError> {
        let mut lines = Lines::new(Container::open(bytes)?);
        let mut all = Vec::new();
        while let Some(line) = lines.next_line()? {
            all.push(line.text.map(|text| String::from_utf8_lossy(text).into_owned()));
        }
        let (_, size) = lines.finish()?;
        assert_eq!(size, bytes.len() as u64, "every byte is in the digest");
        Ok(all)
    }

    #[test]
    fn plain_and_gzip_give_the_same_lines_with_any_line_ends() {
        let text = b"one\ntwo\r\n\nlast";
        let expected = ["one", "two", "", "last"].map(|line| Ok(line.to_owned()));
        assert_eq!(lines(text).unwrap(), expected);
        assert_eq!(lines(&gzip(text)).unwrap(), expected);
        let two_members = [gzip(b"one\ntw"), gzip(b"o\n\nlast")].concat();
        assert_eq!(lines(&two_members).unwrap(), expected);
        assert_eq!(lines(b"").unwrap(), []);
    }

    #[test]
    fn a_line_without_end_is_skipped_in_bounded_memory() {
        let mut text = vec![b'x'; 5 * MAX_LINE_BYTES];
        text.extend_from_slice(b"\nnext\n");
        let mut lines = Lines::new(Container::open(text.as_slice()).unwrap());
        assert!(lines.next_line().unwrap().unwrap().text.is_err());
        assert!(lines.line.capacity() <= 2 * MAX_LINE_BYTES);
        assert_eq!(lines.next_line().unwrap().unwrap().text, Ok(b"next".as_slice()));
    }

    #[test]
    fn a_truncated_gzip_and_a_failing_store_are_told_apart() {
        let whole = gzip(&b"line\n".repeat(10_000));
        let error = lines(&whole[..whole.len() / 2]).unwrap_err();
        assert!(matches!(error, ReadError::Gzip { .. }), "{error}");

        struct Failing<'a>(&'a [u8]);
        impl Read for Failing<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.0.read(buffer)? {
                    0 => Err(io::Error::other("connection reset")),
                    count => Ok(count),
                }
            }
        }
        let mut reader = Lines::new(Container::open(Failing(&whole[..whole.len() / 2])).unwrap());
        let error = loop {
            match reader.next_line() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the end was never sent"),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(&error, ReadError::Store { source, .. } if source.to_string() == "connection reset"),
            "{error}"
        );
    }
}
