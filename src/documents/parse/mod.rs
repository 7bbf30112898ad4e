//! Bytes of any supported format to a [`ParsedDocument`]; one file a format does the work:
//!
//! - `detect` and `media_type`: which format it is, by the content and then by what the publisher says
//! - `text`: character encodings, and whether it is text at all
//! - `markdown`: front matter, title, headings
//! - `html`: main content as Markdown, after `html_subset` has bounded what it costs
//! - `pdf`, `office`, `odt`, `epub`, `rtf`, `email`: their text, as Markdown where it has headings or lists
//! - `csv` and `records`: tables of data as lines that stand alone
//! - `archive` and `xml`: what office documents and books are packed in
//!
//! Nothing here reads a file or the network. Text and HTML are parsed in bounded time and memory whatever the input;
//! the large libraries behind the other formats promise no such thing, so [`is_risky`] says for which documents the
//! caller has to contain them.

mod archive;
mod csv;
mod detect;
mod email;
mod epub;
pub mod html;
mod html_subset;
mod html_table;
mod html_tag;
pub mod markdown;
mod media_type;
mod odt;
mod office;
mod pdf;
mod records;
mod rtf;
pub mod text;
mod xml;

pub use detect::{is_risky, supported_extension};
pub use media_type::essence;

use self::detect::Binary;
use self::media_type::MediaType;
use super::{Format, PageStart, ParsedDocument, excerpt};

/// What the formats are called in errors.
const SUPPORTED: &str = "PDF, DOCX, PPTX, XLSX, ODT, RTF, EPUB, e-mail (EML), CSV, HTML, Markdown and plain text";

/// Why a document with pages of pictures is refused.
const NO_TEXT: ParseError = ParseError::Empty("it has no text, only pictures at most");

/// A document before parsing.
#[derive(Debug, Clone, Copy)]
pub struct ParseInput<'a> {
    /// Document id or file name; its extension is a hint.
    pub name: &'a str,
    /// Media type somebody declared, parameters included; a hint too.
    pub media_type: Option<&'a str>,
    /// The bytes as published.
    pub bytes: &'a [u8],
}

/// What one document may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ParseLimits {
    /// Most bytes of text (UTF-8) a document may have after parsing.
    pub max_text_bytes: usize,
    /// Most elements nested in each other; 256 is plenty for any real page.
    pub max_nesting: usize,
    /// Most pages or slides.
    pub max_pages: usize,
    /// Most bytes that the files in an archive (DOCX, PPTX, XLSX, ODT, EPUB) may have together once unpacked.
    pub max_unpacked_bytes: u64,
}

impl Default for ParseLimits {
    /// 16 MiB of text, 256 levels, 10,000 pages, 256 MiB unpacked.
    fn default() -> Self {
        ParseLimits {
            max_text_bytes: 16 * 1024 * 1024,
            max_nesting: 256,
            max_pages: 10_000,
            max_unpacked_bytes: 256 * 1024 * 1024,
        }
    }
}

impl ParseLimits {
    /// # Errors
    /// [`ParseError::TooLarge`] for more bytes of text than allowed.
    fn check_text(&self, bytes: usize) -> Result<(), ParseError> {
        match bytes > self.max_text_bytes {
            true => Err(ParseError::TooLarge { bytes, limit: self.max_text_bytes }),
            false => Ok(()),
        }
    }
}

