//! The `[n]` of an answer, checked while it streams: each must name a source, and the sentence it stands with must
//! share enough words with that source. What fails is taken out. A sentence without a citation that clearly rests on
//! one source is given its number, since small models often forget.
//!
//! What is undecided is held back: at most a sentence's end with the white space and bracket after it. Text in
//! backticks is code and left as it is; a single backtick that nothing closes makes code of its line only. Nothing
//! that is shown outside code has a number in brackets that names no source.

use std::collections::BTreeSet;

/// Share of a sentence's content words that a cited passage must have.
const KEPT_SHARE: f32 = 0.3;
/// Share from which an uncited sentence gets the number of the passage.
const ADDED_SHARE: f32 = 0.5;
/// Content words that a sentence must have to be given a number.
const ADDED_WORDS: usize = 3;
/// Longest text in brackets that can be a citation.
const LONGEST_BRACKET: usize = 24;
/// Backticks from which code is a block that goes over lines, and no longer part of a sentence.
const FENCE: usize = 3;

/// What became of an answer's citations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Kept as the model wrote them.
    pub kept: usize,
    /// Taken out: there is no such source.
    pub dropped_unknown: usize,
    /// Taken out: the source does not say this.
    pub dropped_unsupported: usize,
    /// Added to sentences that had none.
    pub added: usize,
    /// The sources that the shown text cites, each once, in rising order.
    pub cited: Vec<usize>,
}

impl Report {
    fn cite(&mut self, n: usize) {
        if let Err(at) = self.cited.binary_search(&n) {
            self.cited.insert(at, n);
        }
    }
}

/// Checks the citations of one answer; see the module.
#[derive(Debug)]
pub struct Citations {
    sources: Vec<BTreeSet<String>>,
    /// Undecided text.
    tail: String,
    /// The sentence so far, without citations.
    sentence: String,
    /// Whether the sentence has a citation.
    cited: bool,
    /// Whether the sentence has ended, and only its citations may still come.
    ended: bool,
    /// Length of the run of backticks that opened the code we are in.
    code: Option<usize>,
    /// What is shown since a `[`, while it could still become a citation.
    open: Option<String>,
    report: Report,
}

/// What the front of the undecided text is.
enum Step {
    /// More text is needed to tell.
    Wait,
    /// It is decided: so many bytes of it, and what is shown instead.
    Take(usize, String),
}

impl Citations {
    /// A checker for an answer that rests on these passages, in the order of their numbers.
    pub fn new(passages: Vec<String>) -> Self {
        Self {
            sources: passages.iter().map(|text| content_words(text).collect()).collect(),
            tail: String::new(),
            sentence: String::new(),
            cited: false,
            ended: false,
            code: None,
            open: None,
            report: Report::default(),
        }
    }

    /// Takes more text; gives what can be shown.
    pub fn push(&mut self, text: &str) -> String {
        self.tail.push_str(text);
        self.advance(false)
    }

    /// Takes the end; gives the rest, and what became of the citations.
    pub fn finish(mut self) -> (String, Report) {
        let mut rest = self.advance(true);
        // An end without a full stop ends its sentence as well; an end within code is left as it is.
        if self.code.is_none()
            && let Some(citation) = self.missing()
        {
            rest.push_str(&citation);
        }
        (rest, self.report)
    }

    fn advance(&mut self, end: bool) -> String {
        let mut shown = String::new();
        let mut tail = std::mem::take(&mut self.tail);
        let mut at = 0;
        while at < tail.len() {
            let code = self.code.is_some();
            match self.step(&tail[at..], end) {
                Step::Wait => break,
                Step::Take(bytes, text) => {
                    at += bytes;
                    // What ends code stands outside of it, be it with a bracket after it.
                    let within = code && self.code.is_some();
                    if within { shown.push_str(&text) } else { self.show(&text, &mut shown) }
                }
            }
        }
        tail.drain(..at);
        self.tail = tail;
        shown
    }

    /// Shows text outside code. Where a citation is taken out from within brackets, what is left of them can read as
    /// a citation that was never checked (`[9[9]]`): those brackets are not closed. One that was checked comes whole.
    fn show(&mut self, text: &str, shown: &mut String) {
        let mut whole = false;
        for c in text.chars() {
            match (&mut self.open, c) {
                (_, '[') => {
                    self.open = Some(String::new());
                    whole = true;
                }
                (Some(inside), ']') => {
                    if !whole && !numbers(inside).is_empty() {
                        // Still open: the next one would close them as well.
                        continue;
                    }
                    self.open = None;
                }
                (Some(inside), c) if is_in_citation(c) => inside.push(c),
                _ => self.open = None,
            }
            shown.push(c);
        }
    }

