//! How long a piece of text is, in tokens: exactly, once for each chunk, and estimated for the
//! splitter, which asks about every text some twenty times. Knows no model, only its count.

use std::cell::RefCell;
use std::collections::HashMap;

use text_splitter::ChunkSizer;

use super::MAX_BYTES_PER_TOKEN;

/// Longest piece that is counted on its own; a longer run of letters is several.
const MAX_PIECE_BYTES: usize = 24;

/// Counts of pieces kept at most; beyond, they are counted each time.
const MAX_CACHED: usize = 100_000;

/// Counts tokens, and for texts no chunk may have the length of, only bytes.
pub struct Sizer<'a> {
    count_tokens: &'a dyn Fn(&str) -> usize,
    /// Most tokens in a chunk.
    max: usize,
    cache: RefCell<HashMap<&'a str, usize>>,
}

impl<'a> Sizer<'a> {
    /// For chunks of at most `max` tokens.
    pub fn new(count_tokens: &'a dyn Fn(&str) -> usize, max: usize) -> Sizer<'a> {
        Sizer { count_tokens, max, cache: RefCell::default() }
    }

    /// Most tokens in a chunk.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Tokens of `text` if it may be a chunk.
    pub fn fits(&self, text: &str) -> Option<usize> {
        if text.len().div_ceil(MAX_BYTES_PER_TOKEN) > self.max {
            return None;
        }
        let tokens = (self.count_tokens)(text);
        (tokens <= self.max).then_some(tokens)
    }

    /// Size of a text in tokens; for a text no chunk may have the length of, some number above
    /// the limit.
    pub fn size(&self, text: &str) -> usize {
        let least = text.len().div_ceil(MAX_BYTES_PER_TOKEN);
        if least > self.max { least } else { (self.count_tokens)(text).max(least) }
    }

    /// Tokens of `text`, however many.
    pub fn count(&self, text: &str) -> usize {
        (self.count_tokens)(text)
    }

    /// Measures a segment once, for estimates of any part of it.
    pub fn measure(&self, segment: &'a str) -> Measured {
        let mut pieces = Vec::with_capacity(segment.len() / 4);
        let mut tokens = 0;
        for (start, piece) in pieces_of(segment) {
            let known = self.cache.borrow().get(piece).copied();
            tokens += known.unwrap_or_else(|| {
                let count = (self.count_tokens)(piece);
                let mut cache = self.cache.borrow_mut();
                if cache.len() < MAX_CACHED {
                    cache.insert(piece, count);
                }
                count
            });
            pieces.push((start + piece.len(), tokens));
        }
        Measured { start: segment.as_ptr() as usize, length: segment.len(), pieces }
    }
}

/// A segment whose pieces have been counted. The size of a part is the sum of its pieces: exact
/// for tokenizers that never reach over white space and punctuation (WordPiece), slightly too
/// much for most others. What is cut inside a piece counts as the whole piece.
pub struct Measured {
    /// Address of the segment, to find where in it a part is.
    start: usize,
    length: usize,
    /// End of each piece in bytes, and the tokens up to there.
    pieces: Vec<(usize, usize)>,
}

impl ChunkSizer for Measured {
    fn size(&self, part: &str) -> usize {
        let least = part.len().div_ceil(MAX_BYTES_PER_TOKEN);
        let Some(from) = (part.as_ptr() as usize).checked_sub(self.start) else {
            return least;
        };
        let to = (from + part.len()).min(self.length);
        // Pieces that end after `from` and begin before `to`.
        let first = self.pieces.partition_point(|&(end, _)| end <= from);
        let last = self.pieces.partition_point(|&(end, _)| end < to).min(self.pieces.len().saturating_sub(1));
        let before = first.checked_sub(1).map_or(0, |at| self.pieces[at].1);
        let until = self.pieces.get(last).map_or(0, |piece| piece.1);
        until.saturating_sub(before).max(least)
    }
}

/// Runs of letters and digits, runs of other characters but white space, and single
/// ideographs, none longer than [`MAX_PIECE_BYTES`].
fn pieces_of(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let class = |c: char| match c {
        c if c.is_whitespace() => 0,
        c if c >= '\u{2e80}' => 3,
        c if c.is_alphanumeric() => 1,
        _ => 2,
    };
    let mut chars = text.char_indices().peekable();
    std::iter::from_fn(move || {
        loop {
            let (start, first) = chars.next()?;
            let kind = class(first);
            if kind == 0 {
                continue;
            }
            let mut end = start + first.len_utf8();
            while let Some(&(at, c)) = chars.peek() {
                if kind == 3 || class(c) != kind || at + c.len_utf8() - start > MAX_PIECE_BYTES {
                    break;
                }
                end = at + c.len_utf8();
                chars.next();
            }
            return Some((start, &text[start..end]));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    #[test]
    fn a_part_is_as_long_as_its_pieces() {
        let sizer = Sizer::new(&words, 100);
        let text = "one two,  three\n日本 four";
        let measured = sizer.measure(text);
        assert_eq!(measured.size(text), 7);
        assert_eq!(measured.size(&text[4..8]), 2);
        assert_eq!(measured.size(&text[0..3]), 1);
        assert_eq!(measured.size(&text[8..10]), 1);
    }

    #[test]
    fn a_text_too_long_for_a_chunk_is_not_counted() {
        let sizer = Sizer::new(&|_| panic!("counted"), 10);
        assert_eq!(sizer.fits(&"x".repeat(161)), None);
        assert_eq!(sizer.size(&"x".repeat(161)), 11);
    }

    proptest! {
        #[test]
        fn an_estimate_is_never_below_the_words_of_a_part(text in "[a-z ,é語\n]{0,120}", from in 0..120usize, to in 0..120usize) {
            let sizer = Sizer::new(&words, 1000);
            let measured = sizer.measure(&text);
            let (from, to) = (text.floor_char_boundary(from.min(to)), text.floor_char_boundary(from.max(to)));
            let part = text[from..to].trim();
            prop_assert!(measured.size(part) >= words(part), "{:?}", part);
        }
    }
}
