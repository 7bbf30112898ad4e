//! A parsed document to [`Chunk`]s that fit the embedding model: along its headings first, then
//! along paragraphs, list items, table rows, code lines, sentences and words (text-splitter). The
//! ingestor calls [`chunk`] on a compute thread and hands in the model's token count. Knows no
//! model, and copies no text: a chunk is a byte span.

mod sections;
mod size;

use std::ops::Range;

use text_splitter::{ChunkConfig, MarkdownSplitter, TextSplitter};

use self::sections::{join_small, sections};
use self::size::Sizer;
use super::parse::markdown;
use super::{Chunk, Format, ParsedDocument};

/// A chunk has at most this many bytes for each token allowed. Tokenizers take four or five bytes
/// of prose a token; some take a word of any length for one unknown token, and white space for
/// none, so tokens alone would not bound a chunk. It also spares counting what is too long anyway.
pub const MAX_BYTES_PER_TOKEN: usize = 16;

/// Fewest tokens a chunk may be limited to; below, a single character might not fit.
pub const MIN_TOKENS: usize = 8;

/// The splitter looks ahead over all it is given for each chunk (in Chinese or Thai, with a
/// dictionary), so it is given long sections in segments: of this many bytes, or of
/// [`SEGMENT_BYTES_PER_TOKEN`] for each token of a chunk where that is more.
const SEGMENT_BYTES: usize = 8 * 1024;

/// A segment should hold several chunks even where a token has many bytes.
const SEGMENT_BYTES_PER_TOKEN: usize = 32;

/// Nesting of Markdown in one segment past which it is split as plain text: the splitter's
/// time grows with the square of it.
const MAX_NESTING: usize = 64;

/// How long chunks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Most tokens in a chunk, special tokens not counted.
    pub max_tokens: usize,
    /// Tokens at the end of a chunk that the next one of the same section repeats, at most.
    pub overlap_tokens: usize,
}

/// Why a document could not be cut into chunks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// [`ChunkLimits::max_tokens`] is below [`MIN_TOKENS`].
    #[error("a chunk must be allowed at least {MIN_TOKENS} tokens, and the limit is {0}")]
    LimitTooSmall(usize),
    /// The overlap is more than half of a chunk.
    #[error("the overlap of {overlap} tokens must not be more than half of a chunk of {max} tokens")]
    OverlapTooLarge {
        /// Overlap asked for.
        overlap: usize,
        /// Most tokens in a chunk.
        max: usize,
    },
}

/// Cuts a document into chunks, in order.
///
/// Each span is on character borders, not empty, without white space at its ends, of at most
/// `max_tokens` tokens and [`MAX_BYTES_PER_TOKEN`] times as many bytes; starts ascend; every
/// character of the body but white space is in a chunk. The front matter of Markdown is not
/// part of the body. Sections of less than a quarter of a chunk are joined with their
/// neighbours under the same parent, and a heading goes with the start of its text. (A single
/// character of more than `max_tokens` tokens would be a chunk of its own.)
///
/// `count_tokens` sees each part of the text one to three times; it is best where the tokens of a
/// text are those of its words together, as with WordPiece, and otherwise chunks get shorter.
///
/// # Errors
/// [`ChunkError`] for limits nothing can fit.
pub fn chunk(
    doc: &ParsedDocument,
    count_tokens: &dyn Fn(&str) -> usize,
    limits: ChunkLimits,
) -> Result<Vec<Chunk>, ChunkError> {
    let ChunkLimits { max_tokens: max, overlap_tokens: overlap } = limits;
    if max < MIN_TOKENS {
        return Err(ChunkError::LimitTooSmall(max));
    }
    if overlap > max / 2 {
        return Err(ChunkError::OverlapTooLarge { overlap, max });
    }
    let text = doc.text.as_str();
    let sizer = Sizer::new(count_tokens, max);
    let mut chunks = Chunks { text, sizer: &sizer, limits, out: Vec::new() };
    if !doc.format.is_markdown() {
        chunks.section(&[], 0..text.len(), 0, &Splitting::Paragraphs);
        return Ok(chunks.out);
    }
    let body = if doc.format == Format::Markdown { markdown::front_matter_end(text) } else { 0 };
    let outline = markdown::outline(text, body);
    for section in join_small(sections(text, body, &outline.headings), text, &sizer) {
        let path: Vec<String> = section.path.iter().map(|&at| outline.headings[at].title.clone()).collect();
        let splitting = Splitting::Blocks(&outline.block_starts);
        chunks.section(&path, section.span, section.head_end, &splitting);
    }
    Ok(chunks.out)
}