    fn step(&mut self, text: &str, end: bool) -> Step {
        let Some(first) = text.chars().next() else { return Step::Wait };
        if self.ended && !(first.is_whitespace() || first == '[') {
            self.begin_sentence();
        }
        if first == '`' {
            return self.backticks(text, end);
        }
        if first == '\n' && self.code.is_some_and(|run| run < FENCE) {
            self.code = None;
        }
        if self.code.is_some() || !(is_end(first) || first.is_whitespace() || first == '[') {
            self.sentence.push(first);
            return Step::Take(first.len_utf8(), first.to_string());
        }
        // A possible end of a sentence, the white space after it, and what comes then.
        let stops = prefix(text, is_end);
        let space = prefix(&text[stops..], char::is_whitespace);
        let after = &text[stops + space..];
        let front = &text[..stops + space];
        if after.is_empty() && !end {
            return Step::Wait;
        }
        if after.starts_with('[') {
            return match bracket(after, end) {
                Bracket::Unfinished => Step::Wait,
                Bracket::Citation(numbers, length) => {
                    let cited = self.check(&numbers);
                    self.ended |= stops > 0;
                    // A citation after the full stop belongs to the sentence before it.
                    let kept = if cited.is_empty() { &text[..stops] } else { front };
                    Step::Take(front.len() + length, format!("{kept}{cited}"))
                }
                Bracket::Other => {
                    let shown = format!("{}[", self.gap(stops, front, false));
                    Step::Take(front.len() + 1, shown)
                }
            };
        }
        Step::Take(front.len(), self.gap(stops, front, after.is_empty()))
    }

    /// A run of backticks opens code, or closes it where it is as long as the one that opened it.
    fn backticks(&mut self, text: &str, end: bool) -> Step {
        let run = prefix(text, |c| c == '`');
        if run == text.len() && !end {
            return Step::Wait;
        }
        match self.code {
            None => self.code = Some(run),
            Some(open) if open == run => {
                self.code = None;
                // A number after a closing fence would open it again.
                if run >= FENCE {
                    self.begin_sentence();
                }
            }
            Some(_) => {}
        }
        Step::Take(run, text[..run].to_owned())
    }

    /// Shows stops and white space that no citation follows. Where they end a sentence, its citation is added if it
    /// has none.
    fn gap(&mut self, stops: usize, front: &str, end: bool) -> String {
        let (stop, space) = front.split_at(stops);
        let ends = if stops > 0 { end || !space.is_empty() } else { space.contains('\n') };
        if !ends {
            self.sentence.push_str(front);
            return front.to_owned();
        }
        let citation = self.missing().unwrap_or_default();
        self.begin_sentence();
        format!("{citation}{stop}{space}")
    }

    fn begin_sentence(&mut self) {
        self.sentence.clear();
        self.cited = false;
        self.ended = false;
    }

    /// The citation that the sentence lacks, if it clearly rests on one source.
    fn missing(&mut self) -> Option<String> {
        let words: BTreeSet<String> = content_words(&self.sentence).collect();
        if self.cited || words.len() < ADDED_WORDS {
            return None;
        }
        let shares = self.sources.iter().map(|source| share(&words, source));
        // The first of equals: it ranks higher.
        let (n, best) = shares.enumerate().fold((0, 0.0), |best, next| if next.1 > best.1 { next } else { best });
        if best < ADDED_SHARE {
            return None;
        }
        self.cited = true;
        self.report.added += 1;
        self.report.cite(n + 1);
        Some(format!(" [{}]", n + 1))
    }

    /// What is shown of a citation.
    fn check(&mut self, numbers: &[usize]) -> String {
        let words: BTreeSet<String> = content_words(&self.sentence).collect();
        let mut shown = String::new();
        for &n in numbers {
            match n.checked_sub(1).and_then(|at| self.sources.get(at)) {
                None => self.report.dropped_unknown += 1,
                Some(source) if !words.is_empty() && share(&words, source) < KEPT_SHARE => {
                    self.report.dropped_unsupported += 1;
                }
                Some(_) => {
                    self.report.kept += 1;
                    self.report.cite(n);
                    self.cited = true;
                    shown.push_str(&format!("[{n}]"));
                }
            }
        }
        shown
    }
}

