//! The header of a model's file. Input: the file.
#![no_main]

use answerd_fuzz::harness::{MOST_ERROR_BYTES, with_file};
use answerd_fuzz::models::llama_cpp::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| match with_file(file, |path| check(&path)) {
    Ok(architecture) => {
        let longer = [file, &[0; 64]].concat();
        assert_eq!(with_file(&longer, |path| check(&path)), Ok(architecture), "with more bytes at its end");
    }
    Err(reason) => assert!(reason.len() <= MOST_ERROR_BYTES, "{} bytes: {reason:.200}", reason.len()),
});
