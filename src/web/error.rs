//! Errors as RFC 9457 problem details, and the one map from the service's errors to HTTP.
//!
//! `type` is `urn:answerd:problem:<kind>`; the README lists the kinds with what to do about each.

use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, ResponseError};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::budgets::rules::Limited;
use crate::error::ServiceError;

/// The kinds of problems, one row each: name, status, title, what to do.
macro_rules! problems {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $status:ident, $title:literal, $advice:literal;)*) => {
        /// What kind of problem it is: the `type` of a problem document.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The last part of the `type`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// The `type` of a problem document.
            pub fn urn(self) -> String {
                format!("urn:answerd:problem:{}", self.name())
            }

            /// The HTTP status.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$kind => StatusCode::$status,)* }
            }

            /// The title, the same for every problem of the kind.
            pub fn title(self) -> &'static str {
                match self { $(Self::$kind => $title,)* }
            }

            /// What a caller is to do, in Markdown.
            pub fn advice(self) -> &'static str {
                match self { $(Self::$kind => $advice,)* }
            }
        }
    };
}

problems! {
    /// The body is not JSON, or not of the expected form.
    InvalidJson = "invalid-json", BAD_REQUEST, "The body is not the JSON that is expected",
        "send the JSON that `detail` asks for";
    /// A field or parameter has a value that cannot be used.
    InvalidRequest = "invalid-request", UNPROCESSABLE_ENTITY, "A value in the request cannot be used",
        "change the value that `detail` names";
    /// The question is longer than its limit.
    QuestionTooLong = "question-too-long", UNPROCESSABLE_ENTITY, "The question is too long",
        "ask shorter: the counts are in `question_tokens` and `limit`";
    /// The conversation does not fit the model.
    PromptTooLong = "prompt-too-long", UNPROCESSABLE_ENTITY, "The conversation is too long",
        "send less of the conversation: the counts are in `prompt_tokens` and `limit`";
    /// No model has this name.
    UnknownModel = "unknown-model", NOT_FOUND, "There is no such model",
        "use one of the names in `/v1/models`";
    /// The configuration that is to be taken has mistakes.
    InvalidConfiguration = "invalid-configuration", UNPROCESSABLE_ENTITY, "The configuration has mistakes",
        "mend what `errors` names; nothing was changed";
    /// The body is larger than its limit.
    TooLarge = "too-large", PAYLOAD_TOO_LARGE, "The body is too large",
        "send less, or raise the limit in the configuration";
    /// The head of the request is larger than its limit.
    HeadTooLarge = "head-too-large", REQUEST_HEADER_FIELDS_TOO_LARGE, "The head of the request is too large",
        "send less, or raise the limit in the configuration";
    /// The content type is not one that is taken here.
    UnsupportedMediaType = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "The content type is not supported here",
        "use a content type that is named";
    /// None of the media types that are accepted can be given.
    NotAcceptable = "not-acceptable", NOT_ACCEPTABLE, "No accepted media type can be given",
        "accept a content type that is named";
    /// It is not known who calls.
    Unauthorized = "unauthorized", UNAUTHORIZED, "It is not known who calls",
        "bring an API key or a token that is in force";
    /// The caller may not do this.
    Forbidden = "forbidden", FORBIDDEN, "The caller may not do this",
        "ask for a key with the scope that is in `scope`";
    /// There is no such thing.
    NotFound = "not-found", NOT_FOUND, "Not found",
        "look at the address";
    /// The body did not come in time.
    BodyTimeout = "body-timeout", REQUEST_TIMEOUT, "The body did not come in time",
        "send faster";
    /// A page of another site asks, or may: the service was called by a name that is not known to be its own.
    OtherSite = "other-site", FORBIDDEN, "Pages of other sites are not served",
        "call it by its own address; an operator names other sites in `[server] allowed_origins`";
    /// The address is one of a WebSocket.
    UpgradeRequired = "upgrade-required", UPGRADE_REQUIRED, "A WebSocket is expected here",
        "open a WebSocket";
    /// The method is not one of this address.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "The method is not allowed here",
        "use a method that is in `Allow`";
    /// Too much is going on.
    Overloaded = "overloaded", TOO_MANY_REQUESTS, "Too many requests are being worked on",
        "try again after `Retry-After`";
    /// The caller has used up what it may have.
    OverBudget = "over-budget", TOO_MANY_REQUESTS, "The budget is used up",
        "try again after `Retry-After`; without it, ask for less. `limited`, `limit` and `left` say what is used up";
    /// A part of the service cannot work now.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "A part of the service is not available",
        "try again after `Retry-After`; `/readyz` says what is wrong";
    /// What the caller wants to see is not yet visible.
    NotYetVisible = "not-yet-visible", SERVICE_UNAVAILABLE, "The operation is not visible yet",
        "try again after `Retry-After`";
    /// Nobody took the answer for too long.
    Stalled = "stalled", REQUEST_TIMEOUT, "The answer was not taken",
        "read what you asked for";
    /// The answer's time was up.
    TooLate = "too-late", GATEWAY_TIMEOUT, "The answer's time was up",
        "give more `timeout_ms`, or ask for less";
    /// A document that the answer rests on was deleted.
    DocumentDeleted = "document-deleted", GONE, "The answer is gone with its document",
        "ask again: the answer comes from what is left";
    /// Only a kept answer would do, and there is none.
    NotCached = "not-cached", GATEWAY_TIMEOUT, "No answer is kept",
        "ask without `Cache-Control: only-if-cached`";
    /// The disk is full.
    StorageFull = "storage-full", INSUFFICIENT_STORAGE, "No room to store it",
        "make room; nothing was changed";
    /// The service failed.
    Internal = "internal", INTERNAL_SERVER_ERROR, "The service failed",
        "see the log";
}

