//! OpenDocument text to Markdown: headings, paragraphs, lists, tables and notes (OASIS OpenDocument 1.3, part 3,
//! chapters 5 and 9). What was deleted with changes recorded, and comments, are left out.

use super::archive::Archive;
use super::xml::{Step, walk};
use super::{Format, NO_TEXT, ParseError, ParseLimits, ParsedDocument, markdown, plausible_title};

/// Name in errors.
const FORMAT: &str = "ODT";

/// Most spaces that one element may stand for.
const MAX_SPACES: usize = 100;

/// Converts an OpenDocument text.
///
/// # Errors
/// [`ParseError`] where it has no text, needs a password or is damaged.
pub(super) fn parse(bytes: &[u8], limits: &ParseLimits) -> Result<ParsedDocument, ParseError> {
    let mut archive = Archive::open(bytes, limits)?;
    // Encrypted parts are listed in the manifest; the archive itself knows nothing of it.
    if archive.text("META-INF/manifest.xml")?.is_some_and(|manifest| manifest.contains("encryption-data")) {
        return Err(ParseError::Protected);
    }
    let content = archive
        .text("content.xml")?
        .ok_or_else(|| ParseError::Malformed { format: FORMAT, reason: "it has no content.xml".to_owned() })?;
    let mut writer = Writer::default();
    walk(FORMAT, &content, limits.max_nesting, |step| {
        writer.step(step);
        limits.check_text(writer.out.len() + writer.line.len())
    })?;
    let text = writer.out.trim().to_owned();
    if text.is_empty() {
        return Err(NO_TEXT);
    }
    let stated = match archive.text("meta.xml")? {
        Some(meta) => title(&meta, limits),
        None => None,
    };
    let title = stated.or_else(|| markdown::title(&text));
    Ok(ParsedDocument::new(Format::Odt, title, text))
}

/// The title among a document's properties.
fn title(meta: &str, limits: &ParseLimits) -> Option<String> {
    let (mut title, mut inside) = (String::new(), false);
    walk(FORMAT, meta, limits.max_nesting, |step| {
        match step {
            Step::Start(element) => inside = element.name() == "title",
            Step::End => inside = false,
            Step::Text(text) if inside => title.push_str(text),
            Step::Text(_) => {}
        }
        Ok(())
    })
    .ok()?;
    plausible_title(&title)
}

/// What an open element means for the text in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Heading(usize),
    Paragraph,
    List,
    Table,
    Row,
    Cell,
    Note,
    /// Its text is not the document's.
    Skipped,
    /// Anything else.
    Other,
}

#[derive(Default)]
struct Writer {
    out: String,
    /// The paragraph being read.
    line: String,
    open: Vec<Open>,
    /// How many of the open elements are skipped.
    skipped: usize,
    lists: usize,
    /// Cells of the row being read; a table in a table is read as text of its cell.
    row: Vec<String>,
    tables: usize,
    /// Rows of the table so far.
    rows: usize,
}

impl Writer {
    fn step(&mut self, step: Step) {
        match step {
            Step::Start(element) => {
                let repeated = |name: &str| element.attribute(name).and_then(|n| n.parse::<usize>().ok());
                let open = match element.name() {
                    "tracked-changes"
                    | "annotation"
                    | "note-citation"
                    | "desc"
                    | "script"
                    | "forms"
                    | "index-title-template"
                    | "sequence-decls" => Open::Skipped,
                    _ if self.skipped > 0 => Open::Other,
                    "h" => Open::Heading(repeated("outline-level").unwrap_or(1).clamp(1, 6)),
                    "p" => Open::Paragraph,
                    "list" => Open::List,
                    "table" => Open::Table,
                    "table-row" => Open::Row,
                    "table-cell" | "covered-table-cell" => Open::Cell,
                    "note" => Open::Note,
                    "s" => {
                        let spaces = repeated("c").unwrap_or(1).min(MAX_SPACES);
                        self.line.extend(std::iter::repeat_n(' ', spaces));
                        Open::Other
                    }
                    "tab" | "line-break" => {
                        self.line.push(' ');
                        Open::Other
                    }
                    _ => Open::Other,
                };
                self.begin(open);
                self.open.push(open);
            }
            Step::End => {
                if let Some(open) = self.open.pop() {
                    self.end(open);
                }
            }
            Step::Text(text) => {
                let in_paragraph = self.open.iter().rev().any(|o| matches!(o, Open::Paragraph | Open::Heading(_)));
                if in_paragraph && self.skipped == 0 {
                    self.line.push_str(text);
                }
            }
        }
    }

    fn begin(&mut self, open: Open) {
        match open {
            Open::Skipped => self.skipped += 1,
            Open::List => self.lists += 1,
            Open::Note => self.line.push_str(" ("),
            Open::Table => {
                self.tables += 1;
                self.rows = 0;
            }
            Open::Row if self.tables == 1 => self.row.clear(),
            Open::Cell if self.tables == 1 => self.row.push(String::new()),
            _ => {}
        }
    }

    fn end(&mut self, open: Open) {
        match open {
            Open::Skipped => self.skipped -= 1,
            Open::List => {
                self.lists -= 1;
                if self.lists == 0 && self.tables == 0 {
                    self.out.push('\n');
                }
            }
            Open::Note => self.line.push(')'),
            Open::Heading(_) | Open::Paragraph if !self.open.contains(&Open::Note) => self.paragraph(open),
            Open::Table => {
                self.tables -= 1;
                if self.tables == 0 {
                    self.out.push('\n');
                }
            }
            Open::Row if self.tables == 1 => {
                let cells: Vec<&str> = self.row.iter().map(|cell| cell.trim()).collect();
                if cells.iter().any(|cell| !cell.is_empty()) {
                    self.out.push_str(&format!("| {} |\n", cells.join(" | ")));
                    if self.rows == 0 {
                        self.out.push_str(&format!("|{}\n", " --- |".repeat(cells.len())));
                    }
                    self.rows += 1;
                }
            }
            _ => {}
        }
    }

    /// Ends a paragraph or heading.
    fn paragraph(&mut self, open: Open) {
        let line = std::mem::take(&mut self.line);
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.is_empty() || self.skipped > 0 {
            return;
        }
        if self.tables > 0 {
            if let Some(cell) = self.row.last_mut() {
                cell.push_str(&line.replace('|', "\\|"));
                cell.push(' ');
            }
            return;
        }
        match open {
            Open::Heading(level) => self.out.push_str(&format!("{} {line}\n\n", "#".repeat(level))),
            _ if self.lists > 0 => {
                self.out.push_str(&format!("{}- {line}\n", "  ".repeat((self.lists - 1).min(8))));
            }
            _ => self.out.push_str(&format!("{line}\n\n")),
        }
    }
}
