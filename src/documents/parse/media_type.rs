//! Media types, as publishers declare them (RFC 9110, section 8.3).

use super::Format;

/// A media type without its parameters, in lower case.
pub fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A media type, taken apart.
pub(super) struct MediaType {
    /// `type/subtype` in lower case.
    pub essence: String,
    /// The parameter `charset`.
    pub charset: Option<String>,
}

impl MediaType {
    pub fn parse(value: &str) -> MediaType {
        let charset = value.split(';').skip(1).find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            let value = value.trim().trim_matches(['"', '\'']);
            (name.trim().eq_ignore_ascii_case("charset") && !value.is_empty()).then(|| value.to_owned())
        });
        MediaType { essence: essence(value), charset }
    }

    /// The format it names; `None` where it names none that is read.
    pub fn format(&self) -> Option<Format> {
        Some(match self.essence.as_str() {
            "text/markdown" | "text/x-markdown" | "application/markdown" => Format::Markdown,
            "text/html" | "application/xhtml+xml" => Format::Html,
            "application/pdf" | "application/x-pdf" => Format::Pdf,
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
            | "application/vnd.openxmlformats-officedocument.wordprocessingml.template"
            | "application/vnd.ms-word.document.macroenabled.12" => Format::Docx,
            "application/vnd.openxmlformats-officedocument.presentationml.presentation"
            | "application/vnd.openxmlformats-officedocument.presentationml.slideshow"
            | "application/vnd.ms-powerpoint.presentation.macroenabled.12" => Format::Pptx,
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
            | "application/vnd.ms-excel.sheet.macroenabled.12" => Format::Xlsx,
            "application/vnd.oasis.opendocument.text" | "application/vnd.oasis.opendocument.text-template" => {
                Format::Odt
            }
            "application/rtf" | "text/rtf" | "text/richtext" => Format::Rtf,
            "application/epub+zip" => Format::Epub,
            "message/rfc822" | "message/global" => Format::Email,
            "text/csv" | "application/csv" | "text/tab-separated-values" => Format::Csv,
            essence if essence.starts_with("text/") => Format::Text,
            _ => return None,
        })
    }

    /// Whether it says nothing: what clients send when they do not know, curl's default for a body among them.
    pub fn is_unknown(&self) -> bool {
        matches!(
            self.essence.as_str(),
            "" | "*/*" | "application/octet-stream" | "binary/octet-stream" | "application/x-www-form-urlencoded"
        )
    }
}
