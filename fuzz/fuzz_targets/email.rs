//! E-mail messages. Input: what follows the first two headers.
#![no_main]

use answerd_fuzz::harness::{parse_contained, tell_libraries_apart};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: tell_libraries_apart(), |input: &[u8]| {
    parse_contained("a.eml", &[b"From: a@example.com\r\nMIME-Version: 1.0\r\n", input].concat());
});