/// A problem document.
#[derive(Debug, Clone)]
pub struct Problem {
    /// What kind it is.
    pub kind: Kind,
    /// What is wrong with this request, and what to do.
    pub detail: String,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
    /// Further members: counts and limits.
    pub members: Map<String, Value>,
}

impl Problem {
    /// A problem with nothing but a detail.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after_s: None, members: Map::new() }
    }

    /// Adds a member.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Says when to try again, in seconds.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The problem document.
    pub fn json(&self) -> Value {
        let mut document = json!({
            "type": self.kind.urn(),
            "title": self.kind.title(),
            "status": self.kind.status().as_u16(),
            "detail": self.detail,
        });
        if let Some(seconds) = self.retry_after_s {
            document["retry_after_s"] = seconds.into();
        }
        if let Value::Object(fields) = &mut document {
            fields.extend(self.members.clone());
        }
        document
    }
}

/// What is wrong with a request, and what to do: an RFC 9457 problem document. Beside its own members there are those of its
/// kind.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(example = json!({
    "type": "urn:answerd:problem:question-too-long", "title": "The question is too long", "status": 422,
    "detail": "the question has 900 tokens, the limit is 512; ask it shorter", "question_tokens": 900, "limit": 512,
}), as = Problem)]
pub struct ProblemDocument {
    /// What kind it is: `urn:answerd:problem:` and the name of the kind. Programs look at this.
    #[schema(pattern = "^urn:answerd:problem:[a-z-]+$")]
    pub r#type: String,
    /// The same for every problem of the kind.
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What is wrong with this request, and what to do. For people: its words change.
    pub detail: String,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
    /// `forbidden`: the scope that is lacking.
    pub scope: Option<String>,
    /// `question-too-long`: the tokens of the question.
    pub question_tokens: Option<usize>,
    /// `prompt-too-long`: the tokens of the conversation.
    pub prompt_tokens: Option<usize>,
    /// `prompt-too-long`: the tokens of the output that there must be room for.
    pub output_tokens: Option<usize>,
    /// Of what was too much: how much there may be.
    pub limit: Option<u64>,
    /// `over-budget`: what is limited.
    #[schema(inline)]
    pub limited: Option<Limited>,
    /// `over-budget`: how much of it is left.
    pub left: Option<u64>,
    /// `not-yet-visible`: the operation that was waited for.
    pub min_seq: Option<u64>,
    /// `not-yet-visible`: the operation up to which all is visible.
    pub seq: Option<u64>,
    /// `overloaded`: requests that wait for the model.
    pub waiting: Option<usize>,
    /// The most that may.
    pub max_waiting: Option<usize>,
    /// Answers that are written.
    pub running: Option<usize>,
    /// The most that may.
    pub slots: Option<usize>,
    /// Tokens of the prompts of those that wait.
    pub waiting_prompt_tokens: Option<usize>,
    /// The most there may be.
    pub max_waiting_prompt_tokens: Option<usize>,
    /// When this request could have expected its first token, in milliseconds.
    pub expected_first_token_ms: Option<u64>,
    /// `unavailable`, of `/readyz` and `/startupz`: each reason.
    pub reasons: Option<Vec<String>>,
    /// `unavailable`, of an answer whose service stops: whether it goes on elsewhere, for who reads on.
    pub resumable: Option<bool>,
    /// `invalid-configuration`: each mistake.
    pub errors: Option<Vec<Mistake>>,
}

