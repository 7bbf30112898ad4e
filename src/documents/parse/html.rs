//! HTML to the Markdown of its main content, with htmd. `html_subset` goes first and bounds
//! what the conversion can cost; this file says which part of a page is kept and how tables and
//! code look. Follows no link and runs no script.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use htmd::element_handler::{HandlerResult, Handlers};
use htmd::options::{BulletListMarker, Options};
use htmd::{Element, HtmlToMarkdown};

use super::html_subset::{TooDeep, reduce};
use super::html_table::Table;
use super::text::normalise_newlines;
use super::{Format, ParseError, ParseLimits, ParsedDocument, markdown};

/// Bytes at the start of a page in which its `<meta charset>` must be, as the HTML standard says.
pub const CHARSET_WINDOW: usize = 1024;

/// Every element of the subset, for the handler that leaves out hidden ones.
const SUBSET: &[&str] = &[
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "ul",
    "ol",
    "dl",
    "blockquote",
    "pre",
    "table",
    "main",
    "article",
    "header",
    "footer",
    "nav",
    "aside",
    "div",
    "p",
    "li",
    "dt",
    "dd",
    "caption",
    "thead",
    "tbody",
    "tfoot",
    "tr",
    "th",
    "td",
    "code",
    "span",
];

/// The charset a page declares in its first bytes, `<meta charset=x>` or
/// `<meta http-equiv=content-type content="text/html; charset=x">`.
pub fn charset(head: &[u8]) -> Option<String> {
    let head: String = head.iter().map(|&b| b.to_ascii_lowercase() as char).collect();
    let declared = head.split("<meta").skip(1).find_map(|meta| {
        let (_, value) = meta.split('>').next()?.split_once("charset")?;
        let value = value.trim_start().strip_prefix('=')?.trim_start().trim_start_matches(['"', '\'']);
        let label: String = value.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_:.".contains(*c)).collect();
        (!label.is_empty()).then_some(label)
    })?;
    // A page that can be read this far as single bytes is not UTF-16, whatever it says.
    (!declared.starts_with("utf-16")).then_some(declared)
}

/// Whether a text begins the way only an HTML page does: `<!doctype html` or `<html`, after
/// white space, an XML declaration and comments.
pub fn begins_as_html(text: &str) -> bool {
    let mut rest = text.trim_start();
    loop {
        let end = if rest.starts_with("<!--") {
            "-->"
        } else if rest.starts_with("<?xml") {
            "?>"
        } else {
            break;
        };
        let Some((_, after)) = rest.split_once(end) else {
            return false;
        };
        rest = after.trim_start();
    }
    ["<!doctype html", "<html"].iter().any(|start| {
        rest.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
            && !rest[start.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-')
    })
}

/// Whether there is anything like a tag in a text.
pub fn has_tags(text: &str) -> bool {
    text.match_indices('<').any(|(at, _)| {
        let rest = text[at + 1..].trim_start_matches('/');
        rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '!')
    })
}

/// Converts a page. Kept is the content of `<main>`, else of a sole `<article>`, else of the
/// body; left out are scripts, navigation, asides, the page's header and footer, form controls
/// and hidden elements. Links keep their text and pictures their `alt`. Emphasis is dropped: it
/// helps no search and clutters quotes.
///
/// # Errors
/// [`ParseError::Malformed`] where elements are nested too deep, [`ParseError::Empty`] where
/// no readable text is left.
pub fn parse(html: &str, limits: &ParseLimits) -> Result<ParsedDocument, ParseError> {
    let subset = reduce(html, limits.max_nesting).map_err(|TooDeep| ParseError::Malformed {
        format: "HTML",
        reason: format!("its elements are nested more than {} deep", limits.max_nesting),
    })?;
    let state = Arc::new(Mutex::new(State::default()));
    let whole = convert(&converter(&state), &subset.html)?;
    let state = std::mem::take(&mut *lock(&state));
    let main = match (&state.mains[..], &state.articles[..]) {
        ([], [article]) => article.clone(),
        (mains, _) => mains.join("\n\n"),
    };
    let text = if main.trim().is_empty() { whole } else { main };
    // An entity can stand for a carriage return.
    let text = normalise_newlines(text.trim().to_owned());
    if text.is_empty() {
        return Err(ParseError::Empty("the page has no text outside of scripts, navigation and hidden parts"));
    }
    let stated = match &subset.title {
        Some(title) => markdown::tidy_title(&decode_entities(title)?),
        None => String::new(),
    };
    let title = if stated.is_empty() { markdown::title(&text) } else { Some(stated) };
    Ok(ParsedDocument::new(Format::Html, title, text))
}

