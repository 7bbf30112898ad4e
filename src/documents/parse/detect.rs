//! What the bytes of a document are: their own marks first, then what its publisher says. [`super`] asks here before
//! any parser sees them. Formats are told apart, nothing is converted.

use std::path::Path;

use super::archive::Archive;
use super::media_type::MediaType;
use super::{Format, ParseError, ParseInput, ParseLimits, email, html};
use crate::documents::{MOST_SHOWN, excerpt};

/// A format that is told by its bytes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    /// One that is read.
    Format(Format),
    /// One that is not, with what it is.
    Other(&'static str),
    /// An Office file behind a password.
    Protected,
}

/// Bytes at the start of a file in which a PDF's header may stand, as readers of PDF accept it.
const PDF_HEADER_WINDOW: usize = 1024;

/// Bytes at the end of a PDF that hold its trailer.
const PDF_TRAILER_WINDOW: usize = 2048;

/// How a ZIP archive begins.
const ZIP: &[u8] = b"PK\x03\x04";

/// How a document in Rich Text Format begins.
const RTF: &[u8] = b"{\\rtf";

/// Whether parsing these bytes is the work of a large library, or of one that unpacks: such formats are parsed where a
/// crash or a hang does no harm.
pub fn is_risky(bytes: &[u8]) -> bool {
    is_pdf(bytes) || bytes.starts_with(ZIP) || bytes.starts_with(RTF) || email::begins_as_email(bytes)
}

/// The format that bytes of no text format have; `None` where they may be text.
///
/// # Errors
/// [`ParseError`] for a ZIP archive that cannot be opened or breaks the limits.
pub(super) fn binary(bytes: &[u8], limits: &ParseLimits) -> Result<Option<Binary>, ParseError> {
    if is_pdf(bytes) {
        return Ok(Some(Binary::Format(Format::Pdf)));
    }
    if bytes.starts_with(ZIP) {
        return in_archive(&mut Archive::open(bytes, limits)?).map(Some);
    }
    if bytes.starts_with(RTF) {
        return Ok(Some(Binary::Format(Format::Rtf)));
    }
    if bytes.starts_with(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") {
        let package: Vec<u8> = "EncryptedPackage".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let protected = bytes.windows(package.len()).any(|window| window == package);
        return Ok(Some(if protected {
            Binary::Protected
        } else {
            Binary::Other("an old Office file (DOC, XLS, PPT)")
        }));
    }
    Ok(magic(bytes).map(Binary::Other))
}

