//! OpenAI's protocol (<https://platform.openai.com/docs/api-reference>), as far as it is about text:
//! `POST /v1/chat/completions`, `GET /v1/models`, `POST /v1/embeddings`. Its clients work unchanged.
//!
//! The model `[answer] model_name` answers from the documents, and puts `sources` beside `choices`; every other model
//! answers by itself. What is not supported is refused, save what changes nothing in the answer.

mod completions;
mod embeddings;
mod models;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, ResponseError, web};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::address::Address;
use super::error::{Kind, Problem, body_error};
use crate::app::App;
use crate::error::ServiceError;

/// The addresses of this folder.
pub fn addresses() -> Vec<Address> {
    [completions::addresses(), models::addresses(), embeddings::addresses()].into_iter().flatten().collect()
}

/// The group of these addresses in the reference.
const TAG: &str = "OpenAI";

/// Whether what is at this path speaks OpenAI's protocol, also where it refuses somebody.
pub(super) fn speaks(path: &str) -> bool {
    ["/v1/chat/", "/v1/models", "/v1/embeddings"].iter().any(|start| path.starts_with(start))
}

/// A problem in OpenAI's form.
pub(super) fn refusal(problem: Problem) -> HttpResponse {
    Error::from(problem).error_response()
}

/// The official clients would ask again by themselves, and get the same, or spend the time once more.
const NO_RETRY: (&str, &str) = ("x-should-retry", "false");

/// A problem in OpenAI's form, with the parameter at fault.
#[derive(Debug)]
struct Error(Box<Problem>, Option<String>);

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem), None)
    }
}

impl From<ServiceError> for Error {
    fn from(error: ServiceError) -> Self {
        Problem::from(error).into()
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        status(self.0.kind.status())
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Some(seconds) = self.0.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if self.0.kind == Kind::NotCached {
            response.insert_header(NO_RETRY);
        }
        response.json(error_body(self.0.kind, &self.0.detail, self.1.as_deref(), &self.0.members))
    }
}

/// OpenAI has one status for all that is wrong with a request.
pub(super) fn status(status: StatusCode) -> StatusCode {
    if status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { status }
}

/// An error in OpenAI's form.
#[derive(Serialize, ToSchema)]
#[schema(as = OpenAiError, example = json!({ "error": {
    "message": "there is no model \"gpt\"; there are answerd, smollm2-135m-instruct", "type": "invalid_request_error",
    "param": "model", "code": "model_not_found",
} }))]
pub struct OpenAiError {
    /// What is wrong.
    pub error: OpenAiErrorTold,
}

/// What is wrong with a request. Beside its own members there are the counts of the problem, as in `Problem`.
#[derive(Serialize, ToSchema)]
#[schema(as = OpenAiErrorDetail)]
pub struct OpenAiErrorTold {
    /// What is wrong with this request, and what to do. For people: its words change.
    pub message: String,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    pub r#type: String,
    /// The parameter at fault.
    #[schema(required)]
    pub param: Option<String>,
    /// `context_length_exceeded`, `model_not_found`, `invalid_api_key`, `insufficient_permissions`, `rate_limit_exceeded`, or null.
    #[schema(required)]
    pub code: Option<String>,
}

/// An error object of OpenAI's, with the counts beside its own members.
fn error_body(kind: Kind, message: &str, param: Option<&str>, members: &Map<String, Value>) -> Value {
    let (of_type, code) = match kind {
        Kind::QuestionTooLong | Kind::PromptTooLong => ("invalid_request_error", Some("context_length_exceeded")),
        Kind::UnknownModel => ("invalid_request_error", Some("model_not_found")),
        Kind::Unauthorized => ("invalid_request_error", Some("invalid_api_key")),
        Kind::Forbidden => ("invalid_request_error", Some("insufficient_permissions")),
        Kind::Overloaded | Kind::OverBudget => ("rate_limit_error", Some("rate_limit_exceeded")),
        Kind::InvalidJson
        | Kind::InvalidRequest
        | Kind::TooLarge
        | Kind::HeadTooLarge
        | Kind::UnsupportedMediaType
        | Kind::NotAcceptable
        | Kind::NotFound
        | Kind::BodyTimeout
        | Kind::NotCached
        | Kind::DocumentDeleted
        | Kind::OtherSite
        | Kind::UpgradeRequired
        | Kind::MethodNotAllowed => ("invalid_request_error", None),
        Kind::Stalled
        | Kind::TooLate
        | Kind::Unavailable
        | Kind::NotYetVisible
        | Kind::StorageFull
        | Kind::InvalidConfiguration
        | Kind::Internal => ("server_error", None),
    };
    let mut error = members.clone();
    error.extend([
        ("message".to_owned(), message.into()),
        ("type".to_owned(), of_type.into()),
        ("param".to_owned(), param.into()),
        ("code".to_owned(), code.into()),
    ]);
    json!({ "error": error })
}

/// The same of a problem document in an answer log.
fn error_of(problem: &Value) -> Value {
    let name = problem["type"].as_str().and_then(|kind| kind.rsplit(':').next()).unwrap_or_default();
    let kind = Kind::ALL.iter().copied().find(|kind| kind.name() == name).unwrap_or(Kind::Internal);
    error_body(kind, problem["detail"].as_str().unwrap_or_default(), None, &Map::new())
}

impl Error {
    fn about(problem: impl Into<Problem>, param: &str) -> Self {
        Self(Box::new(problem.into()), Some(param.to_owned()))
    }
}

fn invalid(param: &str, detail: impl Into<String>) -> Error {
    Error::about(Problem::new(Kind::InvalidRequest, detail), param)
}

/// Reads a body.
async fn body<T: serde::de::DeserializeOwned>(
    request: &HttpRequest,
    payload: web::Payload,
    app: &App,
) -> Result<T, Error> {
    // A page of another site could send anything else without being asked whether it may.
    let media_type = request.mime_type().ok().flatten();
    if media_type.is_none_or(|media_type| media_type.subtype() != "json") {
        return Err(Problem::new(Kind::UnsupportedMediaType, "send Content-Type: application/json").into());
    }
    let limit = app.config().server.max_json_bytes;
    let read = payload.to_bytes_limited(limit).await;
    let too_large =
        || Problem::new(Kind::TooLarge, format!("the body has more than {limit} bytes")).with("limit", limit);
    let bytes = read.map_err(|_| too_large())?;
    let bytes = bytes.map_err(|error| match error.as_error() {
        Some(error) => body_error(error),
        None => Problem::new(Kind::InvalidJson, format!("the body cannot be read: {error}")),
    })?;
    serde_json::from_slice(&bytes).map_err(|error| Problem::new(Kind::InvalidJson, error.to_string()).into())
}