/// A mistake in the configuration.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ConfigurationMistake)]
pub struct Mistake {
    /// The path of the setting.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
    /// The file or the environment variable that it is from.
    pub place: Option<String>,
    /// The line of that file.
    pub line: Option<usize>,
}

/// The response to a request whose answer failed with this problem document.
pub fn response_of(problem: &Value) -> HttpResponseBuilder {
    let status = problem["status"].as_u64().and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
    let mut response = HttpResponse::build(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    if let Some(seconds) = problem["retry_after_s"].as_u64() {
        response.insert_header((header::RETRY_AFTER, seconds));
    }
    response
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind.title(), self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.kind.status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.kind.status());
        response.content_type("application/problem+json");
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        response.body(self.json().to_string())
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let detail = error.to_string();
        match error {
            ServiceError::Invalid(_) => Self::new(Kind::InvalidRequest, detail),
            ServiceError::QuestionTooLong { tokens, limit } => {
                Self::new(Kind::QuestionTooLong, detail).with("question_tokens", tokens).with("limit", limit)
            }
            ServiceError::NotFound(_) => Self::new(Kind::NotFound, detail),
            ServiceError::PromptTooLong { tokens, output, limit } => Self::new(Kind::PromptTooLong, detail)
                .with("prompt_tokens", tokens)
                .with("output_tokens", output)
                .with("limit", limit),
            ServiceError::UnknownModel { .. } => Self::new(Kind::UnknownModel, detail),
            ServiceError::OverBudget { limited, limit, left, retry_after_s, .. } => {
                let problem = Self::new(Kind::OverBudget, detail)
                    .with("limited", serde_json::json!(limited))
                    .with("limit", limit)
                    .with("left", left);
                match retry_after_s {
                    Some(seconds) => problem.retry_after(seconds),
                    None => problem,
                }
            }
            ServiceError::Overloaded { retry_after_s, counts, .. } => {
                let mut problem = Self::new(Kind::Overloaded, detail).retry_after(retry_after_s);
                problem.members = counts;
                problem
            }
            ServiceError::Stalled => Self::new(Kind::Stalled, detail),
            ServiceError::TooLate => Self::new(Kind::TooLate, detail),
            ServiceError::DocumentDeleted => Self::new(Kind::DocumentDeleted, detail),
            ServiceError::NotCached => Self::new(Kind::NotCached, detail),
            ServiceError::Unavailable { retry_after_s, .. } => {
                Self::new(Kind::Unavailable, detail).retry_after(retry_after_s)
            }
            ServiceError::NotYetVisible { wanted, reached } => {
                Self::new(Kind::NotYetVisible, detail).with("min_seq", wanted).with("seq", reached).retry_after(1)
            }
            ServiceError::StorageFull(_) => Self::new(Kind::StorageFull, detail),
            ServiceError::Interrupted => Self::new(Kind::Internal, detail),
            ServiceError::Stopping { elsewhere } => {
                Self::new(Kind::Unavailable, detail).with("resumable", elsewhere).retry_after(2)
            }
            ServiceError::Internal(_) => {
                tracing::error!(detail, "a request failed");
                Self::new(Kind::Internal, detail)
            }
        }
    }
}

