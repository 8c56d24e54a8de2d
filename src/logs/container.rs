//! What a log object's bytes are wrapped in, and how text is cut into lines.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::ReadError;
use super::gunzip;
use super::spare::Spare;

/// The longest line that is read. CloudFront logs no request with a URL over 8,192 or headers over 32,768
/// bytes; percent-encoding can triple both.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Bytes of a line that are handed on before its end, where records need no line ends.
const PIECE_BYTES: usize = 1 << 18;

/// A gzip of so many bytes at most, and of so many unpacked, is unpacked as a whole: CloudFront's objects are smaller as a rule.
/// Each reader holds one of each, and an ingestion keeps them for its next objects.
const WHOLE_PACKED_BYTES: u64 = 16 << 20;
const WHOLE_BYTES: usize = 64 << 20;

/// Text that is this many times as large as its gzip, and larger than [`BOMB_BYTES`], is no log: every record has an
/// id of its own, of which 42 bytes cannot be compressed.
const BOMB_RATIO: u64 = 200;
const BOMB_BYTES: u64 = 1 << 28;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const PARQUET_MAGIC: [u8; 4] = *b"PAR1";

/// Digest and count of the raw bytes, and an error of the store, which would else look like a broken gzip.
#[derive(Default)]
pub struct Tally {
    digest: Sha256,
    bytes: u64,
    failed: Option<io::Error>,
}

/// Passes the raw bytes on and keeps the tally.
pub struct Tallied<R> {
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

/// The packed bytes that are in memory already, and those behind them.
type Packed<R> = Chain<Cursor<Vec<u8>>, BufReader<Tallied<R>>>;

/// An object's bytes, opened.
// One value lives per object read; the size of the larger variant does not matter.
#[allow(clippy::large_enum_variant)]
pub enum Container<R: Read> {
    Text(Lines<R>),
    Parquet(Raw<R>),
}

// One value lives per object read; the size of the larger variant does not matter.
#[allow(clippy::large_enum_variant)]
enum Text<R: Read> {
    Plain(BufReader<Tallied<R>>),
    Whole(Whole),
    Gzip(BufReader<MultiGzDecoder<Packed<R>>>),
}

/// A text that was unpacked at once.
struct Whole {
    buffer: Vec<u8>,
    /// What of the buffer is the text, but for what was read.
    left: Range<usize>,
    /// Where the buffer comes from.
    spare: Arc<Spare>,
}

impl Whole {
    fn rest(&self) -> &[u8] {
        &self.buffer[self.left.clone()]
    }
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.rest().read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Whole {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(self.rest())
    }

    fn consume(&mut self, count: usize) {
        self.left.start = (self.left.start + count).min(self.left.end);
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.spare.unpacked.give(std::mem::take(&mut self.buffer));
    }
}

impl<R: Read> Container<R> {
    /// Decides by the first bytes, never by a name.
    pub fn open(bytes: R, spare: &Arc<Spare>) -> Result<Self, ReadError> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let mut raw = BufReader::with_capacity(1 << 16, Tallied { inner: bytes, tally: tally.clone() });
        let start = raw.fill_buf().map_err(|error| store_error(&tally, error))?;
        if start.starts_with(&PARQUET_MAGIC) {
            return Ok(Container::Parquet(Raw { bytes: raw, tally }));
        }
        let text = if start.starts_with(&GZIP_MAGIC) {
            let mut packed = spare.packed.take().unwrap_or_default();
            packed.clear();
            let read = raw.by_ref().take(WHOLE_PACKED_BYTES).read_to_end(&mut packed);
            read.map_err(|error| store_error(&tally, error))?;
            let is_whole = (packed.len() as u64) < WHOLE_PACKED_BYTES;
            let mut whole =
                Whole { buffer: spare.unpacked.take().unwrap_or_default(), left: 0..0, spare: spare.clone() };
            match is_whole.then(|| gunzip::unpack(&packed, WHOLE_BYTES, &mut whole.buffer)).flatten() {
                Some(length) => {
                    spare.packed.give(packed);
                    whole.left.end = length;
                    Text::Whole(whole)
                }
                None => {
                    let rest = Cursor::new(packed).chain(raw);
                    Text::Gzip(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(rest)))
                }
            }
        } else {
            Text::Plain(raw)
        };
        let line = Vec::with_capacity(4_096);
        Ok(Container::Text(Lines {
            text,
            tally,
            line,
            within: 0..0,
            held: 0,
            number: 0,
            unpacked: 0,
            next_check: BOMB_BYTES,
        }))
    }
}

