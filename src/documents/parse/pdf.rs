//! PDF to Markdown, page by page, with unpdf: its text in reading order (also in columns), headings by their size,
//! tables, and the values of its form. A PDF of pictures has no text to give.

use std::sync::LazyLock;

use unpdf::render::{RenderOptions, to_markdown};
use unpdf::{Block, Error, InlineContent, Paragraph, ParseOptions, PdfParser};

use super::{Format, PageStart, ParseError, ParseLimits, ParsedDocument, append, markdown, plausible_title};

/// Converts a PDF. One that is encrypted with an empty password opens, as in any viewer.
///
/// # Errors
/// [`ParseError`] where it needs a password, has no text, more pages than allowed, or is damaged beyond reading.
pub(super) fn parse(bytes: &[u8], limits: &ParseLimits) -> Result<ParsedDocument, ParseError> {
    // Lenient: a page that cannot be read leaves the others. Pictures are not looked at.
    let options = ParseOptions::new().lenient().sequential().with_resources(false);
    let parser = PdfParser::from_bytes_with_options(bytes, options).map_err(refused)?;
    let count = parser.page_count() as usize;
    if count > limits.max_pages {
        return Err(ParseError::TooManyPages { pages: count, limit: limits.max_pages });
    }
    if count == 0 {
        return Err(malformed("it has no pages; it may have been cut off"));
    }
    let mut document = parser.parse().map_err(refused)?;
    let stated = document.metadata.title.as_deref().and_then(plausible_title);
    let fields = std::mem::take(&mut document.form_fields);
    let missing = document.extraction_quality.undecodable_content_streams;
    let pages = std::mem::take(&mut document.pages);

    let mut text = String::new();
    let mut starts = Vec::new();
    for mut page in pages {
        let number = page.number;
        page.elements.iter_mut().for_each(plain);
        document.pages = vec![page];
        let rendered = to_markdown(&document, &OPTIONS).map_err(refused)?;
        let rendered = rendered.trim();
        if !rendered.is_empty() {
            starts.push(PageStart { number, start: append(&mut text, rendered, limits)? });
        }
    }
    if text.is_empty() && fields.is_empty() {
        return Err(if missing > 0 {
            malformed("the contents of its pages are damaged")
        } else {
            ParseError::Empty("its pages have no text, only pictures; a scan has to go through text recognition first")
        });
    }
    if let Some(values) = form(&fields) {
        append(&mut text, values.trim(), limits)?;
    }
    let title = stated.or_else(|| markdown::title(&text));
    Ok(ParsedDocument { title, text, format: Format::Pdf, pages: starts })
}

static OPTIONS: LazyLock<RenderOptions> = LazyLock::new(|| {
    let mut options = RenderOptions::new();
    // The text is searched and quoted, not shown as Markdown.
    options.escape_special_chars = false;
    options
});

/// The filled-in fields of a form.
fn form(fields: &[unpdf::FormField]) -> Option<String> {
    let mut text = String::new();
    for field in fields {
        let value = field.display_value();
        if !value.trim().is_empty() {
            text.push_str(&format!("- {}: {}\n", field.name, value.trim()));
        }
    }
    (!text.is_empty()).then(|| format!("## Form fields\n\n{text}"))
}

/// Drops emphasis, which helps no search and clutters quotes, and the addresses of links.
fn plain(block: &mut Block) {
    match block {
        Block::Paragraph(paragraph) => plain_paragraph(paragraph),
        Block::Table(table) => {
            let cells = table.rows.iter_mut().flat_map(|row| &mut row.cells);
            cells.flat_map(|cell| &mut cell.content).for_each(plain_paragraph);
        }
        _ => {}
    }
}

fn plain_paragraph(paragraph: &mut Paragraph) {
    for part in &mut paragraph.content {
        match part {
            InlineContent::Text(run) => run.style = unpdf::TextStyle::default(),
            InlineContent::Link { text, .. } => {
                let run = unpdf::TextRun { text: std::mem::take(text), style: unpdf::TextStyle::default() };
                *part = InlineContent::Text(run);
            }
            _ => {}
        }
    }
}

fn malformed(reason: &str) -> ParseError {
    ParseError::Malformed { format: "PDF", reason: reason.to_owned() }
}

fn refused(error: Error) -> ParseError {
    match error {
        Error::Encrypted | Error::InvalidPassword => ParseError::Protected,
        error => malformed(&format!("{error}; it may have been cut off or changed on its way")),
    }
}
