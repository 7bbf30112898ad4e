//! E-mail messages to text, with mail-parser: who wrote to whom, when and about what, then what is written. Of
//! attachments the names are kept.

use mail_parser::{Address, Message, MessageParser, MimeHeaders};

use super::{Format, ParseError, ParseLimits, ParsedDocument, html, markdown};

/// Bytes at the start of a message that are looked at for its headers.
const HEADER_WINDOW: usize = 64 * 1024;

/// Whether a text begins as a message does: lines of headers to the first blank line, a sender among them, and one
/// that only transport or MIME adds.
pub(super) fn begins_as_email(bytes: &[u8]) -> bool {
    let bytes = without_mark(bytes);
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(HEADER_WINDOW)]);
    let (mut sender, mut transport) = (false, false);
    for (number, line) in head.lines().enumerate() {
        if line.trim().is_empty() {
            break;
        }
        // A header goes on in lines that begin with white space; a mailbox file begins with a line "From ".
        if (number > 0 && line.starts_with([' ', '\t'])) || (number == 0 && line.starts_with("From ")) {
            continue;
        }
        let Some((name, _)) = line.split_once(':') else { return false };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return false;
        }
        let is = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known));
        sender |= is(&["From", "Sender"]);
        transport |= is(&["Message-ID", "MIME-Version", "Received", "Return-Path", "Delivered-To"]);
    }
    sender && transport
}

/// Drops a byte order mark, which some editors put before the headers.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Converts a message.
///
/// # Errors
/// [`ParseError`] where it cannot be read or says nothing.
pub(super) fn parse(bytes: &[u8], limits: &ParseLimits) -> Result<ParsedDocument, ParseError> {
    let bytes = without_mark(bytes);
    // In a mailbox file, the line before the headers is not the message's.
    let bytes = match bytes.starts_with(b"From ") {
        true => bytes.iter().position(|&b| b == b'\n').map_or(bytes, |end| &bytes[end + 1..]),
        false => bytes,
    };
    let message = MessageParser::default()
        .parse(bytes)
        .ok_or_else(|| ParseError::Malformed { format: "e-mail", reason: "it has no headers".to_owned() })?;
    let subject = message.subject().map(|subject| markdown::tidy_title(&subject.replace('\0', "")));
    let title = subject.filter(|subject| !subject.is_empty());
    let mut text = String::new();
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            text.push_str(&format!("{name}: {value}\n"));
        }
    };
    line("Subject", title.clone());
    line("From", message.from().map(addresses));
    line("To", message.to().map(addresses));
    line("Cc", message.cc().map(addresses));
    line("Date", message.date().map(mail_parser::DateTime::to_rfc822));
    let names: Vec<&str> = message.attachments().filter_map(MimeHeaders::attachment_name).collect();
    line("Attachments", Some(names.join(", ")));
    let body = body(&message, limits);
    if body.is_empty() && title.is_none() {
        return Err(ParseError::Empty("the message has neither subject nor text"));
    }
    text.push('\n');
    text.push_str(&body);
    Ok(ParsedDocument::new(Format::Email, title, text.trim().replace("\r\n", "\n").replace(['\r', '\0'], "\n")))
}

/// What is written: the plain text of the message, else its HTML.
fn body(message: &Message, limits: &ParseLimits) -> String {
    let plain = message.text_bodies().any(|part| part.is_text() && !part.is_text_html());
    if !plain
        && let Some(page) = message.body_html(0)
        && let Ok(parsed) = html::parse(&page, limits)
    {
        return parsed.text;
    }
    let parts: Vec<_> = (0..message.text_body_count()).filter_map(|part| message.body_text(part)).collect();
    parts.join("\n\n").trim().to_owned()
}

fn addresses(addresses: &Address) -> String {
    let all = addresses.iter().map(|address| match (&address.name, &address.address) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (Some(one), None) | (None, Some(one)) => one.to_string(),
        (None, None) => String::new(),
    });
    all.filter(|one| !one.is_empty()).collect::<Vec<_>>().join(", ")
}
