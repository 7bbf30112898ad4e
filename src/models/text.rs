//! From tokens to text: whole characters only, and nothing that may be the beginning of a stop text.

/// The text of one sequence as it grows.
pub struct TextOut {
    stop: Vec<String>,
    /// Bytes of a character that is not complete.
    bytes: Vec<u8>,
    /// Text that may be the beginning of a stop text.
    held: String,
}

impl TextOut {
    /// Text that ends before the first of these; empty ones do not count.
    pub fn new(stop: Vec<String>) -> Self {
        Self {
            stop: stop.into_iter().filter(|stop| !stop.is_empty()).collect(),
            bytes: Vec::new(),
            held: String::new(),
        }
    }

    /// Takes the bytes of a token. Gives the text that can be shown, and whether a stop text has come; nothing is held
    /// back any more then.
    pub fn push(&mut self, bytes: &[u8]) -> (String, bool) {
        self.bytes.extend_from_slice(bytes);
        self.decode();
        if let Some(at) = self.stop.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.held.truncate(at);
            self.bytes.clear();
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stop.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What is held back, once it is known that no more comes. A character that is not complete is left out: the limit
    /// of tokens can cut one in two.
    pub fn finish(&mut self) -> String {
        self.bytes.clear();
        std::mem::take(&mut self.held)
    }

    /// Moves whole characters to the text. Bytes that can become no character are replaced.
    fn decode(&mut self) {
        let mut from = 0;
        for chunk in self.bytes.utf8_chunks() {
            self.held.push_str(chunk.valid());
            from += chunk.valid().len();
            let invalid = chunk.invalid();
            let last = from + invalid.len() == self.bytes.len();
            if !invalid.is_empty() {
                // An incomplete character is invalid only for want of what follows.
                if last && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none()) {
                    break;
                }
                self.held.push(char::REPLACEMENT_CHARACTER);
                from += invalid.len();
            }
        }
        self.bytes.drain(..from);
    }
}

/// Bytes at the end of `text` that `stop` begins with, without being all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let starts = stop.char_indices().skip(1).map(|(at, _)| at);
    starts.filter(|&at| text.ends_with(&stop[..at])).max().unwrap_or(0)
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
        assert_eq!(out.finish(), "");
    }

    #[test]
    fn the_first_of_several_stop_texts_ends_the_text() {
        let mut out = TextOut::new(vec!["late".into(), "early".into(), String::new()]);
        assert_eq!(out.push(b"an early and a late one"), ("an ".into(), true));
    }

    #[test]
    fn what_was_held_back_in_vain_is_shown_at_the_end() {
        let mut out = TextOut::new(vec!["END".into()]);
        assert_eq!(out.push(b"EN"), (String::new(), false));
        assert_eq!(out.finish(), "EN");
    }

    #[test]
    fn what_is_no_character_is_replaced() {
        let mut out = TextOut::new(Vec::new());
        assert_eq!(out.push(b"a\xffb\xe2\x82"), ("a\u{fffd}b".into(), false));
        assert_eq!(out.push(b"\xac"), ("€".into(), false));
        assert_eq!(out.push(b"\xf0\x9f"), (String::new(), false));
        assert_eq!(out.push(b"x"), ("\u{fffd}x".into(), false));
        assert_eq!(out.push(b"y\xf0\x9f"), ("y".into(), false));
        assert_eq!(out.finish(), "");
    }

    proptest! {
        #[test]
        fn any_cut_into_tokens_gives_the_same_text(
            text in "(a|b|ab|é|漢|🦀|##|#é|#){0,40}",
            cuts in proptest::collection::vec(1usize..5, 1..20),
        ) {
            let stops = ["###", "é#", "ab漢"];
            let end = stops.iter().filter_map(|stop| text.find(stop)).min();
            let mut out = TextOut::new(stops.map(String::from).to_vec());
            let (mut shown, mut stopped, mut rest) = (String::new(), false, text.as_bytes());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() || stopped {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                let (more, stop) = out.push(now);
                shown.push_str(&more);
                (rest, stopped) = (later, stop);
            }
            shown.push_str(&out.finish());
            prop_assert_eq!(stopped, end.is_some());
            prop_assert_eq!(shown, &text[..end.unwrap_or(text.len())]);
        }

        #[test]
        fn any_bytes_give_what_a_lossy_reading_of_all_of_them_gives(
            mut bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0xe2), Just(0x82), Just(0xf0), Just(0x9f)], 0..40),
            cut in 1usize..5,
        ) {
            // Something whole at the end: what is cut there is left out.
            bytes.push(b'.');
            let mut out = TextOut::new(Vec::new());
            let mut shown: String = bytes.chunks(cut).map(|token| out.push(token).0).collect();
            shown.push_str(&out.finish());
            prop_assert_eq!(shown, String::from_utf8_lossy(&bytes));
        }
    }
}
