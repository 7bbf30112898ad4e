//! Bytes of any supported format to a [`ParsedDocument`]. The ingestor calls [`parse`] on a compute
//! thread; one file a format does the work:
//!
//! - [`text`]: character encodings, and whether it is text at all
//! - [`markdown`]: front matter, title, headings
//! - [`html`]: main content as Markdown, after `html_subset` has bounded what it costs
//!
//! The format is decided by the content; media type and file extension are hints. Nothing here
//! reads a file or the network, and no input makes it panic or run without bound.

pub mod html;
mod html_subset;
mod html_table;
mod html_tag;
pub mod markdown;
pub mod text;

use std::path::Path;

use super::{Format, ParsedDocument};

/// What the formats are called in errors.
const SUPPORTED: &str = "Markdown, HTML and plain text";

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseLimits {
    /// Most bytes of text (UTF-8) a document may have after parsing.
    pub max_text_bytes: usize,
    /// Most HTML elements nested in each other; 256 is plenty for any real page.
    pub max_nesting: usize,
}

impl Default for ParseLimits {
    /// 16 MiB of text, 256 levels.
    fn default() -> Self {
        ParseLimits { max_text_bytes: 16 * 1024 * 1024, max_nesting: 256 }
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
    /// Text was declared or expected, and the bytes are something else.
    #[error("the document is {expected}, but its content is {found}; supported are {SUPPORTED}")]
    Binary {
        /// What was declared, or the document's name.
        expected: String,
        /// What the bytes look like.
        found: &'static str,
    },
    /// Longer than [`ParseLimits::max_text_bytes`].
    #[error("the document has {bytes} bytes of text, and the limit is {limit}; split it into several documents")]
    TooLarge {
        /// Length of the text.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The format is right and the document breaks it in a way that cannot be read around.
    #[error("the document cannot be read as {format}: {reason}")]
    Malformed {
        /// Name of the format.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Whether a file of this name is worth reading at all: used by whoever walks a folder.
pub fn supported_extension(path: &Path) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| format_of_extension(e).is_some())
}

fn format_of_extension(extension: &str) -> Option<Format> {
    match extension.to_ascii_lowercase().as_str() {
        "md" | "markdown" | "mdown" | "mkd" | "mkdn" | "mdx" => Some(Format::Markdown),
        "html" | "htm" | "xhtml" => Some(Format::Html),
        "txt" | "text" | "log" | "rst" | "adoc" | "asciidoc" | "org" => Some(Format::Text),
        _ => None,
    }
}

/// Parses a document.
///
/// # Errors
/// [`ParseError`], which says what was found and what to do.
pub fn parse(input: &ParseInput, limits: &ParseLimits) -> Result<ParsedDocument, ParseError> {
    let declared = input.media_type.map(MediaType::parse);
    let hint = match &declared {
        Some(declared) => declared.hint()?,
        None => None,
    };
    if let Some(found) = magic(input.bytes) {
        return Err(match &declared {
            Some(declared) if hint.is_some() => {
                ParseError::Binary { expected: format!("declared as {}", declared.essence), found }
            }
            _ => ParseError::Unsupported { found: found.to_owned() },
        });
    }
    // A page's own charset is asked for in any text: it counts only where the bytes are not UTF-8.
    let charset = declared
        .as_ref()
        .and_then(|d| d.charset.clone())
        .or_else(|| html::charset(&input.bytes[..input.bytes.len().min(html::CHARSET_WINDOW)]));
    let text = text::decode(input.bytes, charset.as_deref());
    if text.trim().is_empty() {
        return Err(ParseError::Empty("it has no characters but white space"));
    }
    if let Some(found) = text::not_text(&text) {
        let expected = match &declared {
            Some(declared) if hint.is_some() => format!("declared as {}", declared.essence),
            _ => format!("named {:?}", input.name),
        };
        return Err(ParseError::Binary { expected, found });
    }
    let parsed = match decide(&text, hint, input.name) {
        Format::Html => html::parse(&text, limits)?,
        Format::Markdown => ParsedDocument { title: markdown::title(&text), text, format: Format::Markdown },
        Format::Text => ParsedDocument { title: None, text, format: Format::Text },
    };
    if parsed.text.len() > limits.max_text_bytes {
        return Err(ParseError::TooLarge { bytes: parsed.text.len(), limit: limits.max_text_bytes });
    }
    Ok(parsed)
}

/// The format of a text: what it begins with, else the hints, the more telling one first.
fn decide(text: &str, hint: Option<Format>, name: &str) -> Format {
    if html::begins_as_html(text) {
        return Format::Html;
    }
    let extension = Path::new(name).extension().and_then(|e| e.to_str()).and_then(format_of_extension);
    // "text/plain" is what servers say of any text they do not know, so a file name tells more.
    let hinted = match hint {
        None | Some(Format::Text) => extension.or(hint).unwrap_or(Format::Text),
        Some(format) => format,
    };
    match hinted {
        Format::Html if !html::has_tags(text) => Format::Text,
        format => format,
    }
}

/// A media type without its parameters, in lower case.
pub fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A media type, taken apart (RFC 9110, section 8.3).
struct MediaType {
    /// `type/subtype` in lower case.
    essence: String,
    charset: Option<String>,
}

impl MediaType {
    fn parse(value: &str) -> MediaType {
        let charset = value.split(';').skip(1).find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            let value = value.trim().trim_matches(['"', '\'']);
            (name.trim().eq_ignore_ascii_case("charset") && !value.is_empty()).then(|| value.to_owned())
        });
        MediaType { essence: essence(value), charset }
    }