/// Where a section longer than a segment may be cut.
enum Splitting<'a> {
    /// Markdown, with the starts of its top-level blocks.
    Blocks(&'a [usize]),
    /// Plain text.
    Paragraphs,
}

struct Chunks<'a, 't> {
    text: &'t str,
    sizer: &'a Sizer<'t>,
    limits: ChunkLimits,
    out: Vec<Chunk>,
}

impl Chunks<'_, '_> {
    /// Cuts one section, whose headings end at `head_end`.
    fn section(&mut self, path: &[String], span: Range<usize>, head_end: usize, splitting: &Splitting) {
        let span = trim(self.text, span);
        let max = self.limits.max_tokens;
        if let Some(tokens) = self.sizer.fits(&self.text[span.clone()]) {
            self.add(path, span, tokens);
            return;
        }
        let mut start = span.start;
        let head = trim(self.text, start..head_end.clamp(start, span.end));
        let head_size = self.sizer.size(&self.text[head.clone()]);
        if !head.is_empty() && head_size <= max / 2 && head.end < span.end {
            // The splitter would make the heading a chunk of its own: it goes with the first
            // chunk of its text, which is cut shorter by that.
            let end = self.segment_end(head.end, span.end, splitting);
            if let Some(first) = self.split(head.end..end, max - head_size, 0, splitting).first() {
                start = first.end;
                self.push(path, head.start..first.end);
            }
        }
        while start < span.end {
            let end = self.segment_end(start, span.end, splitting);
            for chunk in self.split(start..end, max, self.limits.overlap_tokens, splitting) {
                self.push(path, chunk);
            }
            start = end;
        }
    }

    /// The best place to cut within a segment's length: before a block, else at a blank line, a
    /// line break, the end of a sentence, a space, in this order, and only in the second half.
    fn segment_end(&self, start: usize, end: usize, splitting: &Splitting) -> usize {
        let length = SEGMENT_BYTES.max(self.limits.max_tokens.saturating_mul(SEGMENT_BYTES_PER_TOKEN));
        if end - start <= length {
            return end;
        }
        let most = self.text.floor_char_boundary(start + length);
        let least = self.text.ceil_char_boundary(start + length / 2);
        if let Splitting::Blocks(starts) = splitting {
            let after = starts.partition_point(|&block| block <= most);
            if let Some(&block) = starts[..after].last().filter(|&&block| block > least) {
                return block;
            }
        }
        let window = &self.text[least..most];
        ["\n\n", "\n", "。", ". ", " "]
            .iter()
            .find_map(|mark| window.rfind(mark).map(|at| least + at + mark.len()))
            .unwrap_or(most)
    }

    /// The spans of the chunks of one segment.
    fn split(&self, segment: Range<usize>, max: usize, overlap: usize, splitting: &Splitting) -> Vec<Range<usize>> {
        let slice = &self.text[segment.clone()];
        let measured = self.sizer.measure(slice);
        let Ok(config) = ChunkConfig::new(max).with_sizer(&measured).with_overlap(overlap) else {
            // Not reached, as the overlap is at most half of the limit; it would be halved.
            return vec![segment];
        };
        let span = |(at, chunk): (usize, &str)| segment.start + at..segment.start + at + chunk.len();
        match splitting {
            Splitting::Blocks(_) if markdown::nesting(slice) <= MAX_NESTING => {
                MarkdownSplitter::new(config).chunk_indices(slice).map(span).collect()
            }
            _ => TextSplitter::new(config).chunk_indices(slice).map(span).collect(),
        }
    }

    /// Adds what the splitter gave; what its estimate let become too long is halved.
    fn push(&mut self, path: &[String], span: Range<usize>) {
        let span = trim(self.text, span);
        let text = &self.text[span.clone()];
        if let Some(tokens) = self.sizer.fits(text) {
            self.add(path, span, tokens);
            return;
        }
        let middle = self.middle(&span);
        if middle > span.start && middle < span.end {
            self.push(path, span.start..middle);
            self.push(path, middle..span.end);
        } else {
            // One character of more tokens than a chunk may have.
            self.add(path, span, self.sizer.count(text));
        }
    }

    /// Where to halve: after a line or else a word that ends in the second quarter, else in the middle.
    fn middle(&self, span: &Range<usize>) -> usize {
        let quarter = self.text.ceil_char_boundary(span.start + span.len() / 4);
        let half = self.text.ceil_char_boundary(span.start + span.len() / 2);
        let window = &self.text[quarter..half];
        let end = window.rfind('\n').or_else(|| window.rfind(char::is_whitespace));
        end.map_or(half, |at| quarter + at)
    }

