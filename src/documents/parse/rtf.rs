//! Rich Text Format to text, by the Rich Text Format Specification 1.9.1: paragraphs, tables with tabs between their
//! cells, footnotes in brackets. Styles, pictures, headers and footers, and hidden or deleted text are left out.

use std::collections::HashMap;

use encoding_rs::{BIG5, EUC_KR, Encoding, GBK, MACINTOSH, SHIFT_JIS, UTF_8, WINDOWS_1252};

use super::{Format, NO_TEXT, ParseError, ParseLimits, ParsedDocument, plausible_title};

/// Groups ("destinations") that are no part of the text.
const SKIPPED: &[&str] = &[
    "colortbl",
    "stylesheet",
    "pict",
    "object",
    "header",
    "headerl",
    "headerr",
    "headerf",
    "footer",
    "footerl",
    "footerr",
    "footerf",
    "listtable",
    "listoverridetable",
    "rsidtbl",
    "generator",
    "xmlnstbl",
    "fldinst",
    "themedata",
    "colorschememapping",
    "datastore",
    "latentstyles",
    "filetbl",
    "revtbl",
    "nonshppict",
    "shppict",
    "bkmkstart",
    "bkmkend",
    "annotation",
    "atnid",
    "atnauthor",
    "pntext",
    "listtext",
    "pnseclvl",
    "ftnsep",
    "ftnsepc",
    "aftnsep",
    "aftnsepc",
    "private",
    "operator",
    "author",
    "company",
    "keywords",
    "comment",
    "doccomm",
    "subject",
    "category",
    "manager",
    "hlinkbase",
    "creatim",
    "revtim",
    "printim",
    "buptim",
];

/// Converts a document.
///
/// # Errors
/// [`ParseError`] where it has no text, is cut off before its text, or nests too deep.
pub(super) fn parse(bytes: &[u8], limits: &ParseLimits) -> Result<ParsedDocument, ParseError> {
    let mut reader = Reader::new();
    let mut at = 0;
    while at < bytes.len() {
        at = reader.step(bytes, at);
        if reader.stack.len() > limits.max_nesting {
            return Err(ParseError::Malformed {
                format: "RTF",
                reason: format!("its groups are nested more than {} deep", limits.max_nesting),
            });
        }
        limits.check_text(reader.text.len())?;
    }
    reader.flush();
    let text = reader.text.trim();
    if text.is_empty() {
        return Err(NO_TEXT);
    }
    Ok(ParsedDocument::new(Format::Rtf, plausible_title(&reader.title), text.to_owned()))
}

/// Where the characters of a group go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Text,
    Title,
    Fonts,
    Info,
    Nowhere,
}

/// What holds in a group until its end.
#[derive(Clone, Copy)]
struct Group {
    to: To,
    /// Encoding of bytes beyond ASCII.
    encoding: &'static Encoding,
    /// Characters that follow each `\u` for readers that do not know it.
    fallback: usize,
    /// Hidden or deleted.
    hidden: bool,
    footnote: bool,
    /// The font being defined, in the table of fonts.
    font: i32,
    /// Whether the next control word names what an old reader may skip.
    optional: bool,
}

struct Reader {
    text: String,
    title: String,
    group: Group,
    stack: Vec<Group>,
    /// Encodings of the fonts.
    fonts: HashMap<i32, &'static Encoding>,
    /// Encoding of the document.
    encoding: &'static Encoding,
    /// Bytes of the group's encoding, not yet decoded.
    bytes: Vec<u8>,
    /// A first half of a surrogate pair.
    high: Option<u16>,
    /// Characters to leave out after a `\u`.
    skip: usize,
}

impl Reader {
    fn new() -> Self {
        let group = Group {
            to: To::Text,
            encoding: WINDOWS_1252,
            fallback: 1,
            hidden: false,
            footnote: false,
            font: 0,
            optional: false,
        };
        Reader {
            text: String::new(),
            title: String::new(),
            group,
            stack: Vec::new(),
            fonts: HashMap::new(),
            encoding: WINDOWS_1252,
            bytes: Vec::new(),
            high: None,
            skip: 0,
        }
    }

    /// Takes what stands at `at`; returns where to go on.
    fn step(&mut self, bytes: &[u8], at: usize) -> usize {
        match bytes[at] {
            b'{' => {
                self.flush();
                self.skip = 0;
                self.stack.push(self.group);
                self.group.footnote = false;
                at + 1
            }
            b'}' => {
                self.flush();
                self.skip = 0;
                if self.group.footnote {
                    self.push(")");
                }
                if let Some(group) = self.stack.pop() {
                    self.group = group;
                }
                at + 1
            }
            b'\\' => self.control(bytes, at + 1),
            b'\r' | b'\n' => at + 1,
            byte => {
                self.byte(byte);
                at + 1
            }
        }
    }

