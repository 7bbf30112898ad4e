//! What a model's server says: the events of a stream, its errors; and how text is made of it, up to a stop text.
//!
//! Input: two stop texts, and the bytes of the response, between separators.
#![no_main]

use answerd_fuzz::harness::parts;
use answerd_fuzz::models::openai::events::{Chunk, chunks, error_text};
use answerd_fuzz::models::text::TextOut;
use futures_util::{FutureExt, StreamExt, stream};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut parts = parts(input).map(<[u8]>::to_vec);
    let stop: Vec<String> = parts.by_ref().take(2).map(|text| String::from_utf8_lossy(&text).into_owned()).collect();
    let response = parts.next().unwrap_or_default();
    let all = read(&response, response.len().max(1));
    for size in [1, 3, 16] {
        assert_eq!(seen(&read(&response, size)), seen(&all), "in pieces of {size}");
    }
    for error in all.iter().filter_map(|chunk| chunk.as_ref().err()) {
        assert!(error.chars().count() < 400, "{error}");
    }
    error_text(&String::from_utf8_lossy(&response));

    let said: Vec<&str> = all.iter().flatten().map(Chunk::text).collect();
    check_text(&stop, &said.iter().map(|text| text.as_bytes()).collect::<Vec<_>>());
    check_text(&stop, &response.chunks(3).collect::<Vec<_>>());
});

fn read(response: &[u8], size: usize) -> Vec<Result<Chunk, String>> {
    let pieces: Vec<_> = response.chunks(size).map(|piece| Ok(piece.to_vec().into())).collect();
    // Nobody reads on after an error.
    let mut failed = false;
    let read = chunks(stream::iter(pieces)).take_while(move |chunk| {
        let goes_on = !failed;
        failed = chunk.is_err();
        std::future::ready(goes_on)
    });
    read.collect().now_or_never().expect("nothing to wait for")
}

fn seen(chunks: &[Result<Chunk, String>]) -> Vec<String> {
    chunks.iter().map(|chunk| format!("{chunk:?}")).collect()
}

/// Pieces of text in, text out: all of it, or up to the first stop text.
fn check_text(stop: &[String], pieces: &[&[u8]]) {
    let mut out = TextOut::new(stop.to_vec());
    let mut shown = String::new();
    let mut stopped = false;
    let mut given = Vec::new();
    for piece in pieces {
        given.extend_from_slice(piece);
        let (text, stops) = out.push(piece);
        shown.push_str(&text);
        stopped = stops;
        if stopped {
            break;
        }
    }
    shown.push_str(&out.finish());
    let given = String::from_utf8_lossy(&given);
    let stop = stop.iter().filter(|stop| !stop.is_empty());
    let first = stop.clone().filter_map(|stop| given.find(stop.as_str())).min();
    match first {
        Some(at) if stopped => assert_eq!(shown, given[..at]),
        // Cut within a character, of which nothing is shown.
        _ => assert!(!stopped && given.trim_end_matches('\u{fffd}').starts_with(shown.trim_end_matches('\u{fffd}'))),
    }
    assert!(!stop.clone().any(|stop| shown.contains(stop.as_str())), "{shown:?}");
}
