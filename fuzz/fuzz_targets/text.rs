//! Documents of text: their encoding, which format it is, and Markdown, CSV, HTML and plain text themselves.
//!
//! Input: `name|media type` on the first line, and then the document.
#![no_main]

use answerd_fuzz::documents::chunk::ChunkLimits;
use answerd_fuzz::documents::parse::{essence, is_risky, supported_extension};
use answerd_fuzz::harness::{check_chunks, first_line, parse_document, words};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (hints, bytes) = first_line(input);
    let hints = String::from_utf8_lossy(hints);
    let (name, media_type) = hints.split_once('|').unwrap_or((&hints, ""));
    supported_extension(name.as_ref());
    essence(media_type);
    // Those have targets of their own.
    if is_risky(bytes) {
        return;
    }
    if let Some(parsed) = parse_document(name, Some(media_type).filter(|given| !given.is_empty()), bytes) {
        check_chunks(&parsed, &words, ChunkLimits { max_tokens: 40, overlap_tokens: 8 });
    }
});
