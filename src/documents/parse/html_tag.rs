//! One HTML tag, and the content of an element that is not markup: the reading part of
//! [`super::html_subset`]. Linear in what it is given; keeps only the attributes that matter there.

/// A tag with the few attributes that matter.
#[derive(Debug, Default)]
pub struct Tag {
    /// Name in lower case.
    pub name: String,
    /// Bytes from `<` to past `>`.
    pub length: usize,
    /// It ends with `/>`.
    pub self_closing: bool,
    /// Not to be shown or not to be read out: `hidden`, `aria-hidden`, `display: none`.
    pub hidden: bool,
    /// Text in place of a picture, with entities.
    pub alt: Option<String>,
    /// Language of code, from a class `language-x` or `lang-x`.
    pub language: Option<String>,
    /// First number of an ordered list.
    pub start: Option<u16>,
}

impl Tag {
    /// Reads the tag at the start of `html`; `None` where the text ends inside it.
    pub fn parse(html: &str) -> Option<Tag> {
        let bytes = html.as_bytes();
        let mut at = if bytes[1] == b'/' { 2 } else { 1 };
        let find = |from: usize, stop: &dyn Fn(u8) -> bool| {
            bytes[from..].iter().position(|&b| stop(b)).map(|found| from + found)
        };
        let end = find(at, &|b| b.is_ascii_whitespace() || b == b'/' || b == b'>')?;
        let mut tag = Tag { name: html[at..end].to_ascii_lowercase(), ..Tag::default() };
        at = end;
        loop {
            at = find(at, &|b| !b.is_ascii_whitespace() && b != b'/')?;
            if bytes[at] == b'>' {
                tag.self_closing = bytes[at - 1] == b'/';
                tag.length = at + 1;
                return Some(tag);
            }
            // The first byte belongs to the name whatever it is, even "=".
            let end = find(at + 1, &|b| b.is_ascii_whitespace() || matches!(b, b'/' | b'>' | b'='))?;
            let name_range = at..end;
            at = find(end, &|b| !b.is_ascii_whitespace())?;
            let mut value = "";
            if bytes[at] == b'=' {
                at = find(at + 1, &|b| !b.is_ascii_whitespace())?;
                let quote = bytes[at];
                if quote == b'"' || quote == b'\'' {
                    let end = find(at + 1, &|b| b == quote)?;
                    value = &html[at + 1..end];
                    at = end + 1;
                } else {
                    let end = find(at, &|b| b.is_ascii_whitespace() || b == b'>')?;
                    value = &html[at..end];
                    at = end;
                }
            }
            tag.attribute(html.get(name_range).unwrap_or_default(), value);
        }
    }

    fn attribute(&mut self, name: &str, value: &str) {
        if name.eq_ignore_ascii_case("hidden") {
            self.hidden = true;
        } else if name.eq_ignore_ascii_case("aria-hidden") {
            self.hidden |= value.trim().eq_ignore_ascii_case("true");
        } else if name.eq_ignore_ascii_case("style") {
            let compact: String = value.chars().filter(|c| !c.is_whitespace()).take(1000).collect();
            self.hidden |= compact.to_ascii_lowercase().contains("display:none");
        } else if name.eq_ignore_ascii_case("alt") {
            self.alt.get_or_insert_with(|| value.to_owned());
        } else if name.eq_ignore_ascii_case("start") {
            // Larger numbers only widen the indent.
            self.start = value.trim().parse().ok().filter(|n| (2..=9999).contains(n));
        } else if name.eq_ignore_ascii_case("class") {
            let language = |class: &str| {
                let name = class.strip_prefix("language-").or_else(|| class.strip_prefix("lang-"))?;
                let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'#' | b'.' | b'_' | b'-');
                (!name.is_empty() && name.len() <= 32 && name.bytes().all(plain)).then(|| name.to_owned())
            };
            self.language = value.split_ascii_whitespace().take(50).find_map(language);
        }
    }
}

/// The content of a raw text element up to its end tag, and the bytes to skip; all the rest
/// where the end tag is missing, as browsers do.
pub fn raw_content<'a>(html: &'a str, name: &str) -> (&'a str, usize) {
    let mut at = 0;
    while let Some(found) = html[at..].find("</") {
        at += found;
        let after = &html.as_bytes()[at + 2..];
        let named = after.len() > name.len() && after[..name.len()].eq_ignore_ascii_case(name.as_bytes());
        if named && matches!(after[name.len()], b'>' | b'/' | b' ' | b'\t' | b'\n' | b'\x0c') {
            let end = html[at..].find('>').map_or(html.len(), |end| at + end + 1);
            return (&html[..at], end);
        }
        at += 2;
    }
    (html, html.len())
}
