//! A search result: a chunk with its document, its place in it and its scores; and the snippet that is shown of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Rank and score of a passage in one stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StageScore {
    /// Rank, from 1.
    pub rank: usize,
    /// BM25, or cosine similarity.
    pub score: f32,
}

/// The scores of a passage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Scores {
    /// By reciprocal rank fusion.
    pub fused: f32,
    /// In the lexical stage, if it was found there.
    pub lexical: Option<StageScore>,
    /// In the vector stage, if it was found there.
    pub vector: Option<StageScore>,
}

/// A search result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Passage {
    /// Its document.
    pub document_id: String,
    /// The document's revision that `start` and `end` are of.
    pub revision: u64,
    /// Title of the document.
    pub title: String,
    /// Address of the original.
    pub url: Option<String>,
    /// Collection of the document.
    pub collection: String,
    /// The headings above it, outermost first.
    pub section: Vec<String>,
    /// Page of the original, where it has pages.
    pub page: Option<u32>,
    /// First byte in the document's source text.
    pub start: usize,
    /// The byte after the last one.
    pub end: usize,
    /// The text of that span.
    pub text: String,
    /// When the document was stored, in milliseconds since the Unix epoch.
    pub updated_at: i64,
    /// Metadata of the document.
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// Its scores.
    pub scores: Scores,
}

/// The part of a text that says most about a query, as plain text of at most about `max_chars` characters.
pub fn snippet(text: &str, query: &str, max_chars: usize) -> String {
    let plain = plain(text);
    let chars: Vec<char> = plain.chars().collect();
    if chars.len() <= max_chars {
        return plain;
    }
    let wanted: BTreeSet<String> = words(query).map(|(_, stem)| stem).collect();
    let hits: Vec<(usize, String)> = words(&plain).filter(|(_, stem)| wanted.contains(stem)).collect();
    // The window that begins at a hit, or at the start, and has the most different words of the query.
    let distinct = |from: usize| {
        let inside = hits.iter().filter(|(at, _)| (from..from + max_chars).contains(at));
        inside.map(|(_, stem)| stem).collect::<BTreeSet<_>>().len()
    };
    let starts = std::iter::once(0).chain(hits.iter().map(|(at, _)| at.saturating_sub(max_chars / 6)));
    // The first of equals: text is read from the front.
    let best = starts.max_by_key(|from| (distinct(*from), std::cmp::Reverse(*from))).unwrap_or(0);
    let mut from = best.min(chars.len() - max_chars);
    // Not in the middle of a word, unless it is so long (an address, say) that the place would be lost.
    let begins = |at: &usize| *at == 0 || chars[at - 1].is_whitespace();
    from = (from..from + max_chars / 6).find(begins).unwrap_or(from);
    let mut to = (from + max_chars).min(chars.len());
    while to < chars.len() && to > from + max_chars / 2 && !chars[to].is_whitespace() {
        to -= 1;
    }
    let cut: String = chars[from..to].iter().collect();
    format!("{}{}{}", if from > 0 { "… " } else { "" }, cut.trim(), if to < chars.len() { " …" } else { "" })
}

/// Words with the place of their first character, cut to a stem that folds most endings.
fn words(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut found = Vec::new();
    let mut word = String::new();
    for (at, c) in text.chars().chain(std::iter::once(' ')).enumerate() {
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        } else if !word.is_empty() {
            let length = word.chars().count();
            let stem: String = word.chars().take(if length > 5 { length - 2 } else { length }).collect();
            // Words this short are in every text; numbers are not.
            if length > 2 || word.contains(char::is_numeric) {
                found.push((at - length.min(at), stem));
            }
            word.clear();
        }
    }
    found.into_iter()
}

/// Markdown without its marks, white space folded: what a person reads in a line.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let line = line.trim();
        let rule = !line.is_empty() && line.chars().all(|c| matches!(c, '|' | '-' | ':' | ' ' | '=' | '*' | '_'));
        if rule || line.starts_with("```") || line.starts_with("~~~") {
            continue;
        }
        let line = line.trim_start_matches(['#', '>']).trim_start_matches("- ").trim_start_matches("* ");
        let line = line.trim_matches('|').replace("**", "").replace(['`'], "").replace(" | ", " · ");
        for word in unlink(&line).split_whitespace() {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(word);
        }
    }
    out
}

/// `[text](address)` and `![text](address)` as `text`.
fn unlink(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(open) = rest.find('[') {
        let link = rest[open..].find("](").and_then(|middle| {
            let middle = open + middle;
            let close = middle + rest[middle..].find(')')?;
            (!rest[open + 1..middle].contains('[')).then_some((middle, close))
        });
        let Some((middle, close)) = link else {
            out.push_str(&rest[..=open]);
            rest = &rest[open + 1..];
            continue;
        };
        out.push_str(rest[..open].trim_end_matches('!'));
        out.push_str(&rest[open + 1..middle]);
        rest = &rest[close + 1..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_snippet_shows_the_place_that_the_query_is_about_as_plain_text() {
        let filler = "Nothing of interest is said here at all. ".repeat(20);
        let text = format!(
            "# Limits\n\n{filler}\n\n| Meal | Limit |\n| --- | --- |\n| **Dinner** | [48 euros](https://x.test) |\n\n{filler}"
        );
        let snippet = snippet(&text, "limit for dinner", 120);
        assert!(snippet.contains("Dinner · 48 euros"), "{snippet}");
        assert!(snippet.starts_with("… ") && snippet.ends_with(" …"), "{snippet}");
        assert!(!snippet.contains("---") && !snippet.contains("](") && !snippet.contains('#'), "{snippet}");
    }

    #[test]
    fn a_hit_within_a_long_address_is_shown() {
        let text = format!("A short start. https://x.test/{}dinner{}", "a/".repeat(200), "/b".repeat(200));
        assert!(snippet(&text, "dinner", 60).contains("/dinner/"), "{}", snippet(&text, "dinner", 60));
    }

    #[test]
    fn a_short_number_of_the_query_is_found() {
        let text = format!("{} The desk is in room 14. {}", "Filler words. ".repeat(30), "Filler words. ".repeat(30));
        assert!(snippet(&text, "14", 60).contains("room 14"));
    }

    #[test]
    fn a_short_text_is_shown_whole() {
        assert_eq!(snippet("## A *short*\n\ntext", "anything", 100), "A *short* text");
    }

    proptest! {
        #[test]
        fn any_text_and_query_give_a_snippet_of_bounded_length(text in ".{0,400}", query in ".{0,40}", max in 10usize..200) {
            let shown = snippet(&text, &query, max);
            prop_assert!(shown.chars().count() <= max + 4);
            // What is not white space or markup is never answered with nothing.
            prop_assert!(!text.contains(char::is_alphanumeric) || text.contains(['[', '`', '~']) || shown.contains(|c| c != '…' && c != ' '));
        }
    }
}
