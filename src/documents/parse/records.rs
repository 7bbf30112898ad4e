//! Tables of data as lines that each can stand alone: `Header: value; Header: value`. A passage is a few rows of a
//! long table, and rows without their header say nothing to a reader or a model.

/// One line a row, as items of a Markdown list.
pub(super) fn list(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    let mut records = Records::default();
    let mut any = false;
    for row in rows {
        match records.line(row.iter().map(String::as_str)) {
            Some((line, true)) => {
                text.push_str(&format!("- {line}\n"));
                any = true;
            }
            Some((line, false)) => text.push_str(&format!("{line}\n\n")),
            None => {}
        }
    }
    if let (false, Some(header)) = (any, records.header()) {
        text.push_str(&format!("- {header}\n"));
    }
    text
}

/// Turns rows into lines, one by one.
#[derive(Default)]
pub(super) struct Records {
    header: Option<Vec<String>>,
}

impl Records {
    /// The line of the next row: `None` for an empty one and for the header, else with whether it is a record.
    pub fn line<'a>(&mut self, row: impl Iterator<Item = &'a str>) -> Option<(String, bool)> {
        let cells: Vec<String> = row.map(|cell| cell.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let filled = cells.iter().filter(|cell| !cell.is_empty()).count();
        if filled == 0 {
            return None;
        }
        let Some(header) = &self.header else {
            // What stands above a table, as a title does, fills one cell.
            if filled == 1 && cells.len() > 1 {
                return Some((cells.concat(), false));
            }
            if is_header(&cells) {
                self.header = Some(cells);
                return None;
            }
            // A table without a header stays one.
            self.header = Some(Vec::new());
            return Some((joined(&[], &cells), true));
        };
        Some((joined(header, &cells), true))
    }

    /// The header as a line: what a table has to say that has no other row.
    pub fn header(&self) -> Option<String> {
        self.header.as_deref().filter(|header| !header.is_empty()).map(|header| joined(&[], header))
    }
}

fn joined(header: &[String], cells: &[String]) -> String {
    let mut line = String::new();
    for (at, cell) in cells.iter().enumerate().filter(|(_, cell)| !cell.is_empty()) {
        if !line.is_empty() {
            line.push_str("; ");
        }
        if let Some(name) = header.get(at).filter(|name| !name.is_empty()) {
            line.push_str(name);
            line.push_str(": ");
        }
        line.push_str(cell);
    }
    line
}

/// Names stand in a header, each once, and no figures.
fn is_header(cells: &[String]) -> bool {
    let named: Vec<&String> = cells.iter().filter(|cell| !cell.is_empty()).collect();
    named.len() * 2 > cells.len()
        && named.iter().all(|cell| cell.chars().count() <= 100 && cell.chars().any(char::is_alphabetic))
        && named.iter().enumerate().all(|(at, cell)| !named[..at].contains(cell))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    #[test]
    fn each_row_says_what_its_values_are() {
        let table = rows(&[&["Sales 2026", ""], &["Region", "Sum"], &["North", "12"], &["", ""], &["South", ""]]);
        assert_eq!(list(&table), "Sales 2026\n\n- Region: North; Sum: 12\n- Region: South\n");
    }

    #[test]
    fn a_table_of_figures_has_no_header_and_a_lone_header_is_kept() {
        assert_eq!(list(&rows(&[&["1", "2"], &["3", "4"]])), "- 1; 2\n- 3; 4\n");
        assert_eq!(list(&rows(&[&["a", "a"], &["b", "c"]])), "- a; a\n- b; c\n");
        assert_eq!(list(&rows(&[&["Region", "Sum"]])), "- Region; Sum\n");
    }
}
