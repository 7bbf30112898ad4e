//! Pages of HTML. Input: the page.
#![no_main]

use answerd_fuzz::documents::Format;
use answerd_fuzz::documents::chunk::ChunkLimits;
use answerd_fuzz::documents::parse::is_risky;
use answerd_fuzz::harness::{check_chunks, parse_document, words};
use libfuzzer_sys::fuzz_target;

/// How much longer than its page a text can be: each of 16 lists or quotes within each other indents every line.
const MOST_GROWTH: usize = 64;

fuzz_target!(|page: &[u8]| {
    if is_risky(page) {
        return;
    }
    let Some(parsed) = parse_document("a.html", Some("text/html"), page) else { return };
    if parsed.format == Format::Html {
        let (from, to) = (page.len(), parsed.text.len());
        assert!(to <= from * MOST_GROWTH, "{from} bytes became {to}: {:.400}", parsed.text);
    }
    check_chunks(&parsed, &words, ChunkLimits { max_tokens: 64, overlap_tokens: 16 });
});