/// The bytes of an object as they are.
pub struct Raw<R: Read> {
    pub bytes: BufReader<Tallied<R>>,
    tally: Arc<Mutex<Tally>>,
}

impl<R: Read> Raw<R> {
    /// Digest and count of the bytes, once all were read; the store's error, if it failed.
    pub fn finish(self) -> Result<(String, u64), ReadError> {
        finish(&self.tally)
    }
}

fn store_error(tally: &Mutex<Tally>, error: io::Error) -> ReadError {
    let mut tally = tally.lock().expect("not poisoned");
    ReadError::Store { bytes: tally.bytes, source: tally.failed.take().unwrap_or(error) }
}

fn finish(tally: &Mutex<Tally>) -> Result<(String, u64), ReadError> {
    let mut tally = tally.lock().expect("not poisoned");
    if let Some(source) = tally.failed.take() {
        return Err(ReadError::Store { bytes: tally.bytes, source });
    }
    let digest = std::mem::take(&mut tally.digest).finalize();
    Ok((digest.iter().map(|byte| format!("{byte:02x}")).collect(), tally.bytes))
}

/// What comes next in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A line to its end. The last one may lack its newline.
    Line,
    /// The beginning of a line, or more of it; given only where it was asked for.
    Piece,
    /// A line that is longer than any log has, and was skipped.
    TooLong,
    End,
}

/// Cuts text into lines, with memory bounded by the longest line that is read.
pub struct Lines<R: Read> {
    text: Text<R>,
    tally: Arc<Mutex<Tally>>,
    line: Vec<u8>,
    /// Where the line is in a text that is whole, and was not copied from it.
    within: Range<usize>,
    /// Bytes at the line's beginning that were handed on before, and not used.
    held: usize,
    number: u64,
    unpacked: u64,
    next_check: u64,
}

impl<R: Read> Lines<R> {
    /// The first byte of the text that is no blank, behind a byte order mark, which is skipped; none if there is no such byte near its beginning.
    pub fn first_byte(&mut self) -> Result<Option<u8>, ReadError> {
        if self.fill()?.starts_with(BYTE_ORDER_MARK) {
            self.reader().consume(BYTE_ORDER_MARK.len());
        }
        let start = self.fill()?;
        Ok(start.iter().copied().find(|byte| !byte.is_ascii_whitespace()))
    }

    fn reader(&mut self) -> &mut dyn BufRead {
        match &mut self.text {
            Text::Plain(reader) => reader,
            Text::Whole(reader) => reader,
            Text::Gzip(reader) => reader,
        }
    }