fn convert(converter: &HtmlToMarkdown, html: &str) -> Result<String, ParseError> {
    converter.convert(html).map_err(|error| ParseError::Malformed { format: "HTML", reason: error.to_string() })
}

/// Plain text of a piece of HTML without elements.
fn decode_entities(text: &str) -> Result<String, ParseError> {
    // The text of <code> is not escaped for Markdown, and this handler adds nothing to it.
    static PLAIN: LazyLock<HtmlToMarkdown> = LazyLock::new(|| {
        HtmlToMarkdown::builder()
            .add_handler(vec!["code"], |handlers: &dyn Handlers, element: Element| {
                Some(handlers.walk_children(element.node))
            })
            .build()
    });
    convert(&PLAIN, &format!("<code>{}</code>", text.replace('<', "&lt;")))
}

/// What the handlers know of a page while it is converted; one page, one state, one thread.
#[derive(Default)]
struct State {
    /// Open `<main>` and `<article>` elements.
    main_depth: usize,
    article_depth: usize,
    /// Markdown of the outermost ones.
    mains: Vec<String>,
    articles: Vec<String>,
    /// Open tables, innermost last.
    tables: Vec<Table>,
    /// Open `<pre>` elements, and the language a `<code>` in the innermost one states.
    pre_depth: usize,
    pre_language: Option<String>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn converter(state: &Arc<Mutex<State>>) -> HtmlToMarkdown {
    let options = Options {
        bullet_list_marker: BulletListMarker::Dash,
        ul_bullet_spacing: 1,
        ol_number_spacing: 1,
        ..Options::default()
    };
    let on = |handler: fn(&Mutex<State>, &dyn Handlers, Element) -> Option<HandlerResult>| {
        let state = Arc::clone(state);
        move |handlers: &dyn Handlers, element: Element| handler(&state, handlers, element)
    };
    HtmlToMarkdown::builder()
        .options(options)
        .add_handler(vec!["main", "article"], on(content))
        .add_handler(vec!["header", "footer"], on(page_frame))
        .add_handler(vec!["table"], on(table))
        .add_handler(vec!["caption", "tr", "td", "th"], on(table_part))
        .add_handler(vec!["pre"], on(pre))
        .add_handler(vec!["code"], on(code))
        .skip_tags(vec!["nav", "aside"])
        // Added last, so asked first.
        .add_handler(SUBSET.to_vec(), |handlers: &dyn Handlers, element: Element| {
            let hidden = element.attrs.iter().any(|attribute| &*attribute.name.local == "hidden");
            if hidden { None } else { handlers.fallback(element) }
        })
        .build()
}

/// `<main>` and `<article>`: remembers the outermost ones.
fn content(state: &Mutex<State>, handlers: &dyn Handlers, element: Element) -> Option<HandlerResult> {
    let is_main = element.tag == "main";
    let depth = |state: &mut State, change: isize| {
        let depth = if is_main { &mut state.main_depth } else { &mut state.article_depth };
        *depth = depth.saturating_add_signed(change);
        *depth
    };
    depth(&mut lock(state), 1);
    let result = handlers.fallback(element);
    let mut state = lock(state);
    if depth(&mut state, -1) == 0 {
        let markdown = result.as_ref().map(|r| r.content.trim().to_owned()).filter(|content| !content.is_empty());
        let found = if is_main { &mut state.mains } else { &mut state.articles };
        found.extend(markdown);
    }
    result
}

/// `<header>` and `<footer>` belong to the page outside of its content, and to the content inside.
fn page_frame(state: &Mutex<State>, handlers: &dyn Handlers, element: Element) -> Option<HandlerResult> {
    let inside = {
        let state = lock(state);
        state.main_depth + state.article_depth > 0
    };
    if inside { handlers.fallback(element) } else { None }
}

/// Code with its own line breaks: always a fenced block, so that nothing in it is read as Markdown.
fn pre(state: &Mutex<State>, handlers: &dyn Handlers, element: Element) -> Option<HandlerResult> {
    let outermost = {
        let mut state = lock(state);
        state.pre_depth += 1;
        state.pre_depth == 1
    };
    let own_language = class_language(&element);
    let result = handlers.walk_children(element.node);
    let language = {
        let mut state = lock(state);
        state.pre_depth -= 1;
        if !outermost {
            return Some(result);
        }
        own_language.or(state.pre_language.take()).unwrap_or_default()
    };
    let code = result.content.trim_matches('\n');
    if code.trim().is_empty() {
        return None;
    }
    let longest = code.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    Some(format!("\n\n{fence}{language}\n{code}\n{fence}\n\n").into())
}

fn code(state: &Mutex<State>, handlers: &dyn Handlers, element: Element) -> Option<HandlerResult> {
    {
        let mut state = lock(state);
        if state.pre_depth > 0 {
            state.pre_language = class_language(&element).or(state.pre_language.take());
            drop(state);
            return Some(handlers.walk_children(element.node));
        }
    }
    handlers.fallback(element)
}

/// The language of code: the subset leaves no other class than `language-x`.
fn class_language(element: &Element) -> Option<String> {
    let class = element.attrs.iter().find(|attribute| &*attribute.name.local == "class")?;
    class.value.strip_prefix("language-").map(str::to_owned)
}

fn table(state: &Mutex<State>, handlers: &dyn Handlers, element: Element) -> Option<HandlerResult> {
    lock(state).tables.push(Table::default());
    // The cells collect themselves in the state.
    handlers.walk_children(element.node);
    let table = lock(state).tables.pop()?;
    let markdown = table.render();
    (!markdown.is_empty()).then(|| format!("\n\n{markdown}\n\n").into())
}

fn table_part(state: &Mutex<State>, handlers: &dyn Handlers, element: Element) -> Option<HandlerResult> {
    if lock(state).tables.is_empty() {
        return handlers.fallback(element);
    }
    if element.tag == "tr"
        && let Some(table) = lock(state).tables.last_mut()
    {
        table.rows.push(Vec::new());
    }
    let content = handlers.walk_children(element.node).content;
    if let Some(table) = lock(state).tables.last_mut() {
        match element.tag {
            "caption" => table.captions.push(content),
            "td" | "th" => {
                table.has_header |= element.tag == "th";
                if let Some(row) = table.rows.last_mut() {
                    row.push(content);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(html: &str) -> ParsedDocument {
        parse(html, &ParseLimits::default()).unwrap()
    }

    fn text(html: &str) -> String {
        page(html).text
    }

    #[test]
    fn main_goes_before_a_sole_article_and_that_before_the_body() {
        assert_eq!(text("<body>x<article>a</article><main>m</main></body>"), "m");
        assert_eq!(text("<body>x<article>a<article>b</article></article></body>"), "a\n\nb");
        assert_eq!(text("<body>x<article>a</article><article>b</article></body>"), "x\n\na\n\nb");
        assert_eq!(text("<body>x<main> </main></body>"), "x");
    }

    #[test]
    fn what_surrounds_the_content_is_left_out() {
        let html = "<header>logo</header><nav>menu</nav><p>text</p><p hidden>h</p><div aria-hidden=true>i</div>\
            <aside>ad</aside><form><label>Name</label><select><option>o</select><button>b</button></form>\
            <svg><text>s</text></svg><script>j</script><template>t</template><noscript>n</noscript><footer>f</footer>";
        assert_eq!(text(html), "text\n\nName");
        assert_eq!(
            text("<header>logo</header><article><header><h1>T</h1></header>x<footer>by me</footer></article>"),
            "# T\n\nx\n\nby me"
        );
    }

    #[test]
    fn headings_lists_quotes_and_links_become_markdown() {
        let html = "<h2>A <em>b</em></h2><p>See <a href=/x>the page</a>, <img alt='a chart' src=c>.</p>\
            <ul><li>one<li>two<ul><li>deep</ul></ul><ol start=3><li>three</ol><blockquote>q</blockquote>";
        assert_eq!(text(html), "## A b\n\nSee the page, a chart.\n\n- one\n- two\n  - deep\n\n3. three\n\n> q");
    }

    #[test]
    fn tables_keep_their_rows() {
        let html = "<table><caption>Fees</caption><thead><tr><th>A</th><th>B|C</th></tr></thead>\
            <tr><td><p>1</p><p>2</p></td><td>long</td></tr><tr hidden><td>h</td><td>h</td></tr></table>";
        assert_eq!(text(html), "Fees\n\n| A | B\\|C |\n| --- | --- |\n| 1 2 | long |");
        assert_eq!(text("<table><tr><td>a<td>b<tr><td>c<td>d</table>"), "| a | b |\n| --- | --- |\n| c | d |");
    }

    #[test]
    fn a_table_for_layout_is_taken_apart() {
        let html =
            "<table><tr><td><h1>T</h1><p>x</p></td><td><table><tr><th>A<th>B<tr><td>1<td>2</table></td></tr></table>";
        assert_eq!(text(html), "# T\n\nx\n\n| A | B |\n| --- | --- |\n| 1 | 2 |");
    }

    #[test]
    fn code_is_fenced_with_its_language_and_verbatim() {
        let html = "<pre><code class='language-rust hl'>fn a() {\n    <span>b</span>(\"_*\");\n}</code></pre>";
        assert_eq!(text(html), "```rust\nfn a() {\n    b(\"_*\");\n}\n```");
        assert_eq!(text("<pre>~/bin\n# not a heading<br>```</pre>"), "````\n~/bin\n# not a heading\n```\n````");
        assert_eq!(text("<p>Run <code>make_it</code></p>"), "Run `make_it`");
    }

    #[test]
    fn a_carriage_return_is_none_even_as_an_entity() {
        assert_eq!(text("<pre>a&#13;b&#13;&#10;c</pre>"), "```\na\nb\nc\n```");
        assert_eq!(text("<p>a&#xd;b</p>"), "a b");
    }

    #[test]
    fn the_title_is_plain_text() {
        assert_eq!(page("<title> A_b &amp;\n *c* </title><p>x").title.as_deref(), Some("A_b & *c*"));
        assert_eq!(page("<p>x<h1>The <b>first</b></h1>").title.as_deref(), Some("The first"));
        assert_eq!(page("<title></title><p>x").title, None);
    }

    #[test]
    fn a_page_without_text_is_empty_and_one_nested_too_deep_malformed() {
        let limits = ParseLimits::default();
        assert!(matches!(parse("<html><script>app()</script><nav>x</nav>", &limits), Err(ParseError::Empty(_))));
        let error = parse(&"<div>".repeat(100_000), &limits).unwrap_err();
        assert!(error.to_string().contains("nested more than 256 deep"), "{error}");
    }

    #[test]
    fn the_deepest_allowed_page_of_each_element_fits_a_small_stack() {
        for (open, times) in
            [("<div>", 256), ("<table><tr><td>", 64), ("<ul><li>", 128), ("<blockquote><p>", 256), ("<article>", 256)]
        {
            assert!(text(&format!("{}x", open.repeat(times))).ends_with('x'), "{open}");
        }
    }

    #[test]
    fn a_page_is_known_by_its_beginning() {
        assert!(begins_as_html("\n<!-- a --> <!DOCTYPE HTML PUBLIC>"));
        assert!(!begins_as_html("# Title\n<html>"));
        assert!(!begins_as_html("<html-element>"));
    }

    #[test]
    fn the_charset_of_a_page_is_found() {
        assert_eq!(charset(b"<head><META CHARSET = \"Shift_JIS\">").as_deref(), Some("shift_jis"));
        assert_eq!(charset(b"<meta http-equiv=Content-Type content='text/html; charset=gbk'>").as_deref(), Some("gbk"));
        assert_eq!(charset(b"<p>charset=gbk"), None);
        assert_eq!(charset(b"<meta charset=utf-16>"), None);
    }
}
