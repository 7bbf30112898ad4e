//! The words of a text as a sparse vector, so that the inner product of a question's and a chunk's, with the rarity that
//! Qdrant adds (its modifier IDF), is BM25 (Robertson and Zaragoza 2009).

use std::collections::BTreeMap;

use crate::stores::tantivy::words;

/// BM25's saturation and length normalisation, as tantivy has them.
const K1: f32 = 1.2;
const B: f32 = 0.75;
/// The length, in words, of a usual chunk. A collection has no figure for it that stays: it is what a chunk of the
/// default size comes to.
const USUAL_LENGTH: f32 = 80.0;
/// What a word in the title counts on top of its count in the text, which begins with the title; see [`crate::stores::tantivy`].
const TITLE_WEIGHT: f32 = 0.2;
/// Words of a question that count.
const MOST_WORDS: usize = 64;

/// A sparse vector: the numbers of words, ascending, and their weights.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Words {
    pub indices: Vec<u32>,
    pub values: Vec<f32>,
}

/// The number of a word. Two words may share one: then each is a little less rare.
fn number(word: &str) -> u32 {
    crc32fast::hash(word.as_bytes())
}

/// How often each word is in a text, and how many there are.
fn counts(text: &str) -> (BTreeMap<u32, f32>, f32) {
    let mut counts = BTreeMap::new();
    let mut length = 0.0;
    for word in words(text) {
        *counts.entry(number(&word)).or_insert(0.0) += 1.0;
        length += 1.0;
    }
    (counts, length)
}

fn saturated(count: f32, length: f32) -> f32 {
    count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length / USUAL_LENGTH))
}

/// Those of a chunk: title, section path and text, as the lexical index has them.
pub(super) fn of_chunk(title: &str, section: &str, text: &str) -> Words {
    let (body, length) = counts(&format!("{title}\n{section}\n{text}"));
    let (title, title_length) = counts(title);
    body.into_iter()
        .map(|(word, count)| {
            let in_title = title.get(&word).map_or(0.0, |count| TITLE_WEIGHT * saturated(*count, title_length));
            (word, saturated(count, length) + in_title)
        })
        .collect()
}

/// Those of a question: each once. None where it has no word that counts.
pub(super) fn of_question(text: &str) -> Option<Words> {
    let found: Words = counts(text).0.into_keys().take(MOST_WORDS).map(|word| (word, 1.0)).collect();
    (!found.indices.is_empty()).then_some(found)
}

impl FromIterator<(u32, f32)> for Words {
    fn from_iter<I: IntoIterator<Item = (u32, f32)>>(pairs: I) -> Self {
        let (indices, values) = pairs.into_iter().unzip();
        Self { indices, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_comes_again_counts_less_each_time_and_less_in_a_long_text() {
        let weight = |text: &str| of_chunk("", "", text).values[0];
        let (once, twice, thrice) = (weight("leave"), weight("leave leaves"), weight("leave leaves leave"));
        assert!(once < twice && twice < thrice && thrice - twice < twice - once, "{once} {twice} {thrice}");
        let long = of_chunk("", "", &format!("leave {}", (0..200).map(|n| format!("word{n} ")).collect::<String>()));
        let at = long.indices.iter().position(|word| *word == number("leav")).expect("the word");
        assert!(long.values[at] < once);
    }

    #[test]
    fn a_word_of_the_title_counts_more_and_a_question_has_each_word_once() {
        let (with, without) = (of_chunk("Leave", "", "days"), of_chunk("", "", "leave days"));
        assert_eq!(with.indices, without.indices);
        let at = with.indices.iter().position(|word| *word == number("leav")).expect("the word");
        assert!(with.values[at] > without.values[at]);
        assert_eq!(of_question("leave and the leaves"), Some([(number("leav"), 1.0)].into_iter().collect()));
        assert_eq!(of_question("the of and"), None);
    }
}
