//! Whole gzip files at once, with libdeflate: twice as fast as a decoder that streams.
//!
//! Unpacking is what reading logs costs at least. CloudFront's objects are small, so that a whole one fits in memory; what does
//! not, or is not as it should be, is left to the decoder that streams, which can tell what is wrong.

use std::ptr::NonNull;

use libdeflate_sys::{
    libdeflate_alloc_decompressor, libdeflate_decompressor, libdeflate_free_decompressor,
    libdeflate_gzip_decompress_ex, libdeflate_result,
};

/// The least that gzip needs around its data: ten bytes before it, eight behind.
const FRAME: usize = 18;

struct Decompressor(NonNull<libdeflate_decompressor>);

impl Decompressor {
    fn new() -> Option<Decompressor> {
        // SAFETY: it takes nothing, and gives a new decompressor or null.
        NonNull::new(unsafe { libdeflate_alloc_decompressor() }).map(Decompressor)
    }

    /// Unpacks the first member; gives how many bytes were read and written.
    fn member(&mut self, packed: &[u8], unpacked: &mut [u8]) -> Result<(usize, usize), libdeflate_result> {
        let (mut read, mut written) = (0, 0);
        // SAFETY: the decompressor is ours alone, and it keeps to the lengths of the two buffers, which do not overlap.
        let result = unsafe {
            libdeflate_gzip_decompress_ex(
                self.0.as_ptr(),
                packed.as_ptr().cast(),
                packed.len(),
                unpacked.as_mut_ptr().cast(),
                unpacked.len(),
                &mut read,
                &mut written,
            )
        };
        if result == libdeflate_sys::libdeflate_result_LIBDEFLATE_SUCCESS { Ok((read, written)) } else { Err(result) }
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: it was allocated by the library, and nobody else has it.
        unsafe { libdeflate_free_decompressor(self.0.as_ptr()) }
    }
}

/// Unpacks all members of a gzip file to the beginning of a buffer, which grows as it must, and checks them; gives how many bytes
/// that are. None where they are more than `most`, or it is not a gzip from its first byte to its last.
pub fn unpack(packed: &[u8], most: usize, unpacked: &mut Vec<u8>) -> Option<usize> {
    let mut decompressor = Decompressor::new()?;
    // The last four bytes are the length of the last member, modulo 2^32: of the only one as a rule.
    let hint = u32::from_le_bytes(*packed.last_chunk()?) as usize;
    if hint > most {
        return None;
    }
    if unpacked.len() < hint.max(FRAME) {
        unpacked.resize(hint.max(FRAME), 0);
    }
    let (mut read, mut written) = (0, 0);
    while read < packed.len() {
        let room = unpacked.len().min(most);
        match decompressor.member(&packed[read..], &mut unpacked[written..room]) {
            Ok((more, bytes)) => {
                read += more;
                written += bytes;
            }
            Err(libdeflate_sys::libdeflate_result_LIBDEFLATE_INSUFFICIENT_SPACE) if unpacked.len() < most => {
                unpacked.resize((2 * unpacked.len()).min(most), 0);
            }
            Err(_) => return None,
        }
    }
    Some(written)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use flate2::Compression;
    use flate2::read::MultiGzDecoder;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(packed: &[u8], most: usize) -> Option<Vec<u8>> {
        // What was there before does not matter.
        let mut buffer = vec![b'?'; packed.len() % 50];
        let length = super::unpack(packed, most, &mut buffer)?;
        buffer.truncate(length);
        Some(buffer)
    }

    #[test]
    fn no_more_than_is_wanted() {
        let packed = gzip(&[b'x'; 1_000]);
        assert_eq!(unpack(&packed, 1_000).unwrap().len(), 1_000);
        assert_eq!(unpack(&packed, 999), None);
        // Members whose lengths are in no trailer that is looked at.
        let many = [packed.clone(), packed.clone(), gzip(b"")].concat();
        assert_eq!(unpack(&many, 2_000).unwrap().len(), 2_000);
        assert_eq!(unpack(&many, 1_999), None);
        let mut large = vec![b'?'; 5_000];
        assert_eq!(super::unpack(&many, 1_999, &mut large), None, "whatever room there is");
        assert_eq!(super::unpack(&packed, 1_000, &mut large), Some(1_000));
        assert!(large.len() == 5_000 && large[..1_000].iter().all(|byte| *byte == b'x'));
    }

    proptest! {
        /// Whatever is done to the bytes: either the same as the decoder that streams gives, or nothing.
        #[test]
        fn as_the_other_decoder(
            texts in proptest::collection::vec("[a-c\n]{0,200}", 1..4),
            cut in 0usize..40,
            flip in proptest::option::of((0usize..10_000, 1u8..)),
            behind in "[\\x00a]{0,3}",
        ) {
            let mut packed: Vec<u8> = texts.iter().flat_map(|text| gzip(text.as_bytes())).collect();
            packed.extend_from_slice(behind.as_bytes());
            packed.truncate(packed.len() - cut.saturating_sub(20));
            if let Some((place, change)) = flip {
                let place = place % packed.len().max(1);
                packed[place] ^= change;
            }
            let mut expected = Vec::new();
            let streamed = MultiGzDecoder::new(packed.as_slice()).read_to_end(&mut expected);
            if let Some(unpacked) = unpack(&packed, 1 << 20) {
                prop_assert!(streamed.is_ok(), "{streamed:?}");
                prop_assert_eq!(unpacked, expected);
            } else if flip.is_none() && cut <= 20 && behind.is_empty() {
                prop_assert!(false, "a good one");
            }
        }
    }
}
