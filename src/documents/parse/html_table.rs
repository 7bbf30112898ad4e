//! A table of HTML as Markdown. [`super::html`] fills it in while it walks the page.

/// A table while its parts are read. htmd's own pads every cell to its column's width, which costs
/// search and model tokens for spaces, and grows without bound with one long cell.
#[derive(Default)]
pub struct Table {
    /// Markdown of its captions.
    pub captions: Vec<String>,
    /// Markdown of its cells.
    pub rows: Vec<Vec<String>>,
    /// Any `<th>`: a table of data and not of layout.
    pub has_header: bool,
}

impl Table {
    /// Pipes, without padding; a table that only lays out a page becomes the blocks in its cells.
    pub fn render(&self) -> String {
        let filled = |row: &&Vec<String>| row.iter().any(|cell| !cell.trim().is_empty());
        let mut rows = self.rows.iter().filter(filled);
        let columns = rows.clone().map(Vec::len).max().unwrap_or(0);
        // One column, or blocks in the cells of a table without a header: a page laid out as table.
        let layout = columns == 1
            || !self.has_header && rows.clone().flatten().any(|cell| cell.trim_matches('\n').contains("\n\n"));
        let mut blocks: Vec<String> =
            self.captions.iter().map(|c| c.trim().to_owned()).filter(|c| !c.is_empty()).collect();
        if layout {
            blocks
                .extend(rows.flatten().map(|cell| cell.trim_matches('\n').to_owned()).filter(|c| !c.trim().is_empty()));
        } else if let Some(header) = rows.next() {
            let mut lines = vec![line(header), format!("|{}", " --- |".repeat(header.len()))];
            lines.extend(rows.map(|row| line(row)));
            blocks.push(lines.join("\n"));
        }
        blocks.join("\n\n")
    }
}

fn line(row: &[String]) -> String {
    let mut line = String::from("|");
    for cell in row {
        line.push(' ');
        for (number, word) in cell.split_whitespace().enumerate() {
            if number > 0 {
                line.push(' ');
            }
            line.push_str(&word.replace('|', "\\|"));
        }
        line.push_str(" |");
    }
    line
}
