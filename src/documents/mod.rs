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

use std::ops::Range;

/// A document after parsing: the text that chunks, passages and citations point into.
///
/// `text` is *the source text* of a revision: every byte span elsewhere in answerd
/// (chunk, passage, citation) is a range of it, always on character borders.
/// Markdown and plain text keep their own text, decoded to UTF-8 without a byte order mark;
/// HTML becomes the Markdown of its main content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedDocument {
    /// The title the document itself states (front heading, `<title>`), if any.
    pub title: Option<String>,
    /// The source text, UTF-8.
    pub text: String,
    /// What the bytes were found to be.
    pub format: Format,
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