    fn fill(&mut self) -> Result<&[u8], ReadError> {
        loop {
            match self.reader().fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error(error)),
            }
        }
        // What is buffered is given again without a read.
        self.reader().fill_buf().map_err(|source| ReadError::Store { bytes: 0, source })
    }

    fn error(&self, error: io::Error) -> ReadError {
        let tally = self.tally.lock().expect("not poisoned");
        match self.text {
            Text::Gzip(_) if tally.failed.is_none() => ReadError::Gzip { bytes: tally.bytes, source: error },
            _ => {
                drop(tally);
                store_error(&self.tally, error)
            }
        }
    }

    /// Goes on to what comes next. With `pieces` a long line is handed on before its end.
    pub fn next_line(&mut self, pieces: bool) -> Result<Next, ReadError> {
        if let Text::Whole(text) = &mut self.text
            && !pieces
            && self.held == 0
        {
            let (start, rest) = (text.left.start, text.rest());
            if rest.is_empty() {
                return Ok(Next::End);
            }
            let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let is_too_long = length > MAX_LINE_BYTES;
            let shown = if is_too_long { 0 } else { length - usize::from(rest[..length].ends_with(b"\r")) };
            self.within = start..start + shown;
            self.number += 1;
            text.consume(length + 1);
            return Ok(if is_too_long { Next::TooLong } else { Next::Line });
        }
        let mut too_long = false;
        let mut any = self.held > 0;
        loop {
            self.fill()?;
            // Not through a method: the line grows while the reader's buffer is looked at.
            let reader: &mut dyn BufRead = match &mut self.text {
                Text::Plain(reader) => reader,
                Text::Whole(reader) => reader,
                Text::Gzip(reader) => reader,
            };
            let chunk = reader.fill_buf().map_err(|source| ReadError::Store { bytes: 0, source })?;
            if chunk.is_empty() {
                break;
            }
            any = true;
            let end = memchr::memchr(b'\n', chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            let used = end.map_or(chunk.len(), |end| end + 1);
            if self.line.len() + part.len() > MAX_LINE_BYTES {
                too_long = true;
                self.line.clear();
                self.held = 0;
            } else if !too_long {
                self.line.extend_from_slice(part);
            }
            reader.consume(used);
            self.unpacked += used as u64;
            if self.unpacked >= self.next_check {
                self.check_ratio()?;
            }
            if end.is_some() {
                break;
            }
            if pieces && !too_long && self.line.len() >= self.held + PIECE_BYTES {
                return Ok(Next::Piece);
            }
        }
        if !any {
            return Ok(Next::End);
        }
        self.number += 1;
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        Ok(if too_long { Next::TooLong } else { Next::Line })
    }

    /// The line, or as much of it as there is.
    pub fn line(&self) -> &[u8] {
        match &self.text {
            Text::Whole(text) if self.line.is_empty() => &text.buffer[self.within.clone()],
            _ => &self.line,
        }
    }

    /// Its number, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Forgets the first `used` bytes of the line; what is left of it comes again with the next piece.
    pub fn consume(&mut self, used: usize) {
        if !self.within.is_empty() {
            self.within.start += used;
            return;
        }
        self.line.drain(..used);
        self.held = self.line.len();
    }

    fn check_ratio(&mut self) -> Result<(), ReadError> {
        self.next_check = self.unpacked + BOMB_BYTES / 16;
        let packed = self.tally.lock().expect("not poisoned").bytes;
        if self.unpacked / packed.max(1) > BOMB_RATIO {
            let reason = format!("{packed} bytes unpack to more than {}: not a log", self.unpacked);
            return Err(ReadError::Format(reason));
        }
        Ok(())
    }

    /// Digest (hexadecimal SHA-256) and count of the raw bytes, once all lines were read.
    pub fn finish(self) -> Result<(String, u64), ReadError> {
        finish(&self.tally)
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

    fn open<R: Read>(bytes: R) -> Result<Lines<R>, ReadError> {
        match Container::open(bytes, &Arc::default())? {
            Container::Text(lines) => Ok(lines),
            Container::Parquet(_) => panic!("no text"),
        }
    }

    fn lines(bytes: &[u8]) -> Result<Vec<Result<String, &'static str>>, ReadError> {
        let mut lines = open(bytes)?;
        let mut all = Vec::new();
        loop {
            match lines.next_line(false)? {
                Next::Line => all.push(Ok(String::from_utf8_lossy(lines.line()).into_owned())),
                Next::TooLong => all.push(Err("too long")),
                Next::Piece => panic!("not asked for"),
                Next::End => break,
            }
            lines.consume(lines.line().len());
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
        let mut lines = open(text.as_slice()).unwrap();
        assert_eq!(lines.next_line(false).unwrap(), Next::TooLong);
        assert!(lines.line.capacity() <= 2 * MAX_LINE_BYTES);
        assert_eq!(lines.next_line(false).unwrap(), Next::Line);
        assert_eq!(lines.line(), b"next");
    }

    #[test]
    fn a_long_line_comes_in_pieces_where_they_are_wanted() {
        let text = b"0123456789".repeat(PIECE_BYTES);
        let mut lines = open(text.as_slice()).unwrap();
        let (mut seen, mut pieces) = (Vec::new(), 0);
        loop {
            let next = lines.next_line(true).unwrap();
            // Three bytes are always left for the next piece.
            let used = if next == Next::Piece { lines.line().len() - 3 } else { lines.line().len() };
            seen.extend_from_slice(&lines.line()[..used]);
            lines.consume(used);
            pieces += 1;
            if next != Next::Piece {
                assert_eq!(next, Next::Line);
                break;
            }
        }
        assert_eq!(lines.next_line(true).unwrap(), Next::End);
        assert_eq!(seen, text);
        assert!(pieces > 5, "{pieces}");
    }

    #[test]
    fn a_gzip_bomb_is_refused_long_before_its_end() {
        let bomb = gzip(&[b"x".repeat(1_023), b"\n".to_vec()].concat().repeat(1 << 10));
        // Members follow each other as often as you like.
        let bomb = bomb.repeat(usize::try_from(BOMB_BYTES >> 19).unwrap());
        let mut lines = open(bomb.as_slice()).unwrap();
        let error = loop {
            match lines.next_line(false) {
                Ok(Next::End) => panic!("it was read to its end"),
                Ok(_) => lines.consume(lines.line().len()),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("not a log"), "{error}");
        assert!(lines.unpacked < 2 * BOMB_BYTES);
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
        let Err(error) = open(Failing(&whole[..whole.len() / 2])) else { panic!("the end was never sent") };
        assert!(
            matches!(&error, ReadError::Store { source, .. } if source.to_string() == "connection reset"),
            "{error}"
        );
    }
}