/// What a text that begins with `[` begins with.
enum Bracket {
    /// Not enough of it to tell.
    Unfinished,
    /// A citation of these numbers, so many bytes long.
    Citation(Vec<usize>, usize),
    /// Something else.
    Other,
}

fn bracket(text: &str, end: bool) -> Bracket {
    let inside = &text[1..];
    let length = prefix(inside, is_in_citation);
    if length > LONGEST_BRACKET {
        return Bracket::Other;
    }
    match inside[length..].chars().next() {
        None if end => Bracket::Other,
        None => Bracket::Unfinished,
        Some(']') => match numbers(&inside[..length]) {
            numbers if numbers.is_empty() => Bracket::Other,
            numbers => Bracket::Citation(numbers, length + 2),
        },
        Some(_) => Bracket::Other,
    }
}

/// What a citation has between its brackets.
fn is_in_citation(c: char) -> bool {
    c.is_ascii_digit() || matches!(c, ',' | ' ' | '-' | '–' | '^' | ';')
}

/// The numbers of `1, 2` or `1-3`.
fn numbers(text: &str) -> Vec<usize> {
    let mut numbers = Vec::new();
    for part in
        text.trim_start_matches('^').split([',', ';', ' ']).filter(|part| part.contains(|c: char| c.is_ascii_digit()))
    {
        // What is too long to be a number names no source.
        let number = |text: &str| text.trim_start_matches('^').parse::<usize>().unwrap_or(usize::MAX);
        match part.split_once(['-', '–']) {
            Some((from, to)) if !from.is_empty() && !to.is_empty() => {
                let (from, to) = (number(from), number(to));
                // A range over more than a prompt holds is no range.
                if from <= to && to - from < 32 { numbers.extend(from..=to) } else { numbers.push(usize::MAX) }
            }
            Some(_) => numbers.push(usize::MAX),
            None => numbers.push(number(part)),
        }
    }
    numbers
}

fn is_end(c: char) -> bool {
    matches!(c, '.' | '!' | '?' | '…' | '。')
}

/// Bytes of the longest front of a text of which every character is one of these.
fn prefix(text: &str, is_one: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is_one(c)).unwrap_or(text.len())
}

/// Share of the words that a passage has.
fn share(words: &BTreeSet<String>, passage: &BTreeSet<String>) -> f32 {
    words.intersection(passage).count() as f32 / words.len().max(1) as f32
}

/// The words that carry meaning, lower-cased and without common endings.
fn content_words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric()).filter_map(|word| {
        let word = word.to_lowercase();
        let number = word.chars().any(|c| c.is_ascii_digit());
        if !number && (word.chars().count() < 3 || STOP_WORDS.contains(&word.as_str())) {
            return None;
        }
        let length = word.chars().count();
        let stem = if number || length <= 4 { length } else { (length - 2).max(4) };
        Some(word.chars().take(stem).collect())
    })
}