/// For a body that is not the JSON that is expected.
pub fn json_error(error: actix_web::error::JsonPayloadError, _: &HttpRequest) -> actix_web::Error {
    use actix_web::error::JsonPayloadError as E;
    match error {
        E::OverflowKnownLength { length, limit } => {
            Problem::new(Kind::TooLarge, format!("the body has {length} bytes, the limit is {limit}"))
                .with("limit", limit)
        }
        E::Overflow { limit } => {
            Problem::new(Kind::TooLarge, format!("the body has more than {limit} bytes")).with("limit", limit)
        }
        E::Payload(error) => body_error(&error),
        E::ContentType => Problem::new(Kind::UnsupportedMediaType, "send Content-Type: application/json"),
        E::Deserialize(error) => Problem::new(Kind::InvalidJson, error.to_string()),
        error => Problem::new(Kind::InvalidJson, error.to_string()),
    }
    .into()
}

/// For a body that cannot be read.
pub fn body_error(error: &PayloadError) -> Problem {
    match error {
        PayloadError::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            Problem::new(Kind::BodyTimeout, error.to_string())
        }
        error => Problem::new(Kind::InvalidJson, format!("the body cannot be read: {error}")),
    }
}

/// For a query string that is not as expected.
pub fn query_error(error: actix_web::error::QueryPayloadError, _: &HttpRequest) -> actix_web::Error {
    Problem::new(Kind::InvalidRequest, format!("in the query string: {error}")).into()
}

/// How many of a list are wanted: what was asked for, if there may be so many, or `default`.
///
/// # Errors
/// [`Kind::InvalidRequest`]
pub fn limit_of(asked: Option<usize>, default: usize, most: usize) -> Result<usize, Problem> {
    match asked.unwrap_or(default) {
        limit if (1..=most).contains(&limit) => Ok(limit),
        limit => Err(Problem::new(Kind::InvalidRequest, format!("`limit` is {limit}, it must be from 1 to {most}"))),
    }
}

/// For an address at which there is nothing.
pub async fn not_found(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Err(Problem::new(Kind::NotFound, format!("there is nothing at {}", request.path())))
}

/// Makes problem documents of errors that something below answered in plain text.
pub fn unify<B: actix_web::body::MessageBody + 'static>(
    response: actix_web::dev::ServiceResponse<B>,
) -> actix_web::dev::ServiceResponse {
    let status = response.status();
    let known = response.headers().contains_key(header::CONTENT_TYPE)
        && response.headers().get(header::CONTENT_TYPE).is_none_or(|v| !v.as_bytes().starts_with(b"text/plain"));
    if !(status.is_client_error() || status.is_server_error()) || known {
        return response.map_into_boxed_body();
    }
    let kind = match status {
        StatusCode::PAYLOAD_TOO_LARGE => Kind::TooLarge,
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => Kind::MethodNotAllowed,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Kind::UnsupportedMediaType,
        status if status.is_server_error() => Kind::Internal,
        _ => Kind::InvalidRequest,
    };
    let error = response.response().error();
    let problem = match error.and_then(|error| error.as_error::<PayloadError>()) {
        Some(error) if status == StatusCode::BAD_REQUEST => body_error(error),
        _ => Problem::new(kind, error.map_or_else(|| kind.title().to_owned(), ToString::to_string)),
    };
    response.into_response(problem.error_response()).map_into_boxed_body()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_name() {
        let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
    }

    #[test]
    fn a_problem_document_has_the_members_of_rfc_9457() {
        let problem = Problem::from(ServiceError::QuestionTooLong { tokens: 900, limit: 512 });
        let document = problem.json();
        assert_eq!(document["type"], "urn:answerd:problem:question-too-long");
        assert_eq!(document["status"], 422);
        assert_eq!((&document["question_tokens"], &document["limit"]), (&json!(900), &json!(512)));
        assert!(document["detail"].as_str().is_some_and(|detail| detail.contains("900")));
    }
}