fn is_pdf(bytes: &[u8]) -> bool {
    // Some writers put a mark or line breaks before the header.
    let start = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    if start.starts_with(b"%PDF-") {
        return true;
    }
    // Others put anything before it. A text that quotes the header has no trailer at its end.
    let head = &bytes[..bytes.len().min(PDF_HEADER_WINDOW)];
    let tail = &bytes[bytes.len().saturating_sub(PDF_TRAILER_WINDOW)..];
    contains(head, b"%PDF-") && contains(tail, b"startxref") && contains(tail, b"%%EOF")
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The format of what is packed as a ZIP archive.
fn in_archive(archive: &mut Archive) -> Result<Binary, ParseError> {
    if let Some(media_type) = archive.text("mimetype")? {
        return Ok(match media_type.trim() {
            "application/epub+zip" => Binary::Format(Format::Epub),
            "application/vnd.oasis.opendocument.text" | "application/vnd.oasis.opendocument.text-template" => {
                Binary::Format(Format::Odt)
            }
            "application/vnd.oasis.opendocument.spreadsheet" => Binary::Other("an OpenDocument spreadsheet (ODS)"),
            "application/vnd.oasis.opendocument.presentation" => Binary::Other("an OpenDocument presentation (ODP)"),
            _ => Binary::Other("a ZIP archive"),
        });
    }
    let has = |start: &str| archive.names().any(|name| name.starts_with(start));
    Ok(if has("word/") {
        Binary::Format(Format::Docx)
    } else if has("ppt/") {
        Binary::Format(Format::Pptx)
    } else if has("xl/worksheets/") || has("xl/workbook.xml") {
        Binary::Format(Format::Xlsx)
    } else if has("xl/") {
        Binary::Other("a binary Excel workbook (XLSB)")
    } else if has("META-INF/container.xml") {
        Binary::Format(Format::Epub)
    } else {
        Binary::Other("a ZIP archive")
    })
}

/// The format of a text: what it says of itself, else the hints, the more telling one first.
///
/// # Errors
/// [`ParseError::Mismatch`] where the publisher names a format that is no text.
pub(super) fn text(text: &str, declared: Option<&MediaType>, input: &ParseInput) -> Result<Format, ParseError> {
    if html::begins_as_html(text) {
        return Ok(Format::Html);
    }
    let hint = declared.and_then(MediaType::format);
    let extension = format_of_name(Path::new(input.name));
    // "text/plain" is what servers say of any text they do not know, so a file name tells more, if it names a text.
    let hinted = match hint {
        None => extension,
        Some(Format::Text) => extension.filter(|format| !is_binary(*format)).or(hint),
        Some(_) => hint,
    };
    // The bytes, as in `is_risky`: what is parsed as a message was contained as one.
    if email::begins_as_email(input.bytes) && hinted != Some(Format::Markdown) {
        return Ok(Format::Email);
    }
    match hinted {
        Some(format) if is_binary(format) => {
            Err(ParseError::Mismatch { expected: expected(declared, input.name), found: "text" })
        }
        Some(Format::Html) if !html::has_tags(text) => Ok(Format::Text),
        // Without the headers of a message there is none.
        Some(Format::Email) | None => Ok(Format::Text),
        Some(format) => Ok(format),
    }
}

/// What the publisher says the document is, for an error.
pub(super) fn expected(declared: Option<&MediaType>, name: &str) -> String {
    match declared {
        Some(declared) if declared.format().is_some() => {
            format!("declared as {}", excerpt(&declared.essence))
        }
        // What tells the format is at its end.
        _ => match name.char_indices().rev().nth(MOST_SHOWN) {
            Some((before, skipped)) => format!("named …{:?}", &name[before + skipped.len_utf8()..]),
            None => format!("named {name:?}"),
        },
    }
}

fn is_binary(format: Format) -> bool {
    use Format::{Docx, Epub, Odt, Pdf, Pptx, Rtf, Xlsx};
    matches!(format, Pdf | Docx | Pptx | Xlsx | Odt | Epub | Rtf)
}

/// Whether a file of this name is worth reading at all: used by whoever walks a folder.
pub fn supported_extension(path: &Path) -> bool {
    format_of_name(path).is_some()
}

fn format_of_name(name: &Path) -> Option<Format> {
    Some(match name.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "md" | "markdown" | "mdown" | "mkd" | "mkdn" | "mdx" => Format::Markdown,
        "html" | "htm" | "xhtml" => Format::Html,
        "txt" | "text" | "log" | "rst" | "adoc" | "asciidoc" | "org" => Format::Text,
        "pdf" => Format::Pdf,
        "docx" | "docm" | "dotx" => Format::Docx,
        "pptx" | "pptm" | "ppsx" => Format::Pptx,
        "xlsx" | "xlsm" => Format::Xlsx,
        "odt" | "ott" => Format::Odt,
        "rtf" => Format::Rtf,
        "epub" => Format::Epub,
        "eml" => Format::Email,
        "csv" | "tsv" => Format::Csv,
        _ => return None,
    })
}

/// Formats that are told by their first bytes and are not read.
fn magic(bytes: &[u8]) -> Option<&'static str> {
    const PREFIXES: &[(&[u8], &str)] = &[
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
        (b"SQLite format 3\0", "an SQLite database"),
        (b"OggS\0", "Ogg audio or video"),
        (b"ID3\x03", "MP3 audio"),
        (b"ID3\x04", "MP3 audio"),
        (b"\x1a\x45\xdf\xa3", "Matroska video"),
        (b"wOFF", "a font"),
        (b"wOF2", "a font"),
        (b"%!PS-", "a PostScript document"),
    ];
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