/// English words that say nothing of a sentence's subject.
const STOP_WORDS: [&str; 48] = [
    "the", "and", "for", "are", "was", "were", "has", "have", "had", "not", "but", "with", "from", "that", "this",
    "these", "those", "they", "them", "their", "there", "which", "what", "when", "where", "who", "whom", "how", "why",
    "can", "could", "may", "might", "must", "shall", "should", "will", "would", "you", "your", "our", "its", "been",
    "being", "also", "into", "than", "then",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passages() -> Vec<String> {
        vec![
            "The daily limit for meals is 48 euros in Europe.".to_owned(),
            "The engineer on call answers a page within 15 minutes.".to_owned(),
        ]
    }

    fn whole(text: &str) -> (String, Report) {
        let mut citations = Citations::new(passages());
        let mut shown = citations.push(text);
        let (rest, report) = citations.finish();
        shown.push_str(&rest);
        (shown, report)
    }

    #[test]
    fn what_names_no_source_or_one_that_does_not_say_it_is_taken_out_with_its_space() {
        let (text, report) = whole(
            "The meal limit is 48 euros [1]. Pages are answered in 15 minutes [1, 2] by the engineer on call [7].",
        );
        assert_eq!(
            text,
            "The meal limit is 48 euros [1]. Pages are answered in 15 minutes [2] by the engineer on call."
        );
        assert_eq!((report.kept, report.dropped_unknown, report.dropped_unsupported, report.added), (2, 1, 1, 0));
        assert_eq!(report.cited, [1, 2]);
    }

    #[test]
    fn every_way_to_write_a_citation_is_understood() {
        for (given, expected) in [
            ("The daily limit is 48 euros.[1] ", "The daily limit is 48 euros.[1] "),
            ("The daily limit is 48 euros. [^1]", "The daily limit is 48 euros. [1]"),
            ("The daily limit is 48 euros [1-2].", "The daily limit is 48 euros [1]."),
            ("The daily limit is 48 euros [1][9].", "The daily limit is 48 euros [1]."),
            ("The daily limit is 48 euros [99999999999999999999999].", "The daily limit is 48 euros [1]."),
        ] {
            assert_eq!(whole(given).0, expected);
        }
    }

    #[test]
    fn a_sentence_that_rests_on_a_source_is_given_its_number() {
        let (text, report) = whole(
            "The daily limit for meals is 48 euros. I hope this helps you.\n\n- The engineer answers a page within 15 minutes\n",
        );
        assert_eq!(
            text,
            "The daily limit for meals is 48 euros [1]. I hope this helps you.\n\n- The engineer answers a page within 15 minutes [2]\n"
        );
        assert_eq!((report.added, report.cited), (2, vec![1, 2]));
        assert_eq!(whole("The limit for meals is 48 euros").0, "The limit for meals is 48 euros [1]");
    }

    #[test]
    fn code_and_other_brackets_are_left_as_they_are() {
        for text in [
            "Use `a[7]` here",
            "```\nb[9] = 1.\n```",
            "[x] done",
            "[-]",
            "see [the guide](https://x.test)",
            "a 4.5 b",
            "[",
            "[1",
        ] {
            assert_eq!(whole(text).0, text);
        }
    }

    #[test]
    fn a_backtick_that_nothing_closes_makes_code_of_its_line_only() {
        let (text, report) = whole("It`s so [9].\nThe limit for meals is 48 euros [9].");
        assert_eq!(text, "It`s so [9].\nThe limit for meals is 48 euros [1].");
        assert_eq!((report.dropped_unknown, report.added), (1, 1));
    }

    #[test]
    fn no_number_is_added_to_a_block_of_code() {
        for text in [
            "```\nThe limit for meals is 48 euros\n```",
            "```\nThe limit for meals is 48 euros",
            "```\nThe limit for meals is 48 euros\n```\n",
        ] {
            assert_eq!(whole(text), (text.to_owned(), Report::default()));
        }
    }

    #[test]
    fn a_line_that_ends_code_ends_it_for_the_bracket_after_it() {
        assert_eq!(whole("`a\n [[9]9] b").0, "`a\n [9 b");
    }

    #[test]
    fn what_is_left_of_nested_brackets_is_no_citation() {
        for (given, expected) in [
            ("[9[9]]", "[9"),
            ("[[9]9]", "[9"),
            ("[3[0]]]", "[3"),
            ("[[1]]", "[[1]]"),
            ("a [ [7] ] b", "a [ ] b"),
            ("[1[9]]", "[1"),
            ("[2[1]]", "[2"),
        ] {
            assert_eq!(whole(given).0, expected, "{given}");
        }
    }

    proptest! {
        #[test]
        fn the_pieces_in_which_a_text_comes_make_no_difference(
            text in "([a-z ]{0,8}|\\[[0-9,-]{0,4}\\]|[.!?`\\n\\[\\] ]|meals|48 euros|é)*", cuts in proptest::collection::vec(0usize..200, 0..12)
        ) {
            let mut citations = Citations::new(passages());
            let mut shown = String::new();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| text.is_char_boundary(*cut) && *cut <= text.len()).collect();
            cuts.sort_unstable();
            let mut from = 0;
            for to in cuts.into_iter().chain([text.len()]) {
                shown.push_str(&citations.push(&text[from..to]));
                from = to;
            }
            let (rest, report) = citations.finish();
            shown.push_str(&rest);
            prop_assert_eq!((shown, report), whole(&text));
        }

        #[test]
        fn outside_code_no_number_in_brackets_is_without_a_source(text in "([a-z .]{0,6}|\\[[0-9]{1,3}\\]|[\\[\\] 0-9,^-]|\\n)*") {
            let shown = whole(&text).0;
            for part in shown.split('[').skip(1) {
                let Some((inside, _)) = part.split_once(']') else { continue };
                if inside.chars().all(is_in_citation) {
                    prop_assert!(numbers(inside).iter().all(|n| [1, 2].contains(n)), "{}", shown);
                }
            }
        }
    }
}
