//! DOCX, PPTX and XLSX to Markdown, with undoc. A slide is a page; a sheet becomes a section whose rows each say what
//! their values are ([`super::records`]), since a passage from the middle of a long sheet has no header.

use std::collections::HashMap;

use undoc::render::{RenderOptions, render_section_to_string};
use undoc::{Block, Document, Error, Paragraph, Section, Table, TextRun};

use super::{
    Format, NO_TEXT, PageStart, ParseError, ParseLimits, ParsedDocument, append, markdown, plausible_title, records,
};

/// Converts an office document that was found to be of this format, and to keep to the limits of an archive.
///
/// # Errors
/// [`ParseError`] where it has no text, needs a password or is damaged beyond reading.
pub(super) fn parse(bytes: &[u8], format: Format, limits: &ParseLimits) -> Result<ParsedDocument, ParseError> {
    let mut document = undoc::parse_bytes(bytes).map_err(|error| refused(format, &error))?;
    if format == Format::Pptx && document.sections.len() > limits.max_pages {
        return Err(ParseError::TooManyPages { pages: document.sections.len(), limit: limits.max_pages });
    }
    let mut text = String::new();
    let mut pages = Vec::new();
    let sections = std::mem::take(&mut document.sections);
    for (at, mut section) in sections.into_iter().enumerate() {
        let rendered = if format == Format::Xlsx { sheet(&section) } else { flow(&mut section, at, &document) };
        if rendered.is_empty() {
            continue;
        }
        let start = append(&mut text, &rendered, limits)?;
        if format == Format::Pptx {
            pages.push(PageStart { number: at as u32 + 1, start });
        }
    }
    if text.is_empty() {
        return Err(NO_TEXT);
    }
    let stated = document.metadata.title.as_deref().and_then(plausible_title);
    let title = stated.or_else(|| markdown::title(&text));
    Ok(ParsedDocument { title, text, format, pages })
}

/// The text of a document's section or of a slide.
fn flow(section: &mut Section, at: usize, document: &Document) -> String {
    let mut options = RenderOptions::new();
    // The text is searched and quoted, not shown as Markdown.
    options.escape_special_chars = false;
    options.include_images = false;
    section.content.iter_mut().for_each(plain);
    section.notes.iter_mut().flatten().for_each(plain_paragraph);
    let rendered = render_section_to_string(section, at, document.format, &options, &HashMap::new());
    // What it sets between slides is a line of the page, not of the slide.
    let rendered = rendered.trim();
    rendered.strip_prefix("---\n").unwrap_or(rendered).trim().to_owned()
}

/// The rows of a sheet under its name.
fn sheet(section: &Section) -> String {
    let mut text = String::new();
    for block in &section.content {
        let part = match block {
            Block::Table(table) => records::list(&rows(table)),
            Block::Paragraph(paragraph) => paragraph.plain_text(),
            _ => continue,
        };
        if !part.trim().is_empty() {
            text.push_str(part.trim());
            text.push_str("\n\n");
        }
    }
    let (text, name) = (text.trim(), section.name.as_deref().map(str::trim).filter(|name| !name.is_empty()));
    match name {
        Some(name) if !text.is_empty() => format!("## {name}\n\n{text}"),
        _ => text.to_owned(),
    }
}

fn rows(table: &Table) -> Vec<Vec<String>> {
    table.rows.iter().map(|row| row.cells.iter().map(|cell| cell.plain_text()).collect()).collect()
}

/// Drops emphasis, which helps no search and clutters quotes, and the addresses of links.
fn plain(block: &mut Block) {
    match block {
        Block::Paragraph(paragraph) => plain_paragraph(paragraph),
        Block::Table(table) => plain_table(table),
        _ => {}
    }
}

fn plain_table(table: &mut Table) {
    for cell in table.rows.iter_mut().flat_map(|row| &mut row.cells) {
        cell.content.iter_mut().for_each(plain_paragraph);
        cell.nested_tables.iter_mut().for_each(plain_table);
    }
}

fn plain_paragraph(paragraph: &mut Paragraph) {
    for TextRun { style, hyperlink, .. } in &mut paragraph.runs {
        *style = undoc::TextStyle::default();
        *hyperlink = None;
    }
}

fn refused(format: Format, error: &Error) -> ParseError {
    match error {
        Error::Encrypted => ParseError::Protected,
        error => ParseError::Malformed {
            format: match format {
                Format::Docx => "DOCX",
                Format::Pptx => "PPTX",
                _ => "XLSX",
            },
            reason: error.to_string(),
        },
    }
}
