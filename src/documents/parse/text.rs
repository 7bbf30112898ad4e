//! Bytes to text: which character encoding it is, and whether it is text at all.
//! [`super`] asks here before it looks at any format. Never fails on an odd byte, and never hides
//! one: what no encoding explains becomes U+FFFD, and too much of that is reported as not text.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, ISO_2022_JP, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// Bytes looked at to tell UTF-16 without a byte order mark.
const UTF16_SAMPLE: usize = 4096;
/// Bytes given to the detector of legacy encodings; it is sure long before.
const DETECTOR_SAMPLE: usize = 256 * 1024;

/// Decodes `bytes`; `declared` is the label of an encoding somebody stated (`charset=`).
///
/// In this order: a byte order mark; UTF-16 told by its NUL bytes; UTF-8 where it is valid; the
/// declared encoding where it decodes without an error; UTF-8 with a few broken bytes (these
/// become U+FFFD); what the bytes themselves suggest, in the end Windows-1252. The byte order
/// mark is dropped, and CRLF and CR become LF, so that one text has one form and a blank line
/// is always `\n\n`.
pub fn decode(bytes: &[u8], declared: Option<&str>) -> String {
    let text = match Encoding::for_bom(bytes) {
        Some((encoding, length)) => decode_with(encoding, &bytes[length..]).0,
        None => decode_without_mark(bytes, declared),
    };
    normalise_newlines(text)
}

fn decode_without_mark(bytes: &[u8], declared: Option<&str>) -> String {
    if let Some(encoding) = utf16_by_nul_bytes(bytes) {
        return decode_with(encoding, bytes).0;
    }
    let declared = declared.and_then(|label| Encoding::for_label(label.trim().as_bytes()));
    // ISO-2022-JP is the one encoding in use whose bytes are valid UTF-8 and mean something else.
    if declared == Some(ISO_2022_JP) && bytes.contains(&0x1b) {
        return decode_with(ISO_2022_JP, bytes).0;
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    if let Some(encoding) = declared.filter(|&encoding| encoding != UTF_8)
        && let (text, false) = decode_with(encoding, bytes)
    {
        return text;
    }
    if is_damaged_utf8(bytes) {
        return decode_with(UTF_8, bytes).0;
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(&bytes[..bytes.len().min(DETECTOR_SAMPLE)], bytes.len() <= DETECTOR_SAMPLE);
    let guess = detector.guess(None, Utf8Detection::Deny);
    match decode_with(guess, bytes) {
        (text, false) => text,
        (_, true) => decode_with(WINDOWS_1252, bytes).0,
    }
}

/// The text, and whether some bytes had no meaning in that encoding.
fn decode_with(encoding: &'static Encoding, bytes: &[u8]) -> (String, bool) {
    let (text, damaged) = encoding.decode_without_bom_handling(bytes);
    (text.into_owned(), damaged)
}

/// UTF-16 of mostly Latin text: every other byte is NUL, and always the same one of a pair.
fn utf16_by_nul_bytes(bytes: &[u8]) -> Option<&'static Encoding> {
    let sample = &bytes[..bytes.len().min(UTF16_SAMPLE)];
    let pairs = sample.len() / 2;
    if pairs < 2 || bytes.len() % 2 == 1 {
        return None;
    }
    let (mut first, mut second) = (0, 0);
    for pair in sample.chunks_exact(2) {
        first += usize::from(pair[0] == 0);
        second += usize::from(pair[1] == 0);
    }
    let (many, few) = (pairs * 2 / 5, pairs / 20);
    if second > many && first <= few {
        Some(UTF_16LE)
    } else if first > many && second <= few {
        Some(UTF_16BE)
    } else {
        None
    }
}

/// UTF-8 with a few bad bytes (a cut in the middle of a character, a pasted byte): several
/// well-formed multi-byte characters for each bad sequence. Text in a legacy encoding hardly
/// ever forms one by chance.
fn is_damaged_utf8(bytes: &[u8]) -> bool {
    let (mut good, mut bad) = (0usize, 0usize);
    for chunk in bytes.utf8_chunks() {
        good += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        bad += usize::from(!chunk.invalid().is_empty());
    }
    good >= bad * 4
}

/// CRLF and CR to LF.
pub fn normalise_newlines(text: String) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }
}