    /// A control word or symbol, after its backslash.
    fn control(&mut self, bytes: &[u8], at: usize) -> usize {
        let Some(&first) = bytes.get(at) else { return at };
        if !first.is_ascii_alphabetic() {
            match first {
                b'\'' => {
                    let digits = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
                    if let Some(byte) = digits.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                        self.byte(byte);
                        return at + 3;
                    }
                }
                b'*' => self.group.optional = true,
                b'~' => self.push(" "),
                b'_' => self.push("-"),
                b'\r' | b'\n' => self.push("\n"),
                b'\\' | b'{' | b'}' => self.byte(first),
                _ => {}
            }
            return at + 1;
        }
        let letters = bytes[at..].iter().take(32).take_while(|b| b.is_ascii_alphabetic()).count();
        let word = std::str::from_utf8(&bytes[at..at + letters]).unwrap_or_default();
        let mut end = at + letters;
        let sign = usize::from(bytes.get(end) == Some(&b'-'));
        let digits = bytes[(end + sign).min(bytes.len())..].iter().take(10).take_while(|b| b.is_ascii_digit()).count();
        let number = (digits > 0).then(|| {
            let text = std::str::from_utf8(&bytes[end..end + sign + digits]).unwrap_or_default();
            text.parse::<i64>().unwrap_or_default()
        });
        if digits > 0 {
            end += sign + digits;
        }
        if bytes.get(end) == Some(&b' ') {
            end += 1;
        }
        if word == "bin" {
            // So many bytes of anything follow.
            return end.saturating_add(number.unwrap_or_default().max(0) as usize).min(bytes.len());
        }
        self.word(word, number);
        end
    }

    fn word(&mut self, word: &str, number: Option<i64>) {
        let optional = std::mem::take(&mut self.group.optional);
        match word {
            "u" => {
                self.flush_bytes();
                // Signed 16 bits, so that U+8000 and above are negative.
                self.unit(number.unwrap_or_default() as u16);
                self.skip = self.group.fallback;
            }
            "uc" => self.group.fallback = number.unwrap_or(1).clamp(0, 16) as usize,
            "par" | "line" | "sect" | "page" | "row" | "nestrow" => self.push("\n"),
            "tab" | "cell" | "nestcell" => self.push("\t"),
            "emdash" => self.push("\u{2014}"),
            "endash" => self.push("\u{2013}"),
            "lquote" => self.push("\u{2018}"),
            "rquote" => self.push("\u{2019}"),
            "ldblquote" => self.push("\u{201c}"),
            "rdblquote" => self.push("\u{201d}"),
            "bullet" => self.push("\u{2022}"),
            "emspace" | "enspace" | "qmspace" => self.push(" "),
            "v" | "deleted" => {
                self.flush();
                self.group.hidden = number != Some(0);
            }
            "plain" => {
                self.flush();
                self.group.hidden = false;
                self.group.encoding = self.encoding;
            }
            "mac" => self.code_page(10_000),
            "ansicpg" => self.code_page(number.unwrap_or_default()),
            "f" => {
                self.flush();
                let font = number.unwrap_or_default() as i32;
                match self.group.to {
                    To::Fonts => self.group.font = font,
                    _ => self.group.encoding = self.fonts.get(&font).copied().unwrap_or(self.encoding),
                }
            }
            "fcharset" if self.group.to == To::Fonts => {
                if let Some(encoding) = number.and_then(charset) {
                    self.fonts.insert(self.group.font, encoding);
                }
            }
            "fonttbl" => self.group.to = To::Fonts,
            "info" => self.group.to = To::Info,
            "title" if self.group.to == To::Info => self.group.to = To::Title,
            "footnote" => {
                self.push(" (");
                self.group.footnote = true;
            }
            // The result of a field, and shapes with text in them, are marked as optional and are text.
            "fldrslt" | "shptxt" | "shpinst" | "shp" => {}
            word if optional || SKIPPED.contains(&word) => {
                self.flush();
                self.group.to = To::Nowhere;
            }
            _ => {}
        }
    }

    fn code_page(&mut self, number: i64) {
        self.flush();
        if let Some(encoding) = encoding(number) {
            self.encoding = encoding;
            self.group.encoding = encoding;
        }
    }

    /// A byte of text in the group's encoding.
    fn byte(&mut self, byte: u8) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.high = None;
        self.bytes.push(byte);
    }

    /// A UTF-16 code unit.
    fn unit(&mut self, unit: u16) {
        let units = [self.high.take().unwrap_or_default(), unit];
        match unit {
            0xd800..=0xdbff => self.high = Some(unit),
            0xdc00..=0xdfff => {
                let text = String::from_utf16_lossy(&units);
                self.write(&text);
            }
            _ => self.write(&String::from_utf16_lossy(&units[1..])),
        }
    }

    /// Text that is no byte of the document.
    fn push(&mut self, text: &str) {
        self.flush();
        self.skip = 0;
        self.write(text);
    }

    fn write(&mut self, text: &str) {
        match self.group.to {
            _ if self.group.hidden => {}
            To::Text => self.text.push_str(text),
            To::Title => self.title.push_str(text),
            To::Fonts | To::Info | To::Nowhere => {}
        }
    }

    /// Decodes the bytes so far.
    fn flush(&mut self) {
        self.high = None;
        self.flush_bytes();
    }

    fn flush_bytes(&mut self) {
        if !self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            let (text, _) = self.group.encoding.decode_without_bom_handling(&bytes);
            // Control characters are not for a reader, and line ends are control words.
            let text: String = text.chars().filter(|c| !c.is_control() || *c == '\t').collect();
            self.write(&text);
        }
    }
}

