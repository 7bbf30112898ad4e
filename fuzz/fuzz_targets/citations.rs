//! The check of an answer's citations, while it streams.
//!
//! Input: passages, and last what the model says, between separators.
#![no_main]

use answerd_fuzz::answer::citation::{Citations, Report};
use answerd_fuzz::harness::texts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut passages: Vec<String> = texts(input).map(|text| text.into_owned()).collect();
    let said = passages.pop().unwrap_or_default();
    let (shown, report) = check(&passages, &said, said.len().max(1));
    for size in [1, 2, 7] {
        assert_eq!(check(&passages, &said, size), (shown.clone(), report.clone()), "in pieces of {size}");
    }
    assert!(report.cited.windows(2).all(|two| two[0] < two[1]), "{report:?}");
    for n in &report.cited {
        assert!((1..=passages.len()).contains(n), "{report:?} of {} passages", passages.len());
        assert!(shown.contains(&format!("[{n}]")), "{n} is reported and not shown: {shown:?}");
    }
    assert!(report.kept + report.added >= report.cited.len(), "{report:?}");
    if !said.contains('`') {
        for part in shown.split('[').skip(1) {
            let Some((inside, _)) = part.split_once(']') else { continue };
            // What has a sign is read as a number here, and as a citation by nobody.
            let number: Option<usize> = inside.parse().ok().filter(|_| !inside.starts_with('+'));
            assert!(number.is_none_or(|n| report.cited.contains(&n)), "[{inside}] was not checked: {shown:?}");
        }
    }
});

/// What is shown of a text that comes in pieces of so many bytes, about.
fn check(passages: &[String], said: &str, size: usize) -> (String, Report) {
    let mut citations = Citations::new(passages.to_vec());
    let mut shown = String::new();
    let mut from = 0;
    while from < said.len() {
        let to = said.ceil_char_boundary(from + size);
        shown.push_str(&citations.push(&said[from..to]));
        from = to;
    }
    let (rest, report) = citations.finish();
    (shown + &rest, report)
}
