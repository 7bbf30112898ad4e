//! What a document is, before any store or index sees it: pure rules, no I/O, no actors.
//!
//! - [`cloudevent`]: what a bus or a client delivers, to an operation
//! - [`event`]: the identity and content hash of a document, and the operation on it
//! - [`parse`]: bytes of one format to a [`ParsedDocument`]
//! - [`chunk`]: a parsed document to [`Chunk`]s the embedding model can take

pub mod chunk;
pub mod cloudevent;
pub mod event;
pub mod parse;

use std::borrow::Cow;
use std::ops::Range;

/// Most characters of a publisher's text that an error shows.
const MOST_SHOWN: usize = 100;

/// A publisher's text as an error shows it: its beginning, so that what is wrong with it is still read after it.
pub fn excerpt(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MOST_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// A document after parsing: the text that chunks, passages and citations point into.
///
/// `text` is *the source text* of a revision: every byte span elsewhere in answerd
/// (chunk, passage, citation) is a range of it, always on character borders.
/// Markdown and plain text keep their own text, decoded to UTF-8 without a byte order mark; formats with
/// headings, lists and tables become Markdown, and letters and data files become plain text
/// ([`Format::is_markdown`]).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ParsedDocument {
    /// The title the document itself states (front heading, `<title>`), if any.
    pub title: Option<String>,
    /// The source text, UTF-8.
    pub text: String,
    /// What the bytes were found to be.
    pub format: Format,
    /// Where the pages or slides of the original start in the text, ascending; empty where it has none.
    pub pages: Vec<PageStart>,
}

impl ParsedDocument {
    /// A document without pages.
    pub fn new(format: Format, title: Option<String>, text: String) -> Self {
        Self { title, text, format, pages: Vec::new() }
    }

    /// The page or slide on which the byte at `offset` of the text stands.
    pub fn page_at(&self, offset: usize) -> Option<u32> {
        let after = self.pages.partition_point(|page| page.start <= offset);
        after.checked_sub(1).map(|at| self.pages[at].number)
    }
}

/// Where a page or slide starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PageStart {
    /// Number of the page or slide, from 1, counted as viewers count them.
    pub number: u32,
    /// Byte offset of its text in [`ParsedDocument::text`].
    pub start: usize,
}

/// The document formats answerd reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// CommonMark with tables.
    Markdown,
    /// HTML, of which the main content is kept.
    Html,
    /// Plain text.
    Text,
    /// PDF with text in it.
    Pdf,
    /// Word documents (Office Open XML).
    Docx,
    /// PowerPoint presentations (Office Open XML).
    Pptx,
    /// Excel workbooks (Office Open XML).
    Xlsx,
    /// OpenDocument text.
    Odt,
    /// Rich Text Format.
    Rtf,
    /// Electronic books.
    Epub,
    /// E-mail messages (RFC 5322 with MIME).
    Email,
    /// Tables as text, with commas, semicolons, tabs or bars between the values.
    Csv,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 12] = [
        Format::Markdown,
        Format::Html,
        Format::Text,
        Format::Pdf,
        Format::Docx,
        Format::Pptx,
        Format::Xlsx,
        Format::Odt,
        Format::Rtf,
        Format::Epub,
        Format::Email,
        Format::Csv,
    ];

    /// The name by which the API and the catalog call it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Markdown => "markdown",
            Format::Html => "html",
            Format::Text => "text",
            Format::Pdf => "pdf",
            Format::Docx => "docx",
            Format::Pptx => "pptx",
            Format::Xlsx => "xlsx",
            Format::Odt => "odt",
            Format::Rtf => "rtf",
            Format::Epub => "epub",
            Format::Email => "email",
            Format::Csv => "csv",
        }
    }

    /// The format of a name.
    pub fn from_name(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Whether the text after parsing is Markdown; it is plain text otherwise.
    pub fn is_markdown(self) -> bool {
        !matches!(self, Format::Text | Format::Csv | Format::Email | Format::Rtf)
    }
}

/// A piece of a document that fits the embedding model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The headings above the chunk, outermost first; empty where there are none.
    pub section: Vec<String>,
    /// The byte span of the chunk in [`ParsedDocument::text`].
    pub span: Range<usize>,
    /// Length of the chunk's text in tokens of the embedding model, special tokens not counted.
    pub tokens: usize,
}
