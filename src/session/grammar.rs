//! What a session id may look like. Ids reach WAF rules, so this is a gate: what does not fit is no id.

/// Length and alphabet of ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grammar {
    min_length: usize,
    max_length: usize,
    /// Bit n: the ASCII character n is allowed.
    alphabet: u128,
}

/// Why a grammar was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GrammarError {
    #[error("min_length must be at least 6: shorter ids are guessed, or are the beginning of many paths")]
    TooShort,
    #[error("max_length must be from min_length to 200")]
    Lengths,
    #[error(
        "alphabet {0:?}: {1:?} cannot be in an id; letters, digits and _ - ~ ! $ * + , ; = : @ can, and ranges such as a-z"
    )]
    Character(String, char),
    #[error("alphabet {0:?}: {1:?} is no range; ranges run upwards from a letter or digit to another, as a-z")]
    Range(String, String),
    #[error("alphabet is empty")]
    Empty,
}

/// What can stand in one segment of a path and means nothing to it. No dot: it ends the id.
const POSSIBLE: &[u8] = b"_-~!$*+,;=:@";

impl Grammar {
    /// `alphabet` is written like the inside of a character class: characters and ranges; a `-` at either
    /// end stands for itself.
    pub fn new(min_length: usize, max_length: usize, alphabet: &str) -> Result<Grammar, GrammarError> {
        if min_length < 6 {
            return Err(GrammarError::TooShort);
        }
        if max_length < min_length || max_length > 200 {
            return Err(GrammarError::Lengths);
        }
        let characters: Vec<char> = alphabet.chars().collect();
        let mut bits = 0u128;
        let mut at = 0;
        while at < characters.len() {
            let first = characters[at];
            let is_range = characters.get(at + 1) == Some(&'-') && at + 2 < characters.len();
            let last = if is_range { characters[at + 2] } else { first };
            at += if is_range { 3 } else { 1 };
            let range_is_plain =
                first == last || (first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() && first < last);
            if !range_is_plain {
                return Err(GrammarError::Range(alphabet.to_owned(), format!("{first}-{last}")));
            }
            for character in first..=last {
                match u8::try_from(character) {
                    Ok(byte) if byte.is_ascii_alphanumeric() || POSSIBLE.contains(&byte) => bits |= 1 << byte,
                    // A range such as A-z runs over what is no letter.
                    _ => return Err(GrammarError::Character(alphabet.to_owned(), character)),
                }
            }
        }
        if bits == 0 {
            return Err(GrammarError::Empty);
        }
        Ok(Grammar { min_length, max_length, alphabet: bits })
    }

    /// The alphabet as the inside of a character class.
    pub fn class(&self) -> String {
        let mut class = String::new();
        let has = |byte: u8| self.alphabet >> byte & 1 == 1;
        for byte in 0..128u8 {
            let continues = byte.is_ascii_alphanumeric() && has(byte) && byte > 0 && has(byte - 1);
            let follows = continues && (byte - 1).is_ascii_alphanumeric();
            if !has(byte) || byte == b'-' {
                continue;
            }
            match class.strip_suffix(|c: char| u32::from(c) + 1 == u32::from(byte)) {
                // The end of a range moves on.
                Some(before) if follows && before.ends_with('-') => class.truncate(before.len()),
                Some(_) if follows => class.push('-'),
                _ => {}
            }
            class.push(char::from(byte));
        }
        if has(b'-') {
            class.push('-');
        }
        class
    }

    /// Whether an id can have this character.
    pub fn has(&self, character: char) -> bool {
        u8::try_from(character).is_ok_and(|byte| byte < 128 && self.alphabet >> byte & 1 == 1)
    }

    pub fn accepts(&self, id: &str) -> bool {
        (self.min_length..=self.max_length).contains(&id.len())
            && id.bytes().all(|byte| byte < 128 && self.alphabet >> byte & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_alphabet() {
        let grammar = Grammar::new(6, 12, "A-Za-z0-9_-").unwrap();
        assert!(grammar.accepts("aZ09_-"));
        for id in ["short", "thirteenchars", "dot.in", "per%cent", "slash/", "späte_", "new\nline", ""] {
            assert!(!grammar.accepts(id), "{id}");
        }
    }

    #[test]
    fn the_alphabet_as_a_class() {
        for (alphabet, class) in [
            ("A-Za-z0-9_-", "0-9A-Z_a-z-"),
            ("abc", "a-c"),
            ("ab", "a-b"),
            ("ac-e:", ":ac-e"),
            ("-_~", "_~-"),
            ("0-9", "0-9"),
        ] {
            let grammar = Grammar::new(6, 12, alphabet).unwrap();
            assert_eq!(grammar.class(), class);
            let pattern = regex::Regex::new(&format!("^[{class}]$")).unwrap();
            for byte in 0..128u8 {
                let text = char::from(byte).to_string();
                assert_eq!(grammar.accepts(&text.repeat(6)), pattern.is_match(&text), "{text:?} in {class}");
            }
        }
    }

    #[test]
    fn what_could_reach_beyond_an_id_is_refused() {
        for alphabet in ["a-z.", "a-z/", "a-z%", "A-z", "a-z ", "ä", "a-z?", "z-a", "a-z\\", "a-z\""] {
            assert!(
                matches!(Grammar::new(6, 12, alphabet), Err(GrammarError::Character(..) | GrammarError::Range(..))),
                "{alphabet}"
            );
        }
        assert_eq!(Grammar::new(6, 12, ""), Err(GrammarError::Empty));
        assert_eq!(Grammar::new(1, 12, "a"), Err(GrammarError::TooShort));
        assert_eq!(Grammar::new(6, 201, "a"), Err(GrammarError::Lengths));
        assert_eq!(Grammar::new(10, 9, "a"), Err(GrammarError::Lengths));
    }
}
