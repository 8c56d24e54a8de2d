//! Where a byte stands in a text, for one that comes every few bytes, as tabs do in log lines: a search of its own for each, which
//! is what `memchr` is made for, would take longer than to look at all bytes once.

/// Bytes that are looked at together: a bit for each.
const BLOCK: usize = 64;

/// Finds the first places of a byte, as many as there is room for; gives how many.
pub fn places(byte: u8, text: &[u8], places: &mut [u32]) -> usize {
    let mut found = 0;
    let (blocks, rest) = text.as_chunks::<BLOCK>();
    let mut last = [0; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    // What was filled up is none of the text.
    let in_last = bits(&last, byte) & ((1 << rest.len()) - 1);
    let of_blocks = blocks.iter().map(|block| bits(block, byte)).chain([in_last]);
    for (block, mut bits) in of_blocks.enumerate() {
        while bits != 0 {
            let Some(place) = places.get_mut(found) else { return found };
            *place = (block * BLOCK) as u32 + bits.trailing_zeros();
            bits &= bits - 1;
            found += 1;
        }
    }
    found
}

/// A bit for each byte that is this one, the lowest for the first; sixteen bytes at once.
#[cfg(target_arch = "x86_64")]
fn bits(block: &[u8; BLOCK], byte: u8) -> u64 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};
    let (words, _) = block.as_chunks::<8>();
    let word = |place: usize| i64::from_le_bytes(words[place]);
    let sixteen = |part: usize| {
        // SAFETY: the instructions are of SSE2, which every processor of this kind has.
        let equal = unsafe {
            let bytes = _mm_set_epi64x(word(2 * part + 1), word(2 * part));
            _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte.cast_signed())))
        };
        u64::from(equal.cast_unsigned())
    };
    sixteen(0) | sixteen(1) << 16 | sixteen(2) << 32 | sixteen(3) << 48
}

/// The same, eight bytes at once.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    use super::BLOCK;

    /// The lower seven bits of each byte of a word.
    const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;

    pub fn bits(block: &[u8; BLOCK], byte: u8) -> u64 {
        let (words, _) = block.as_chunks::<8>();
        words.iter().enumerate().fold(0, |bits, (place, word)| {
            let other = u64::from_le_bytes(*word) ^ u64::from_ne_bytes([byte; 8]);
            // The highest bit of each byte that is zero now, and no other bit: no carry leaves its byte.
            let found = !(((other & LOW_BITS) + LOW_BITS) | other | LOW_BITS);
            // Bit 8n goes to bit 56 + n.
            bits | ((found >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * place)
        })
    }
}

#[cfg(not(target_arch = "x86_64"))]
use portable::bits;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        /// Near the end of a block and of the text, and where all bits but one are the same.
        #[test]
        fn the_first_places_are_found_and_no_others(
            text in prop::collection::vec(prop::sample::select(vec![b'\t', b'\t', 0x08, 0x89, 0x00, b'a', 0xff]), 0..300),
            byte in prop::sample::select(vec![b'\t', 0x00, 0x89]),
            room in 0usize..200,
        ) {
            let mut found = vec![0; room];
            let count = super::places(byte, &text, &mut found);
            let expected: Vec<u32> = memchr::memchr_iter(byte, &text).map(|place| place as u32).take(room).collect();
            prop_assert_eq!(&found[..count], expected);
            for block in text.as_chunks::<64>().0 {
                prop_assert_eq!(super::portable::bits(block, byte), super::bits(block, byte));
            }
        }
    }
}