/// Why a document could not be parsed; the text is for its publisher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Nothing to read in it.
    #[error("the document is empty: {0}")]
    Empty(&'static str),
    /// A format answerd does not read.
    #[error("the document is {found}, which is not supported; supported are {SUPPORTED}")]
    Unsupported {
        /// What it was found or declared to be.
        found: String,
    },
    /// One format was declared, and the bytes are something else that cannot be read.
    #[error("the document is {expected}, but its content is {found}; supported are {SUPPORTED}")]
    Mismatch {
        /// What was declared, or the document's name.
        expected: String,
        /// What the bytes look like.
        found: &'static str,
    },
    /// It opens with a password only.
    #[error("the document is protected with a password; publish it without one")]
    Protected,
    /// Longer than [`ParseLimits::max_text_bytes`].
    #[error(
        "the document has at least {bytes} bytes of text, and the limit is {limit}; split it into several documents"
    )]
    TooLarge {
        /// Length of the text, as far as it was read.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// More pages than [`ParseLimits::max_pages`].
    #[error("the document has {pages} pages, and the limit is {limit}; split it into several documents")]
    TooManyPages {
        /// Pages or slides of it.
        pages: usize,
        /// The limit.
        limit: usize,
    },
    /// An archive that unpacks to more than [`ParseLimits::max_unpacked_bytes`].
    #[error("the document is an archive that unpacks to too much: {0}")]
    Bomb(String),
    /// The format is right and the document breaks it in a way that cannot be read around.
    #[error("the document cannot be read as {format}: {reason}")]
    Malformed {
        /// Name of the format.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Parses a document.
///
/// # Errors
/// [`ParseError`], which says what was found and what to do.
pub fn parse(input: &ParseInput, limits: &ParseLimits) -> Result<ParsedDocument, ParseError> {
    let declared = input.media_type.map(MediaType::parse);
    if input.bytes.is_empty() {
        return Err(ParseError::Empty("it has no bytes"));
    }
    let parsed = match detect::binary(input.bytes, limits)? {
        Some(Binary::Format(format)) => parse_binary(input.bytes, format, limits)?,
        Some(Binary::Protected) => return Err(ParseError::Protected),
        Some(Binary::Other(found)) => {
            return Err(match &declared {
                Some(declared) if declared.format().is_some() => {
                    ParseError::Mismatch { expected: detect::expected(Some(declared), input.name), found }
                }
                _ => ParseError::Unsupported { found: found.to_owned() },
            });
        }
        None => parse_text(input, declared.as_ref(), limits)?,
    };
    limits.check_text(parsed.text.len())?;
    Ok(parsed)
}

fn parse_binary(bytes: &[u8], format: Format, limits: &ParseLimits) -> Result<ParsedDocument, ParseError> {
    let mut parsed = match format {
        Format::Pdf => pdf::parse(bytes, limits),
        Format::Odt => odt::parse(bytes, limits),
        Format::Epub => epub::parse(bytes, limits),
        Format::Rtf => rtf::parse(bytes, limits),
        format => office::parse(bytes, format, limits),
    }?;
    // The libraries pass on what a document holds. One character for one, so that pages stay where they start.
    if parsed.text.contains(['\0', '\r']) {
        parsed.text = parsed.text.replace(['\0', '\r'], " ");
        if parsed.text.trim().is_empty() {
            return Err(NO_TEXT);
        }
    }
    Ok(parsed)
}

fn parse_text(
    input: &ParseInput,
    declared: Option<&MediaType>,
    limits: &ParseLimits,
) -> Result<ParsedDocument, ParseError> {
    if let Some(declared) = declared
        && declared.format().is_none()
        && !declared.is_unknown()
    {
        return Err(ParseError::Unsupported { found: excerpt(&declared.essence).into_owned() });
    }
    // A page's own charset is asked for in any text: it counts only where the bytes are not UTF-8.
    let charset = declared
        .and_then(|d| d.charset.clone())
        .or_else(|| html::charset(&input.bytes[..input.bytes.len().min(html::CHARSET_WINDOW)]));
    let text = text::decode(input.bytes, charset.as_deref());
    if text.trim().is_empty() {
        return Err(ParseError::Empty("it has no characters but white space"));
    }
    let format = detect::text(&text, declared, input);
    // Messages carry attachments of any kind, encoded or not.
    if format != Ok(Format::Email)
        && let Some(found) = text::not_text(&text)
    {
        return Err(ParseError::Mismatch { expected: detect::expected(declared, input.name), found });
    }
    match format? {
        Format::Html => html::parse(&text, limits),
        Format::Markdown => Ok(ParsedDocument::new(Format::Markdown, markdown::title(&text), text)),
        Format::Email => email::parse(input.bytes, limits),
        Format::Csv => match csv::delimiter(&text) {
            Some(delimiter) => csv::parse(&text, delimiter, limits),
            None => Ok(ParsedDocument::new(Format::Text, None, text)),
        },
        _ => Ok(ParsedDocument::new(Format::Text, None, text)),
    }
}

/// Adds a page, slide or chapter to a text; returns where it starts.
///
/// # Errors
/// [`ParseError::TooLarge`] where the text gets longer than allowed.
fn append(text: &mut String, part: &str, limits: &ParseLimits) -> Result<usize, ParseError> {
    limits.check_text(text.len() + part.len())?;
    if !text.is_empty() {
        text.push_str("\n\n");
    }
    let start = text.len();
    text.push_str(part);
    Ok(start)
}

/// A title that a program did not make up: editors put a file's name or "Untitled" into the document's properties.
fn plausible_title(title: &str) -> Option<String> {
    let title = markdown::tidy_title(&title.replace('\0', ""));
    let lower = title.to_lowercase();
    let made_up = lower.starts_with("microsoft word - ")
        || lower.starts_with("untitled")
        || ["doc", "docx", "dot", "pdf", "ppt", "pptx", "xls", "xlsx", "odt", "rtf", "qxd", "indd", "tmp"]
            .iter()
            .any(|extension| lower.strip_suffix(extension).is_some_and(|stem| stem.ends_with('.')))
        || !title.chars().any(char::is_alphabetic);
    (!made_up).then_some(title)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use proptest::prelude::*;

    fn run(name: &str, media_type: Option<&str>, bytes: &[u8]) -> Result<ParsedDocument, ParseError> {
        parse(&ParseInput { name, media_type, bytes }, &ParseLimits::default())
    }

    fn format(name: &str, media_type: Option<&str>, text: &str) -> Format {
        run(name, media_type, text.as_bytes()).unwrap().format
    }

    #[test]
    fn the_content_decides_where_it_says_html() {
        for start in ["<!DOCTYPE html><p>x", "\n <HTML lang=en><p>x", "<?xml version='1.0'?>\n<!-- c -->\n<html><p>x"] {
            assert_eq!(format("a.txt", Some("text/plain"), start), Format::Html, "{start:?}");
        }
        assert_eq!(format("a", None, "<htmlish>"), Format::Text);
    }

    #[test]
    fn media_type_and_extension_are_hints_in_that_order() {
        assert_eq!(format("a.txt", Some("Text/Markdown; charset=utf-8"), "# x"), Format::Markdown);
        assert_eq!(format("a.md", Some("text/plain"), "# x"), Format::Markdown);
        assert_eq!(format("a.MD", None, "# x"), Format::Markdown);
        assert_eq!(format("a.md", Some("text/html"), "<p>x"), Format::Html);
        assert_eq!(format("a.html", Some("application/octet-stream"), "<p>x"), Format::Html);
        assert_eq!(format("a.html", None, "no tag, 1 < 2"), Format::Text);
        assert_eq!(format("a", None, "# x"), Format::Text);
        assert_eq!(format("a", Some("text/csv"), "a,b\n1,2"), Format::Csv);
        assert_eq!(format("a.csv", Some("text/plain"), "a,b\n1,2"), Format::Csv);
        assert_eq!(format("a.csv", None, "no table here"), Format::Text);
        assert_eq!(format("a.txt", None, "a,b\n1,2"), Format::Text);
        assert_eq!(format("a.pdf", Some("text/plain"), "text"), Format::Text);
    }

    #[test]
    fn binary_declared_as_text_is_refused_with_what_it_looks_like() {
        let png = run("a.md", Some("text/markdown"), b"\x89PNG\r\n\x1a\n").unwrap_err();
        assert_eq!(
            png.to_string(),
            format!(
                "the document is declared as text/markdown, but its content is a PNG image; supported are {SUPPORTED}"
            )
        );
        for (bytes, word) in [
            (b"PK\x05\x06....".as_slice(), "ZIP"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\x7fELF\x02", "ELF"),
            (b"MZ\x90\0\x03", "Windows"),
            (b"abc\0def", "NUL"),
            (b"\x01\x02\x03\x04\x05abc", "control"),
        ] {
            let error = run("a.txt", Some("text/plain"), bytes).unwrap_err();
            assert!(matches!(error, ParseError::Mismatch { .. }), "{error:?}");
            assert!(error.to_string().contains(word), "{error}");
        }
        let error = run(&format!("{}ä.pdf", "ü".repeat(5000)), None, b"text").unwrap_err().to_string();
        assert!(error.contains("üä.pdf\", but its content is text") && error.len() < 600, "{error}");
    }

    #[test]
    fn a_format_that_is_not_read_is_named_with_those_that_are() {
        for (media_type, bytes) in [
            (Some("image/png"), b"text".as_slice()),
            (Some("application/zip"), b"PK\x05\x06"),
            (None, b"\xff\xd8\xff\xe0"),
        ] {
            let error = run("a", media_type, bytes).unwrap_err();
            assert!(matches!(error, ParseError::Unsupported { .. }), "{error:?}");
            assert!(error.to_string().contains(SUPPORTED));
        }
    }

    #[test]
    fn empty_and_oversized_documents_are_refused() {
        assert!(matches!(run("a.md", None, b""), Err(ParseError::Empty(_))));
        assert!(matches!(run("a.md", None, b"\xef\xbb\xbf \r\n\t"), Err(ParseError::Empty(_))));
        let limits = ParseLimits { max_text_bytes: 10, ..ParseLimits::default() };
        let input = ParseInput { name: "a.txt", media_type: None, bytes: b"12345678901" };
        assert_eq!(parse(&input, &limits), Err(ParseError::TooLarge { bytes: 11, limit: 10 }));
    }

    #[test]
    fn a_markdown_document_keeps_its_text_and_states_its_title() {
        let parsed = run("a.md", None, b"# T\r\n\r\nbody\r\n").unwrap();
        assert_eq!(parsed, ParsedDocument::new(Format::Markdown, Some("T".into()), "# T\n\nbody\n".into()));
    }

    #[test]
    fn a_charset_in_the_media_type_or_the_page_is_used() {
        let parsed = run("a", Some("text/plain; charset=\"windows-1251\""), b"\xcf\xf0\xe8\xe2\xe5\xf2").unwrap();
        assert_eq!(parsed.text, "Привет");
        let parsed = run("a", None, b"<html><meta charset=windows-1251><body>\xcf\xf0\xe8\xe2\xe5\xf2").unwrap();
        assert_eq!(parsed.text, "Привет");
    }

    #[test]
    fn what_is_parsed_as_a_message_is_contained_as_one() {
        let message = "From: a@example.com\r\nMIME-Version: 1.0\r\nSubject: Hello\r\n\r\nText\r\n";
        let utf16: Vec<u8> =
            "\u{feff}".encode_utf16().chain(message.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        let marked = format!("\u{feff}{message}");
        for (bytes, format) in
            [(message.as_bytes(), Format::Email), (marked.as_bytes(), Format::Email), (&utf16, Format::Text)]
        {
            let parsed = run("a", None, bytes).unwrap();
            assert_eq!((parsed.format, is_risky(bytes)), (format, format == Format::Email));
            assert!(parsed.text.contains("Subject: Hello"), "{}", parsed.text);
        }
    }

    #[test]
    fn folders_offer_files_of_known_extensions_only() {
        for (name, yes) in [
            ("a.md", true),
            ("x/a.HTML", true),
            ("a.log", true),
            ("a.pdf", true),
            ("a.png", false),
            ("md", false),
            (".md", false),
        ] {
            assert_eq!(supported_extension(Path::new(name)), yes, "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn no_bytes_and_no_declaration_make_it_panic(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..300),
                "(<!doctype html>)?(</?(p|div|table|tr|td|th|ul|ol|li|pre|code|b|span|svg|title|h1|main|nav|template|select|script)( hidden| class='language-x y'| start=3)?/?>|[a-z|`*\n <>&\"'-]{0,6}|<!--|-->|&amp;){0,60}".prop_map(String::into_bytes),
            ],
            name in "[a-z]{0,3}(\\.(md|html|txt|pdf))?",
            media_type in proptest::option::of("(text/(plain|html|markdown)|application/(pdf|octet-stream)|[ -~]{0,10})(; ?charset=(utf-8|utf-16le|gbk|[ -~]{0,8}))?"),
        ) {
            let limits = ParseLimits::default();
            if let Ok(parsed) = parse(&ParseInput { name: &name, media_type: media_type.as_deref(), bytes: &bytes }, &limits) {
                prop_assert!(!parsed.text.trim().is_empty());
                prop_assert!(!parsed.text.contains(['\r', '\0']));
            }
        }
    }
}
