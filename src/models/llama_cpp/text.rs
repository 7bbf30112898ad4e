//! From tokens to text: whole characters only, and nothing that may be the beginning of a stop text.

/// The text of one sequence as it grows.
pub(super) struct TextOut {
    stop: Vec<String>,
    /// Bytes of a character that is not complete.
    bytes: Vec<u8>,
    /// Text that may be the beginning of a stop text.
    held: String,
}

impl TextOut {
    /// The text of a sequence that ends before the first of these.
    pub(super) fn new(stop: Vec<String>) -> Self {
        Self { stop: stop.into_iter().filter(|text| !text.is_empty()).collect(), bytes: Vec::new(), held: String::new() }
    }

    /// Takes the bytes of a token. Gives the text that can be shown, and whether a stop text has come.
    pub(super) fn push(&mut self, bytes: &[u8]) -> (String, bool) {
        self.bytes.extend_from_slice(bytes);
        self.decode(false);
        if let Some(at) = self.stop.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stop.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The rest, at the end.
    pub(super) fn finish(&mut self) -> String {
        self.decode(true);
        std::mem::take(&mut self.held)
    }

    /// Moves whole characters to the text. What can become none is replaced, as is what is left at the end.
    fn decode(&mut self, end: bool) {
        loop {
            match std::str::from_utf8(&self.bytes) {
                Ok(text) => {
                    self.held.push_str(text);
                    return self.bytes.clear();
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    self.held.push_str(&String::from_utf8_lossy(&self.bytes[..valid]));
                    let Some(invalid) = error.error_len().or(end.then_some(self.bytes.len() - valid)) else {
                        self.bytes.drain(..valid);
                        return;
                    };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    self.bytes.drain(..valid + invalid);
                }
            }
        }
    }
}

/// Bytes at the end of `text` that `stop` begins with.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest)
        .rev()
        .find(|n| text.is_char_boundary(text.len() - n) && stop.starts_with(&text[text.len() - n..]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stop_text_is_held_back_across_tokens_and_never_shown() {
        let mut out = TextOut::new(vec!["###".into(), "END".into()]);
        assert_eq!(out.push(b"one #"), ("one ".into(), false));
        assert_eq!(out.push(b"# two E"), ("## two ".into(), false));
        assert_eq!(out.push(b"ND more"), (String::new(), true));
    }

    #[test]
    fn what_is_no_character_is_replaced() {
        let mut out = TextOut::new(Vec::new());
        assert_eq!(out.push(b"a\xffb\xe2\x82"), ("a\u{fffd}b".into(), false));
        assert_eq!(out.push(b"\xac"), ("€".into(), false));
        assert_eq!(out.push(b"\xf0\x9f"), (String::new(), false));
        assert_eq!(out.finish(), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_cut_of_a_text_gives_the_same_text(text in "(a|b|ab|é|漢|🦀|##|#){0,40}", cuts in proptest::collection::vec(1usize..5, 1..20)) {
            let whole = text.find("###").map_or(text.as_str(), |at| &text[..at]);
            let mut out = TextOut::new(vec!["###".into()]);
            let mut shown = String::new();
            let mut rest = text.as_bytes();
            let mut cuts = cuts.iter().cycle();
            let mut stopped = false;
            while !rest.is_empty() && !stopped {
                let (now, later) = rest.split_at((*cuts.next().unwrap_or(&1)).min(rest.len()));
                let (more, stop) = out.push(now);
                shown.push_str(&more);
                (rest, stopped) = (later, stop);
            }
            if !stopped {
                shown.push_str(&out.finish());
            }
            prop_assert_eq!(shown, whole);
        }
    }
}
