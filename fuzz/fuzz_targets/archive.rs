//! ODT, EPUB, and archives that are neither. Input: an archive, or the files for one (see `harness::archive`).
#![no_main]

use answerd_fuzz::harness::{archive, names_in, parse_contained, tell_libraries_apart};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: tell_libraries_apart(), |input: &[u8]| {
    let bytes = archive(input);
    let names = names_in(&bytes);
    let office = ["word/", "ppt/", "xl/"].iter().any(|folder| names.iter().any(|name| name.starts_with(folder)));
    // Office documents have a target of their own.
    if !office || names.iter().any(|name| name == "mimetype") {
        parse_contained("a.epub", &bytes);
    }
});
