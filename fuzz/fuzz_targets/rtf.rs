//! Rich Text Format. Input: what follows `{\rtf1`.
#![no_main]

use answerd_fuzz::harness::parse_document;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    parse_document("a.rtf", None, &[b"{\\rtf1", input].concat());
});