    /// Adds a chunk, unless the one before contains it.
    fn add(&mut self, path: &[String], span: Range<usize>, tokens: usize) {
        if span.is_empty() {
            return;
        }
        if let Some(last) = self.out.last()
            && span.start <= last.span.start
        {
            if span.end <= last.span.end {
                return;
            }
            self.out.pop();
        }
        self.out.push(Chunk { section: path.to_vec(), tokens, span });
    }
}

fn trim(text: &str, span: Range<usize>) -> Range<usize> {
    let slice = &text[span.clone()];
    let start = span.start + (slice.len() - slice.trim_start().len());
    start..start + slice.trim().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A word is a token.
    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn doc(format: Format, text: &str) -> ParsedDocument {
        ParsedDocument::new(format, None, text.to_owned())
    }

    fn run(text: &str, max_tokens: usize, overlap_tokens: usize) -> Vec<(String, String)> {
        let limits = ChunkLimits { max_tokens, overlap_tokens };
        let chunks = chunk(&doc(Format::Markdown, text), &words, limits).unwrap();
        chunks.into_iter().map(|c| (c.section.join(" > "), text[c.span].to_owned())).collect()
    }

    fn prose(words: usize) -> String {
        (0..words).map(|i| format!("w{i} ")).collect()
    }

    fn check(text: &str, body: usize, chunks: &[Chunk], count: &dyn Fn(&str) -> usize, max: usize) {
        let mut covered = body;
        let mut start = None;
        for chunk in chunks {
            let part = &text[chunk.span.clone()];
            assert!(!part.is_empty() && part.trim() == part);
            assert!(start < Some(chunk.span.start));
            start = Some(chunk.span.start);
            assert_eq!(chunk.tokens, count(part));
            assert!(
                chunk.tokens <= max && part.len() <= max * MAX_BYTES_PER_TOKEN,
                "{} tokens, {} bytes",
                chunk.tokens,
                part.len()
            );
            if chunk.span.start > covered {
                assert!(
                    text[covered..chunk.span.start].trim().is_empty(),
                    "lost {:?}",
                    &text[covered..chunk.span.start]
                );
            }
            covered = covered.max(chunk.span.end);
        }
        assert!(text[covered..].trim().is_empty(), "lost the end");
    }

    #[test]
    fn a_chunk_knows_the_headings_above_it() {
        let text = format!("# A\n\n{p}\n\n## B\n\n{p}\n\n### C\n\n{p}\n\n## D\n\n{p}", p = prose(15));
        let sections: Vec<String> = run(&text, 20, 0).into_iter().map(|c| c.0).collect();
        assert_eq!(sections, ["A", "A > B", "A > B > C", "A > D"]);
    }

    #[test]
    fn small_sections_join_under_their_parent_only() {
        let text = format!("# A\n\n{}\n\n## B\n\none\n\n## C\n\ntwo\n\n# Z\n\n{}", prose(18), prose(18));
        let chunks = run(&text, 20, 0);
        assert_eq!(chunks[1], ("A".to_owned(), "## B\n\none\n\n## C\n\ntwo".to_owned()));
        assert_eq!(chunks.iter().map(|c| c.0.as_str()).collect::<Vec<_>>(), ["A", "A", "Z"]);
    }

    #[test]
    fn a_heading_without_text_goes_with_what_follows() {
        let text = format!("# A\n\n## B\n\n{}", prose(50));
        let chunks = run(&text, 20, 0);
        assert!(chunks[0].1.starts_with("# A\n\n## B\n\nw0"), "{}", chunks[0].1);
        assert!(chunks.iter().all(|c| c.0 == "A > B"));
    }

    #[test]
    fn headings_in_code_make_no_section() {
        let chunks = run("# A\n\n```sh\n# not a heading\n```\n", 20, 0);
        assert_eq!(chunks, [("A".to_owned(), "# A\n\n```sh\n# not a heading\n```".to_owned())]);
    }

    #[test]
    fn the_front_matter_is_in_no_chunk() {
        assert_eq!(run("---\ntitle: x\n---\nbody", 20, 0), [(String::new(), "body".to_owned())]);
        let limits = ChunkLimits { max_tokens: 20, overlap_tokens: 0 };
        let text = doc(Format::Text, "---\ntitle: x\n---\nbody");
        assert_eq!(chunk(&text, &words, limits).unwrap()[0].span, 0..21);
    }

    #[test]
    fn table_rows_and_code_lines_stay_whole() {
        let rows: String = (0..40).map(|i| format!("| a{i} | b{i} |\n")).collect();
        let table = format!("| x | y |\n| --- | --- |\n{rows}");
        for (_, part) in run(&table, 20, 0) {
            assert!(part.lines().all(|line| line.starts_with('|') && line.ends_with('|')), "{part}");
        }
        let lines: String = (0..40).map(|i| format!("let a{i} = b{i} ;\n")).collect();
        for (_, part) in run(&format!("```\n{lines}```\n"), 20, 0) {
            assert!(part.lines().all(|line| line == "```" || line.ends_with(';')), "{part}");
        }
    }

    #[test]
    fn overlap_repeats_the_end_within_a_section_only() {
        let text = format!("# A\n\n{}\n\n# B\n\n{}", prose(60), prose(60).to_uppercase());
        let limits = ChunkLimits { max_tokens: 20, overlap_tokens: 5 };
        let chunks = chunk(&doc(Format::Markdown, &text), &words, limits).unwrap();
        let mut overlapping = 0;
        for pair in chunks.windows(2) {
            if pair[0].section == pair[1].section {
                overlapping += usize::from(pair[1].span.start < pair[0].span.end);
            } else {
                assert!(pair[1].span.start >= pair[0].span.end);
            }
        }
        assert!(overlapping >= 4, "{overlapping}");
        check(&text, 0, &chunks, &words, 20);
    }

    #[test]
    fn a_count_that_is_more_than_the_sum_of_its_words_still_holds_the_limit() {
        let count = |text: &str| words(text) * 3 / 2;
        let text = prose(500);
        let limits = ChunkLimits { max_tokens: 20, overlap_tokens: 4 };
        let chunks = chunk(&doc(Format::Text, &text), &count, limits).unwrap();
        check(&text, 0, &chunks, &count, 20);
    }

    #[test]
    fn limits_nothing_can_fit_are_refused() {
        let text = doc(Format::Text, "x");
        let run = |max_tokens, overlap_tokens| chunk(&text, &words, ChunkLimits { max_tokens, overlap_tokens });
        assert_eq!(run(7, 0), Err(ChunkError::LimitTooSmall(7)));
        assert_eq!(run(20, 11), Err(ChunkError::OverlapTooLarge { overlap: 11, max: 20 }));
        assert_eq!(run(20, 10).unwrap().len(), 1);
    }

    #[test]
    fn a_document_of_white_space_has_no_chunks() {
        assert_eq!(run(" \n\n\t", 20, 0), []);
    }

    /// The work is measured in bytes given to the token counter and not in time: a tokenizer
    /// takes longer than all the rest.
    #[test]
    fn each_byte_is_counted_a_few_times_only() {
        let size = 400_000;
        let cases = [
            prose(size / 7),
            "x".repeat(size),
            ">".repeat(size),
            "* ".repeat(size / 2),
            "# h\n".repeat(size / 4),
            "a\n\n".repeat(size / 3),
            "- a\n".repeat(size / 4),
            "語".repeat(size / 3),
        ];
        for text in cases {
            for format in [Format::Markdown, Format::Text] {
                let counted = std::cell::Cell::new(0);
                let count = |part: &str| {
                    counted.set(counted.get() + part.len());
                    part.len().div_ceil(4)
                };
                let limits = ChunkLimits { max_tokens: 200, overlap_tokens: 20 };
                let chunks = chunk(&doc(format, &text), &count, limits).unwrap();
                check(&text, 0, &chunks, &count, 200);
                assert!(
                    counted.get() < 5 * text.len(),
                    "{:.10}: {} bytes counted of {}",
                    text,
                    counted.get(),
                    text.len()
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn every_character_is_in_a_chunk_and_no_chunk_breaks_a_limit(
            text in prop_oneof![
                "\\PC{0,400}",
                "(#{1,6} [a-z]{1,4}\n|\n|[a-zé語🦀 ]{1,30}|\\| a \\| b \\|\n|```\n|> |- |1\\. |    |---\n|a: 1\n|\\*|<b>|\r|\t|\u{a0}){0,80}",
            ],
            format in prop_oneof![Just(Format::Markdown), Just(Format::Html), Just(Format::Text)],
            max_tokens in MIN_TOKENS..60,
            overlap in 0..30usize,
            by_char in any::<bool>(),
        ) {
            let chars = |text: &str| text.chars().count();
            let count: &dyn Fn(&str) -> usize = if by_char { &chars } else { &words };
            let limits = ChunkLimits { max_tokens, overlap_tokens: overlap.min(max_tokens / 2) };
            let document = doc(format, &text);
            let chunks = chunk(&document, count, limits).unwrap();
            let body = if format == Format::Markdown { markdown::front_matter_end(&text) } else { 0 };
            check(&text, body, &chunks, count, max_tokens);
        }
    }
}