    /// The format it names; `None` where it names none.
    fn hint(&self) -> Result<Option<Format>, ParseError> {
        Ok(match self.essence.as_str() {
            "text/markdown" | "text/x-markdown" | "application/markdown" => Some(Format::Markdown),
            "text/html" | "application/xhtml+xml" => Some(Format::Html),
            // What clients send when they do not know, curl's default for a body among them.
            "" | "*/*" | "application/octet-stream" | "binary/octet-stream" | "application/x-www-form-urlencoded" => {
                None
            }
            essence if essence.starts_with("text/") && essence != "text/rtf" => Some(Format::Text),
            essence => {
                return Err(ParseError::Unsupported { found: essence.chars().take(100).collect() });
            }
        })
    }
}

/// Formats that are told by their first bytes and are not text.
fn magic(bytes: &[u8]) -> Option<&'static str> {
    const PREFIXES: &[(&[u8], &str)] = &[
        (b"PK\x03\x04", "a ZIP archive (also DOCX, XLSX, PPTX, ODT, EPUB)"),
        (b"PK\x05\x06", "an empty ZIP archive"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"GIF87a", "a GIF image"),
        (b"GIF89a", "a GIF image"),
        (b"II*\0", "a TIFF image"),
        (b"MM\0*", "a TIFF image"),
        (b"\x1f\x8b", "gzip-compressed data"),
        (b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
        (b"\xfd7zXZ\0", "xz-compressed data"),
        (b"BZh91AY&SY", "bzip2-compressed data"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"Rar!\x1a\x07", "a RAR archive"),
        (b"\x7fELF", "an ELF program"),
        (b"\xcf\xfa\xed\xfe", "a Mach-O program"),
        (b"\xca\xfe\xba\xbe", "a Java class or Mach-O program"),
        (b"\0asm", "a WebAssembly module"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (DOC, XLS, PPT)"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"OggS\0", "Ogg audio or video"),
        (b"ID3\x03", "MP3 audio"),
        (b"ID3\x04", "MP3 audio"),
        (b"\x1a\x45\xdf\xa3", "Matroska video"),
        (b"wOFF", "a font"),
        (b"wOF2", "a font"),
        (b"{\\rtf", "an RTF document"),
        (b"%!PS-", "a PostScript document"),
    ];
    // Some writers put a mark or line breaks before a PDF's header.
    let start = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    if start.starts_with(b"%PDF-") {
        return Some("a PDF document");
    }
    if let Some((_, name)) = PREFIXES.iter().find(|(prefix, _)| bytes.starts_with(prefix)) {
        return Some(name);
    }
    let head = &bytes[..bytes.len().min(512)];
    if head.starts_with(b"MZ") && head.contains(&0) {
        return Some("a Windows program");
    }
    if head.starts_with(b"RIFF")
        && head.get(8..12).is_some_and(|kind| [b"WEBP", b"WAVE", b"AVI "].iter().any(|k| kind == *k))
    {
        return Some("a RIFF file (WebP, WAV, AVI)");
    }
    if head.get(4..8) == Some(b"ftyp") && head[0] == 0 {
        return Some("an MP4 or HEIF file");
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some("a tar archive");
    }
    None
}

#[cfg(test)]
mod tests {
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
        assert_eq!(format("a", Some("text/csv"), "a,b"), Format::Text);
    }

    #[test]
    fn binary_declared_as_text_is_refused_with_what_it_looks_like() {
        let pdf = run("a.md", Some("text/markdown"), b"%PDF-1.7 ...").unwrap_err();
        assert_eq!(
            pdf.to_string(),
            "the document is declared as text/markdown, but its content is a PDF document; supported are Markdown, HTML and plain text"
        );
        for (bytes, word) in [
            (b"PK\x03\x04....".as_slice(), "ZIP"),
            (b"\x89PNG\r\n\x1a\n", "PNG"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\x7fELF\x02", "ELF"),
            (b"MZ\x90\0\x03", "Windows"),
            (b"abc\0def", "NUL"),
            (b"\x01\x02\x03\x04\x05abc", "control"),
        ] {
            let error = run("a.txt", Some("text/plain"), bytes).unwrap_err();
            assert!(matches!(error, ParseError::Binary { .. }), "{error:?}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn a_format_that_is_not_read_is_named_with_those_that_are() {
        for (media_type, bytes) in [
            (Some("application/pdf"), b"%PDF-1.7".as_slice()),
            (Some("image/png"), b"text"),
            (None, b"\xff\xd8\xff\xe0"),
        ] {
            let error = run("a", media_type, bytes).unwrap_err();
            assert!(matches!(error, ParseError::Unsupported { .. }), "{error:?}");
            assert!(error.to_string().contains("Markdown, HTML and plain text"));
        }
    }

    #[test]
    fn empty_and_oversized_documents_are_refused() {
        assert!(matches!(run("a.md", None, b""), Err(ParseError::Empty(_))));
        assert!(matches!(run("a.md", None, b"\xef\xbb\xbf \r\n\t"), Err(ParseError::Empty(_))));
        let limits = ParseLimits { max_text_bytes: 10, max_nesting: 256 };
        let input = ParseInput { name: "a.txt", media_type: None, bytes: b"12345678901" };
        assert_eq!(parse(&input, &limits), Err(ParseError::TooLarge { bytes: 11, limit: 10 }));
    }

    #[test]
    fn a_markdown_document_keeps_its_text_and_states_its_title() {
        let parsed = run("a.md", None, b"# T\r\n\r\nbody\r\n").unwrap();
        assert_eq!(
            parsed,
            ParsedDocument { title: Some("T".into()), text: "# T\n\nbody\n".into(), format: Format::Markdown }
        );
    }

    #[test]
    fn a_charset_in_the_media_type_or_the_page_is_used() {
        let parsed = run("a", Some("text/plain; charset=\"windows-1251\""), b"\xcf\xf0\xe8\xe2\xe5\xf2").unwrap();
        assert_eq!(parsed.text, "Привет");
        let parsed = run("a", None, b"<html><meta charset=windows-1251><body>\xcf\xf0\xe8\xe2\xe5\xf2").unwrap();
        assert_eq!(parsed.text, "Привет");
    }

    #[test]
    fn folders_offer_files_of_known_extensions_only() {
        for (name, yes) in
            [("a.md", true), ("x/a.HTML", true), ("a.log", true), ("a.pdf", false), ("md", false), (".md", false)]
        {
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
