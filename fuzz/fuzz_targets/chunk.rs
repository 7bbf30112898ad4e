//! Markdown's structure, and the cutting of any text into chunks.
//!
//! Input: a byte each for the format, the most tokens of a chunk, the overlap and how tokens are counted; then the text.
#![no_main]

use answerd_fuzz::documents::chunk::ChunkLimits;
use answerd_fuzz::documents::parse::{markdown, text};
use answerd_fuzz::documents::{Format, ParsedDocument};
use answerd_fuzz::harness::{check_chunks, words};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some(([format, most, overlap, counter], bytes)) = input.split_first_chunk() else { return Corpus::Reject };
    let text = text::decode(bytes, None);
    check_outline(&text);
    let format = Format::ALL[usize::from(*format) % Format::ALL.len()];
    let document = ParsedDocument::new(format, None, text);
    let limits = ChunkLimits { max_tokens: usize::from(*most), overlap_tokens: usize::from(*overlap) };
    // None gives a character more than `MIN_TOKENS` tokens.
    let counters: [&dyn Fn(&str) -> usize; 4] =
        [&words, &|text| text.chars().count(), &str::len, &|text| text.len().div_ceil(4)];
    check_chunks(&document, counters[usize::from(*counter) % counters.len()], limits);
    Corpus::Keep
});

fn check_outline(text: &str) {
    let body = markdown::front_matter_end(text);
    assert!(text.is_char_boundary(body) && (body == 0 || body == text.len() || text[..body].ends_with('\n')));
    let outline = markdown::outline(text, body);
    let starts: Vec<usize> = outline.headings.iter().map(|heading| heading.span.start).collect();
    for places in [&starts, &outline.block_starts] {
        assert!(places.windows(2).all(|two| two[0] < two[1]), "not in order: {places:?}");
        assert!(places.iter().all(|at| *at >= body && text.is_char_boundary(*at)), "not in the body: {places:?}");
    }
    for heading in &outline.headings {
        assert!((1..=6).contains(&heading.level) && text.get(heading.span.clone()).is_some(), "{heading:?}");
        assert_eq!(heading.title, markdown::tidy_title(&heading.title));
        assert!(heading.title.chars().count() <= 200, "{heading:?}");
    }
    assert!(markdown::title(text).is_none_or(|title| !title.is_empty()));
}
