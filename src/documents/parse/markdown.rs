//! The structure of Markdown: its front matter, its title, its headings and top-level blocks.
//! The text itself is kept as it is. [`super`] asks for the title, [`crate::documents::chunk`] for
//! the rest. Renders nothing and changes nothing.

use std::ops::Range;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// Most characters kept of a heading or title: it is repeated with every chunk below it.
const MAX_TITLE_CHARS: usize = 200;

/// A heading outside code, quotes and lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// 1 to 6.
    pub level: u8,
    /// Its text without markup, white space collapsed, at most 200 characters.
    pub title: String,
    /// Where it stands in the text.
    pub span: Range<usize>,
}

/// The top-level structure of a Markdown text; all spans are byte ranges of that text.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Headings in order.
    pub headings: Vec<Heading>,
    /// Start of each top-level block (paragraph, list, table, code block, heading), ascending.
    pub block_starts: Vec<usize>,
}

/// The title a document states: `title:` of its front matter, else its first level-1 heading.
pub fn title(text: &str) -> Option<String> {
    let body = front_matter_end(text);
    front_matter_title(&text[..body]).or_else(|| {
        outline(text, body).headings.into_iter().find(|h| h.level == 1 && !h.title.is_empty()).map(|h| h.title)
    })
}

/// Where the body starts: after a YAML front matter (`---`, lines with at least one `key:`,
/// then `---` or `...`), 0 where there is none.
///
/// Scanned here and not by the Markdown parser, which takes such a block for metadata anywhere
/// in a document, also between two thematic breaks.
pub fn front_matter_end(text: &str) -> usize {
    let Some(rest) = text.strip_prefix("---") else {
        return 0;
    };
    let mut offset = 3;
    let mut has_key = false;
    for (number, line) in rest.split_inclusive('\n').enumerate() {
        offset += line.len();
        let line = line.trim_end();
        match (number, line) {
            (0, "") => {}
            (0, _) | (1, "") => return 0,
            (_, "---" | "...") => return if has_key { offset } else { 0 },
            _ => has_key |= key_value(line).is_some(),
        }
    }
    0
}

/// `key: value` at the left edge.
fn key_value(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let named = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    (named && (value.is_empty() || value.starts_with([' ', '\t']))).then_some((key, value.trim()))
}

fn front_matter_title(front_matter: &str) -> Option<String> {
    let (_, value) = front_matter.lines().filter_map(key_value).find(|(key, _)| key.eq_ignore_ascii_case("title"))?;
    let value = if let Some(quoted) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
        quoted.replace("\\\"", "\"").replace("\\\\", "\\")
    } else if let Some(quoted) = value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')) {
        quoted.replace("''", "'")
    } else if value.starts_with(['|', '>', '&', '*', '!', '[', '{']) {
        // Not a plain scalar; the heading below will do.
        return None;
    } else {
        value.split(" #").next().unwrap_or_default().to_owned()
    };
    let value = tidy_title(&value);
    (!value.is_empty()).then_some(value)
}

/// Collapses white space and cuts at `MAX_TITLE_CHARS`.
pub fn tidy_title(title: &str) -> String {
    let mut tidy = String::new();
    for word in title.split_whitespace() {
        if !tidy.is_empty() {
            tidy.push(' ');
        }
        tidy.push_str(word);
        if tidy.len() > MAX_TITLE_CHARS * 4 {
            break;
        }
    }
    if let Some((cut, _)) = tidy.char_indices().nth(MAX_TITLE_CHARS) {
        tidy.truncate(cut);
        tidy.truncate(tidy.trim_end().len());
    }
    tidy
}

/// Headings and top-level blocks of `text[from..]`, with spans in `text`. `from` must be on a
/// character border at the start of a line.
pub fn outline(text: &str, from: usize) -> Outline {
    let mut outline = Outline::default();
    let mut depth = 0usize;
    let mut heading: Option<(u8, String, Range<usize>)> = None;
    for (event, range) in Parser::new_ext(&text[from..], Options::ENABLE_TABLES).into_offset_iter() {
        let span = range.start + from..range.end + from;
        if depth == 0 && !matches!(event, Event::End(_)) {
            outline.block_starts.push(span.start);
        }
        match event {
            Event::Start(tag) => {
                if let Tag::Heading { level, .. } = tag
                    && depth == 0
                {
                    heading = Some((level as u8, String::new(), span));
                }
                depth += 1;
            }
            Event::End(end) => {
                depth = depth.saturating_sub(1);
                if let TagEnd::Heading(_) = end
                    && depth == 0
                    && let Some((level, title, span)) = heading.take()
                {
                    outline.headings.push(Heading { level, title: tidy_title(&title), span });
                }
            }
            Event::Text(part) | Event::Code(part) => {
                if let Some((_, title, _)) = &mut heading {
                    title.push_str(&part);
                }
            }
            Event::SoftBreak | Event::HardBreak => {
                if let Some((_, title, _)) = &mut heading {
                    title.push(' ');
                }
            }
            _ => {}
        }
    }
    outline
}

/// How deep the elements of `text` are nested in each other at most.
pub fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_title_is_the_one_of_the_front_matter_else_the_first_level_1_heading() {
        assert_eq!(title("---\ntitle: Travel  policy # v2\n---\n# Other"), Some("Travel policy".into()));
        assert_eq!(title("---\ntitle: \"A \\\"b\\\"\"\n---\n"), Some("A \"b\"".into()));
        assert_eq!(title("---\nTitle: 'It''s'\n...\n"), Some("It's".into()));
        assert_eq!(title("---\ntitle: >\n  folded\n---\n# Heading"), Some("Heading".into()));
        assert_eq!(title("## Two\n\n# One `x` *y*\n\n# Later"), Some("One x y".into()));
        assert_eq!(title("Set\n===\n"), Some("Set".into()));
        assert_eq!(title("no heading"), None);
    }

    #[test]
    fn only_a_real_front_matter_is_one() {
        assert_eq!(front_matter_end("---\na: 1\n---\nbody"), 13);
        for none in [
            "---\n\ntext\n---\n",
            "---\nplain words\n---\n",
            "a\n---\nb: 1\n---\n",
            "---\na: 1\n",
            "----\na: 1\n---\n",
            "---",
        ] {
            assert_eq!(front_matter_end(none), 0, "{none:?}");
        }
    }

    #[test]
    fn headings_in_code_quotes_and_lists_do_not_count() {
        let text = "# A\n\n```\n# no\n```\n\n> # no\n\n- # no\n\n    # no\n\n## B\n";
        let found: Vec<_> = outline(text, 0).headings.into_iter().map(|h| (h.level, h.title)).collect();
        assert_eq!(found, [(1, "A".to_owned()), (2, "B".to_owned())]);
    }

    #[test]
    fn spans_point_into_the_whole_text() {
        let text = "---\na: 1\n---\n# A\n\nx\n";
        let outline = outline(text, front_matter_end(text));
        assert_eq!(&text[outline.headings[0].span.clone()], "# A\n");
        assert_eq!(outline.block_starts, [13, 18]);
    }

    #[test]
    fn a_title_is_cut_to_a_bounded_length() {
        assert_eq!(title(&format!("# {}", "é".repeat(5000))).unwrap().chars().count(), MAX_TITLE_CHARS);
        let cut_after_a_word = format!("# {} x", "é".repeat(MAX_TITLE_CHARS - 1));
        assert_eq!(title(&cut_after_a_word), Some("é".repeat(MAX_TITLE_CHARS - 1)));
    }
}
