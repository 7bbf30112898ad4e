//! DOCX, PPTX and XLSX. Input: an archive, or the files for one (see `harness::archive`).
//!
//! The library behind it, undoc, can hang and take any memory: that is contained in the service, and this target is not
//! among those that `make fuzz` fails with.
#![no_main]

use answerd_fuzz::harness::{archive, parse_contained, tell_libraries_apart};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: tell_libraries_apart(), |input: &[u8]| {
    parse_contained("a.docx", &archive(input));
});
