//! Where a byte stands in a text, for one that comes every few bytes, as tabs do in log lines: a search of its own for each, which
//! is what `memchr` is made for, would take longer than to look at all bytes once.

/// Bytes that are looked at together: a bit for each.
const BLOCK: usize = 64;

/// The lower seven bits of each byte of a word.
const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;

/// The places of a byte, in order.
pub struct Places<'a> {
    text: &'a [u8],
    /// The byte, eight times.
    pattern: u64,
    /// Where the block is whose bits are left, and these bits.
    block: usize,
    left: u64,
    /// Where the next block begins.
    next: usize,
}

impl<'a> Places<'a> {
    pub fn of(byte: u8, text: &'a [u8]) -> Self {
        Places { text, pattern: u64::from_ne_bytes([byte; 8]), block: 0, left: 0, next: 0 }
    }
}

impl Iterator for Places<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.left == 0 {
            let rest = self.text.get(self.next..).filter(|rest| !rest.is_empty())?;
            self.block = self.next;
            self.left = match rest.first_chunk() {
                Some(block) => bits(block, self.pattern),
                None => {
                    let mut last = [0; BLOCK];
                    last[..rest.len()].copy_from_slice(rest);
                    // What was filled up is none of the text.
                    bits(&last, self.pattern) & ((1 << rest.len()) - 1)
                }
            };
            self.next += BLOCK;
        }
        let place = self.block + self.left.trailing_zeros() as usize;
        self.left &= self.left - 1;
        Some(place)
    }
}

/// A bit for each byte that is the one of the pattern, the lowest for the first.
fn bits(block: &[u8; BLOCK], pattern: u64) -> u64 {
    let (words, _) = block.as_chunks::<8>();
    words.iter().enumerate().fold(0, |bits, (place, word)| {
        let other = u64::from_le_bytes(*word) ^ pattern;
        // The highest bit of each byte that is zero now, and no other bit: no carry leaves its byte.
        let found = !(((other & LOW_BITS) + LOW_BITS) | other | LOW_BITS);
        // Bit 8n goes to bit 56 + n.
        bits | ((found >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * place)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Places;

    proptest! {
        /// Near the end of a block and of the text, and where all bytes but a bit are the same.
        #[test]
        fn every_place_is_found_and_no_other(
            text in prop::collection::vec(prop::sample::select(vec![b'\t', b'\t', 0x08, 0x89, 0x00, b'a', 0xff]), 0..300),
            byte in prop::sample::select(vec![b'\t', 0x00, 0x89]),
        ) {
            let found: Vec<usize> = Places::of(byte, &text).collect();
            prop_assert_eq!(found, memchr::memchr_iter(byte, &text).collect::<Vec<usize>>());
        }
    }
}