/// What in a decoded text says that it is none: NUL characters, or more than one in twenty
/// characters being a control or replacement character. Escape and backspace are let through,
/// since logs are coloured with them.
pub fn not_text(text: &str) -> Option<&'static str> {
    let (mut odd, mut all) = (0usize, 0usize);
    for c in text.chars() {
        all += 1;
        match c {
            '\0' => return Some("binary data (it contains NUL bytes)"),
            '\t' | '\n' | '\r' | '\u{8}' | '\u{c}' | '\u{1b}' | '\u{85}' => {}
            '\u{fffd}' => odd += 1,
            c if c.is_control() => odd += 1,
            _ => {}
        }
    }
    (odd * 20 > all).then_some("binary data (many control or undecodable characters)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utf16(text: &str, big: bool) -> Vec<u8> {
        let pair = |u: u16| {
            if big { u.to_be_bytes() } else { u.to_le_bytes() }
        };
        text.encode_utf16().flat_map(pair).collect()
    }

    #[test]
    fn a_byte_order_mark_decides_and_is_dropped() {
        assert_eq!(decode(b"\xEF\xBB\xBFab", Some("latin1")), "ab");
        assert_eq!(decode(&[b"\xFF\xFE".as_slice(), &utf16("hé", false)].concat(), None), "hé");
        assert_eq!(decode(&[b"\xFE\xFF".as_slice(), &utf16("hé", true)].concat(), None), "hé");
    }

    #[test]
    fn utf16_without_a_mark_is_told_by_its_nul_bytes() {
        for big in [false, true] {
            assert_eq!(decode(&utf16("Plain text, größer.", big), None), "Plain text, größer.");
        }
    }

    #[test]
    fn valid_utf8_wins_over_a_wrong_declaration() {
        assert_eq!(decode("größer".as_bytes(), Some("iso-8859-1")), "größer");
    }

    #[test]
    fn a_declared_encoding_is_used_where_utf8_is_invalid() {
        assert_eq!(decode(b"\xcf\xf0\xe8\xe2\xe5\xf2", Some("windows-1251")), "Привет");
        assert_eq!(decode(b"\x1b$B$3\x1b(B", Some("iso-2022-jp")), "こ");
    }

    #[test]
    fn text_declared_as_utf8_that_is_windows_1252_is_read_as_such() {
        assert_eq!(decode(b"The caf\xe9 costs 5 \x80 a day", Some("utf-8")), "The café costs 5 € a day");
    }

    #[test]
    fn one_broken_byte_does_not_turn_utf8_into_mojibake() {
        let mut bytes = "Größe, Höhe, Länge, Fläche, Übermaß".as_bytes().to_vec();
        bytes.push(0xC3);
        assert_eq!(decode(&bytes, None), "Größe, Höhe, Länge, Fläche, Übermaß\u{fffd}");
    }

    #[test]
    fn line_ends_become_line_feeds() {
        assert_eq!(decode(b"a\r\nb\rc\n\r\n", None), "a\nb\nc\n\n");
    }

    #[test]
    fn coloured_logs_are_text_and_control_characters_are_not() {
        assert_eq!(not_text("\u{1b}[31merror\u{1b}[0m"), None);
        assert!(not_text("a\0b").unwrap().contains("NUL"));
        assert!(not_text("\u{1}\u{2}abc").is_some());
    }

    proptest! {
        #[test]
        fn utf8_text_survives_whatever_is_declared(text in "[^\\x00\\r\u{feff}]{0,80}", label in "utf-8|latin1|shift_jis|nonsense") {
            prop_assert_eq!(decode(text.as_bytes(), Some(&label)), text);
        }
    }
}
