//! HTML to a small, balanced subset of HTML, in one linear scan. [`super::html`] converts only
//! what comes out of here, and that bounds its cost: parsers and converters of HTML take time (and
//! some, stack) that grows with nesting, with formatting elements left open, with attributes, with
//! content misplaced in tables. None of these reach them.
//!
//! Kept: text, headings, paragraphs, lists, tables, code, quotes, line breaks, and the
//! elements that tell main content from the rest. Dropped with their content: scripts, styles and the like.
//! All other tags are dropped and their content stays. `hidden` marks what must not be read.
//! Entities are left to the parser.

use super::html_tag::{Tag, raw_content};

/// Depth of lists and quotes after which more are flattened: each level indents every line below.
const MAX_INDENTS: usize = 16;

/// What the scan gives.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Subset {
    /// Content of the first `<title>`, with entities.
    pub title: Option<String>,
    /// The page in the subset.
    pub html: String,
}

/// Nested deeper than allowed.
#[derive(Debug, PartialEq, Eq)]
pub struct TooDeep;

/// What is done with an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Content is not markup, and is dropped with the tags.
    Raw,
    /// Like `Raw`, but the first one's content is the title.
    Title,
    /// Kept under this name, closed by its end tag.
    Block(&'static str),
    /// Kept; its end tag is optional, so it opens no level of its own.
    Flow(&'static str),
    /// Part of a table.
    TablePart(&'static str),
    /// Not to be read: kept as a hidden element.
    Hide,
    /// No content.
    Void,
    /// Inline code.
    Code,
    /// The tag is dropped and the content stays.
    Drop,
}

fn kind(name: &str) -> Kind {
    match name {
        "script" | "style" | "noscript" | "iframe" | "noembed" | "noframes" | "textarea" | "xmp" => Kind::Raw,
        "title" => Kind::Title,
        "h1" => Kind::Block("h1"),
        "h2" => Kind::Block("h2"),
        "h3" => Kind::Block("h3"),
        "h4" => Kind::Block("h4"),
        "h5" => Kind::Block("h5"),
        "h6" => Kind::Block("h6"),
        "ul" | "menu" | "dir" => Kind::Block("ul"),
        "ol" => Kind::Block("ol"),
        "dl" => Kind::Block("dl"),
        "blockquote" => Kind::Block("blockquote"),
        "pre" | "listing" => Kind::Block("pre"),
        "table" => Kind::Block("table"),
        "main" => Kind::Block("main"),
        "article" => Kind::Block("article"),
        "header" => Kind::Block("header"),
        "footer" => Kind::Block("footer"),
        "nav" => Kind::Block("nav"),
        "aside" => Kind::Block("aside"),
        "div" | "section" | "address" | "center" | "details" | "dialog" | "fieldset" | "figcaption" | "figure"
        | "form" | "hgroup" | "legend" | "search" | "summary" => Kind::Block("div"),
        "p" => Kind::Flow("p"),
        "li" => Kind::Flow("li"),
        "dt" => Kind::Flow("dt"),
        "dd" => Kind::Flow("dd"),
        "caption" => Kind::TablePart("caption"),
        "thead" => Kind::TablePart("thead"),
        "tbody" => Kind::TablePart("tbody"),
        "tfoot" => Kind::TablePart("tfoot"),
        "tr" => Kind::TablePart("tr"),
        "th" => Kind::TablePart("th"),
        "td" => Kind::TablePart("td"),
        "template" | "svg" | "math" | "canvas" | "object" | "audio" | "video" | "map" | "button" | "select"
        | "datalist" | "output" | "meter" | "progress" => Kind::Hide,
        "area" | "base" | "br" | "col" | "embed" | "hr" | "img" | "image" | "input" | "link" | "meta" | "param"
        | "source" | "track" | "wbr" | "frame" => Kind::Void,
        "code" => Kind::Code,
        _ => Kind::Drop,
    }
}

/// An element that is open.
struct Open {
    /// Name of its end tag.
    name: String,
    /// What closes it in the output; empty where nothing was written.
    close: &'static str,
    /// Inline: its end tag closes no block inside it.
    inline: bool,
    /// A table: holds back end tags of what is around it.
    table: bool,
    /// A table with an open cell or caption.
    in_cell: bool,
    /// Indents what is inside it.
    indents: bool,
    /// Levels of the parsed tree that it stands for, the implied ones included.
    levels: usize,
}

struct Scan {
    subset: Subset,
    open: Vec<Open>,
    levels: usize,
    max_levels: usize,
    indents: usize,
    pres: usize,
}

/// Reduces a page to the subset.
///
/// # Errors
/// [`TooDeep`] where more than `max_nesting` elements are nested; a table counts for four of
/// them and a list for two, as they imply elements of their own.
pub fn reduce(html: &str, max_nesting: usize) -> Result<Subset, TooDeep> {
    let mut scan = Scan {
        subset: Subset { title: None, html: String::with_capacity(html.len() / 2) },
        open: Vec::new(),
        levels: 0,
        max_levels: max_nesting,
        indents: 0,
        pres: 0,
    };
    let mut at = 0;
    // Where a tag or comment never ends, the rest is part of it, and is dropped.
    loop {
        let Some(found) = html[at..].find('<') else {
            scan.text(&html[at..]);
            break;
        };
        scan.text(&html[at..at + found]);
        at += found;
        let rest = &html[at..];
        let after = rest.as_bytes().get(1).copied().unwrap_or(b' ');
        if after.is_ascii_alphabetic() || (after == b'/' && rest.as_bytes().get(2).is_some_and(u8::is_ascii_alphabetic))
        {
            let Some(tag) = Tag::parse(rest) else { break };
            at += tag.length;
            if after == b'/' {
                scan.end(&tag.name);
            } else if matches!(kind(&tag.name), Kind::Raw | Kind::Title) {
                let (content, length) = raw_content(&html[at..], &tag.name);
                at += length;
                if tag.name == "title"
                    && scan.subset.title.is_none()
                    && !scan.open.iter().any(|o| o.close == HIDDEN_END)
                {
                    scan.subset.title = Some(content.to_owned());
                }
            } else {
                scan.start(&tag)?;
            }
        } else if rest.starts_with("<!--") {
            // "<!-->" is a whole comment, as in the specification.
            match rest[2..].find("-->") {
                Some(end) => at += 2 + end + 3,
                None => break,
            }
        } else if matches!(after, b'!' | b'?' | b'/') {
            match rest.find('>') {
                Some(end) => at += end + 1,
                None => break,
            }
        } else {
            scan.text("&lt;");
            at += 1;
        }
    }
    scan.close_to(0);
    Ok(scan.subset)
}

/// The comment keeps it apart from one before: the converter joins like elements side by side, at a
/// cost that grows with their number.
const HIDDEN_START: &str = "<!----><span hidden>";
const HIDDEN_END: &str = "</span>";

impl Scan {
    fn text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if !text.bytes().all(|b| b.is_ascii_whitespace()) {
            self.ensure_cell();
        }
        self.subset.html.push_str(text);
    }

    /// Content directly in a table gets a cell: a parser would move it before the table one by
    /// one, at a cost that grows with what is there already.
    fn ensure_cell(&mut self) {
        if let Some(table) = self.open.last_mut().filter(|open| open.table && !open.in_cell) {
            table.in_cell = true;
            self.subset.html.push_str("<tr><td>");
        }
    }

    fn start(&mut self, tag: &Tag) -> Result<(), TooDeep> {
        let hidden = tag.hidden;
        match kind(&tag.name) {
            Kind::TablePart(name) => self.table_part(name, hidden),
            Kind::Void => self.void(tag),
            Kind::Flow(name) => {
                self.ensure_cell();
                self.write_start(name, hidden, "");
            }
            Kind::Block(name) => {
                self.ensure_cell();
                let indents = matches!(name, "ul" | "ol" | "dl" | "blockquote");
                if indents && self.indents >= MAX_INDENTS && !hidden {
                    return self.push(&tag.name, "", false, false, 1);
                }
                let (attribute, close, levels) = match name {
                    "ol" => (tag.start.map(|n| format!(" start={n}")), "</ol>", 2),
                    "pre" => (tag.language.as_ref().map(|l| format!(" class=language-{l}")), "</span></pre>", 2),
                    "table" => (None, "</table>", 4),
                    "ul" => (None, "</ul>", 2),
                    "dl" => (None, "</dl>", 2),
                    _ => (None, end_tag(name), 1),
                };
                // Two <pre> side by side are two blocks; the converter joins them without this.
                if name == "pre" {
                    self.subset.html.push_str("<!---->");
                }
                self.write_start(name, hidden, attribute.as_deref().unwrap_or_default());
                if name == "pre" {
                    // The converter escapes text directly in <pre>.
                    self.subset.html.push_str("<span>");
                    self.pres += 1;
                }
                self.push(&tag.name, close, false, indents, levels)?;
            }
            Kind::Hide => {
                if matches!(tag.name.as_str(), "svg" | "math") && tag.self_closing {
                    return Ok(());
                }
                self.ensure_cell();
                self.subset.html.push_str(HIDDEN_START);
                self.push(&tag.name, HIDDEN_END, false, false, 1)?;
            }
            Kind::Code if !hidden => {
                self.ensure_cell();
                // One at a time: an element left open is opened again in each block that follows.
                if self.open.iter().any(|open| open.close == "</code>") {
                    return self.push(&tag.name, "", true, false, 1);
                }
                let class = tag.language.as_ref().map(|l| format!(" class=language-{l}"));
                self.subset.html.push_str("<!---->");
                self.write_start("code", false, class.as_deref().unwrap_or_default());
                self.push(&tag.name, "</code>", true, false, 1)?;
            }
            Kind::Code | Kind::Drop if hidden => {
                self.ensure_cell();
                self.subset.html.push_str(HIDDEN_START);
                self.push(&tag.name, HIDDEN_END, true, false, 1)?;
            }
            Kind::Drop if self.open.iter().any(|open| open.close == HIDDEN_END && open.name == tag.name) => {
                // So that its end tag is not taken for that of the hidden one.
                self.push(&tag.name, "", true, false, 1)?;
            }
            Kind::Code | Kind::Drop | Kind::Raw | Kind::Title => {}
        }
        Ok(())
    }

    fn void(&mut self, tag: &Tag) {
        match tag.name.as_str() {
            "br" if self.pres > 0 => self.subset.html.push('\n'),
            "br" | "hr" => {
                self.ensure_cell();
                self.subset.html.push_str(if tag.name == "br" { "<br>" } else { "<hr>" });
            }
            "img" | "image" if !tag.hidden => {
                if let Some(alt) = &tag.alt {
                    self.text(&alt.replace('<', "&lt;"));
                }
            }
            _ => {}
        }
    }

    fn table_part(&mut self, name: &'static str, hidden: bool) {
        let Some(table) = self.open.iter().rposition(|open| open.table) else {
            // No table: only the words must not run together.
            self.subset.html.push(' ');
            return;
        };
        self.close_to(table + 1);
        self.write_start(name, hidden, "");
        self.open[table].in_cell = matches!(name, "td" | "th" | "caption");
    }

    fn end(&mut self, name: &str) {
        let kind = kind(name);
        if let Kind::TablePart(name) = kind {
            if let Some(table) = self.open.iter().rposition(|open| open.table) {
                self.close_to(table + 1);
                self.subset.html.push_str(end_tag(name));
                self.open[table].in_cell = false;
            }
            return;
        }
        if let Kind::Flow(name) = kind {
            // A stray </p> would make an empty one in the wrong place of a table.
            if !self.open.last().is_some_and(|open| open.table && !open.in_cell) {
                self.subset.html.push_str(end_tag(name));
            }
            return;
        }
        let heading = |name: &str| matches!(name, "h1" | "h2" | "h3" | "h4" | "h5" | "h6");
        for at in (0..self.open.len()).rev() {
            let open = &self.open[at];
            if open.name == name || (heading(name) && heading(&open.name)) {
                self.close_to(at);
                return;
            }
            let inline = matches!(kind, Kind::Code | Kind::Drop);
            if open.table || (inline && !open.inline) {
                return;
            }
        }
    }

    fn write_start(&mut self, name: &str, hidden: bool, attribute: &str) {
        let html = &mut self.subset.html;
        html.push('<');
        html.push_str(name);
        html.push_str(attribute);
        html.push_str(if hidden { " hidden>" } else { ">" });
    }

    fn push(
        &mut self,
        name: &str,
        close: &'static str,
        inline: bool,
        indents: bool,
        levels: usize,
    ) -> Result<(), TooDeep> {
        self.levels += levels;
        self.indents += usize::from(indents);
        if self.levels > self.max_levels {
            return Err(TooDeep);
        }
        let table = close == "</table>";
        self.open.push(Open { name: name.to_owned(), close, inline, table, in_cell: false, indents, levels });
        Ok(())
    }

    fn close_to(&mut self, length: usize) {
        while self.open.len() > length {
            if let Some(open) = self.open.pop() {
                self.subset.html.push_str(open.close);
                self.levels -= open.levels;
                self.indents -= usize::from(open.indents);
                self.pres -= usize::from(open.close == "</span></pre>");
            }
        }
    }
}

fn end_tag(name: &str) -> &'static str {
    match name {
        "h1" => "</h1>",
        "h2" => "</h2>",
        "h3" => "</h3>",
        "h4" => "</h4>",
        "h5" => "</h5>",
        "h6" => "</h6>",
        "blockquote" => "</blockquote>",
        "main" => "</main>",
        "article" => "</article>",
        "header" => "</header>",
        "footer" => "</footer>",
        "nav" => "</nav>",
        "aside" => "</aside>",
        "p" => "</p>",
        "li" => "</li>",
        "dt" => "</dt>",
        "dd" => "</dd>",
        "caption" => "</caption>",
        "thead" => "</thead>",
        "tbody" => "</tbody>",
        "tfoot" => "</tfoot>",
        "tr" => "</tr>",
        "th" => "</th>",
        "td" => "</td>",
        _ => "</div>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subset(html: &str) -> String {
        reduce(html, 256).unwrap().html
    }

    #[test]
    fn the_output_is_balanced_whatever_was_left_open() {
        assert_eq!(subset("<div><section>a</DIV>b</div>"), "<div><div>a</div></div>b");
        assert_eq!(subset("<div><code>a"), "<div><!----><code>a</code></div>");
        assert_eq!(subset("<div><table><td></div>x"), "<div><table><td>x</table></div>");
    }

    #[test]
    fn scripts_comments_and_formatting_leave_no_trace() {
        assert_eq!(subset("a<script>if (a</b) '</p>'</script>b<style>x"), "ab");
        assert_eq!(subset("a<!-- <p> -->b<!-->c<?pi?><!doctype html>d"), "abcd");
        assert_eq!(subset("<a href='x>y'>l</a><b>b</b><my-tag>c</my-tag> 1 < 2"), "lbc 1 &lt; 2");
        assert_eq!(subset("x <p"), "x ");
        assert_eq!(subset("x <"), "x &lt;");
    }

    #[test]
    fn only_what_matters_remains_of_attributes() {
        assert_eq!(subset("<p id=a class='b' HIDDEN>x</p>"), "<p hidden>x</p>");
        assert_eq!(subset("<div aria-hidden=\"true\">x</div>"), "<div hidden>x</div>");
        assert_eq!(subset("<div style='Display: none'>x</div>"), "<div hidden>x</div>");
        assert_eq!(subset("<code class='a language-c++'>x</code>"), "<!----><code class=language-c++>x</code>");
        assert_eq!(subset("<img alt='a <b>' src=x>"), "a &lt;b>");
    }

    #[test]
    fn a_hidden_inline_element_ends_where_it_ends() {
        assert_eq!(subset("<span hidden>a<span>b</span>c</span>d"), "<!----><span hidden>abc</span>d");
        assert_eq!(subset("<svg><g><title>t</title></g></svg>d<svg/>e"), "<!----><span hidden></span>de");
    }

    #[test]
    fn the_title_is_the_first_one_outside_of_pictures() {
        let page = "<svg><title>no</title></svg><title>A &amp; B</title><title>late</title>";
        assert_eq!(reduce(page, 256).unwrap().title.as_deref(), Some("A &amp; B"));
    }

    #[test]
    fn text_straight_in_a_table_gets_a_cell() {
        assert_eq!(subset("<table>a<tr><td>b</table>"), "<table><tr><td>a<tr><td>b</table>");
    }

    #[test]
    fn nesting_is_refused_past_the_limit_and_only_then() {
        let nested = |n: usize, open: &str| open.repeat(n);
        assert!(reduce(&nested(256, "<div>"), 256).is_ok());
        assert_eq!(reduce(&nested(257, "<div>"), 256), Err(TooDeep));
        assert_eq!(reduce(&nested(100_000, "<div><table></div>"), 256), Err(TooDeep));
        assert!(reduce(&nested(100_000, "<p><li><b><div>x</div>"), 256).is_ok());
        assert!(reduce(&nested(100_000, "<font size=1><p>"), 256).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_gives_a_subset_without_other_tags(html in "(<[/!]?[a-z]{0,5}[ =\"'a-z]{0,8}>?|[^<]{0,4}|</?(table|tr|td|div|span|code|pre|svg)( hidden)?>){0,40}") {
            if let Ok(subset) = reduce(&html, 256) {
                for (at, _) in subset.html.match_indices('<') {
                    let name: String = subset.html[at + 1..].trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
                    prop_assert!(name.is_empty() && subset.html[at..].starts_with("<!---->") || name == "span" || !matches!(kind(&name), Kind::Raw | Kind::Title | Kind::Hide | Kind::Drop), "{}", name);
                }
            }
        }
    }
}