/// The encoding of a Windows code page; `None` for one that no page of text uses today.
fn encoding(code_page: i64) -> Option<&'static Encoding> {
    Some(match code_page {
        932 => SHIFT_JIS,
        936 | 54936 => GBK,
        949 | 1361 => EUC_KR,
        950 => BIG5,
        10_000 => MACINTOSH,
        65_001 => UTF_8,
        page => return Encoding::for_label(format!("windows-{page}").as_bytes()),
    })
}

/// The encoding of a font's character set.
fn charset(number: i64) -> Option<&'static Encoding> {
    encoding(match number {
        0 => 1252,
        77 => 10_000,
        128 => 932,
        129 | 130 => 949,
        134 => 936,
        136 => 950,
        161 => 1253,
        162 => 1254,
        163 => 1258,
        177 => 1255,
        178 => 1256,
        186 => 1257,
        204 => 1251,
        222 => 874,
        238 => 1250,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(rtf: &str) -> String {
        parse(rtf.as_bytes(), &ParseLimits::default()).expect("text").text
    }

    #[test]
    fn characters_of_all_kinds_are_read() {
        assert_eq!(text(r"{\rtf1\ansi\ansicpg1252 Caf\'e9 5 \'80 \{a\\b\}}"), "Café 5 € {a\\b}");
        assert_eq!(text(r"{\rtf1 \u8364? \u-10179?\u-8704? x}"), "€ 😀 x");
        assert_eq!(text(r"{\rtf1\uc2 \u8364ab\'20c}"), "€ c");
        assert_eq!(text(r"{\rtf1{\fonttbl{\f0\fcharset204 Arial;}}\f0 \'cf\'f0\'e8\'e2\'e5\'f2}"), "Привет");
        assert_eq!(text(r"{\rtf1\ansicpg932 \'93\'fa\'96\'7b}"), "日本");
    }

    #[test]
    fn paragraphs_tables_and_notes_keep_their_places() {
        assert_eq!(text("{\\rtf1 one\\par\ntwo\\tab three\\line four}"), "one\ntwo\tthree\nfour");
        assert_eq!(text(r"{\rtf1\trowd a\cell b\cell\row c\cell d\cell\row}"), "a\tb\t\nc\td");
        assert_eq!(text(r"{\rtf1 text{\footnote a note} goes on}"), "text (a note) goes on");
        assert_eq!(text(r#"{\rtf1 see {\field{\*\fldinst HYPERLINK "x"}{\fldrslt here}}}"#), "see here");
    }

    #[test]
    fn what_is_not_text_is_left_out() {
        let rtf = r"{\rtf1{\fonttbl{\f0 Arial;}}{\colortbl;\red1;}{\stylesheet{\s1 Normal;}}{\*\generator X;}{\info{\title The Title}{\author Me}}{\pict 0a0b}{\header Page}a {\v secret}b\bin3 {}}c}";
        let parsed = parse(rtf.as_bytes(), &ParseLimits::default()).unwrap();
        assert_eq!((parsed.text.as_str(), parsed.title.as_deref()), ("a bc", Some("The Title")));
    }

    #[test]
    fn nesting_is_bounded_and_an_empty_document_says_so() {
        let deep = "{".repeat(100_000);
        assert!(matches!(parse(deep.as_bytes(), &ParseLimits::default()), Err(ParseError::Malformed { .. })));
        for empty in [r"{\rtf1 }", r"{\rtf1 \u0 \u13 }"] {
            let input = super::super::ParseInput { name: "a.rtf", media_type: None, bytes: empty.as_bytes() };
            let parsed = super::super::parse(&input, &ParseLimits::default());
            assert!(matches!(parsed, Err(ParseError::Empty(_))), "{empty}: {parsed:?}");
        }
    }
}
