//! Who calls, and whether it may. [`identify`] stands before every address that is not for everybody, and refuses whom it
//! does not know; each handler says with [`caller`] what its caller must be allowed to do.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, header};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, ResponseError, web};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::address::{Address, Entry};
use super::error::{Kind, Problem};
use super::{openai, openapi, ui};
use crate::app::App;
use crate::budgets::rules::Standing;
use crate::identity::{BY_ADDRESS, Caller, Refused, Scope};
use crate::retrieval::sight::Sight;

/// A WebSocket of a browser brings its key as a protocol of this name and the key: no header is its page's to set.
const BEARER_PROTOCOL: &str = "bearer.";

/// The addresses of this file.
pub fn addresses() -> Vec<Address> {
    let example = json!({
        "identity": true, "name": "key:1f0c9a7de2b34c58", "scopes": ["ask"], "groups": ["board", "hr"], "sees_all": false,
    });
    vec![
        Address::at("/v1/me").get(
            me,
            Entry::new("identity", "getMe", "Who you are")
                .text("As the service sees it: what you may do, and which documents you see.")
                .answers::<Me>(200, "You.", example),
        ),
    ]
}

/// Who the caller is.
#[derive(Serialize, ToSchema)]
struct Me {
    /// Whether callers say who they are; where not, everybody may do everything.
    identity: bool,
    /// `key:<id>`, `user:<subject>`, or `ip:<address>`.
    name: String,
    /// What the caller may do.
    scopes: BTreeSet<Scope>,
    /// The groups of the caller.
    groups: Vec<String>,
    /// Whether the caller sees every document.
    sees_all: bool,
}

/// Finds out who calls, before anything else is done for it.
pub async fn identify<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    let app = request.app_data::<web::Data<App>>().cloned();
    let Some(app) = app else { return Ok(next.call(request).await?.map_into_left_body()) };
    let known = match &app.identity {
        None => Ok(Caller::unrestricted(name_of(request.request()))),
        Some(_) if is_for_everybody(request.path()) => return Ok(next.call(request).await?.map_into_left_body()),
        Some(identity) => identity.caller(credential(request.request())).await,
    };
    match known {
        Ok(caller) => {
            tracing::Span::current().record("caller", &*caller.name);
            request.extensions_mut().insert(caller.clone());
            if !counts(&request) {
                return Ok(next.call(request).await?.map_into_left_body());
            }
            let mut response = match app.budgets.request(&caller).await {
                Ok(()) => next.call(request).await?.map_into_left_body(),
                Err(error) => {
                    let response = in_its_form(request.path(), error.into());
                    request.into_response(response.map_into_right_body())
                }
            };
            if let Some(standing) = app.budgets.tightest(&caller).await {
                tell(response.headers_mut(), &standing);
            }
            Ok(response)
        }
        Err(refused) => {
            let challenge = match &refused {
                Refused::Nothing => r#"Bearer realm="answerd""#,
                _ => r#"Bearer realm="answerd", error="invalid_token""#,
            };
            let problem = Problem::from(refused);
            let unknown = problem.kind == Kind::Unauthorized;
            let mut response = in_its_form(request.path(), problem);
            if unknown {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static(challenge));
            }
            Ok(request.into_response(response.map_into_right_body()))
        }
    }
}

/// Whether a request begins something: what is only looked at is free.
fn counts(request: &ServiceRequest) -> bool {
    // As the router reads it: a path can be written in several ways.
    let administers = request.match_info().as_str().starts_with("/admin/");
    !administers && !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
}

/// A refusal as what is at this path would say it.
pub(super) fn in_its_form(path: &str, problem: Problem) -> HttpResponse {
    if openai::speaks(path) { openai::refusal(problem) } else { problem.error_response() }
}

/// The limit that is the next one to be reached, as headers (draft-ietf-httpapi-ratelimit-headers, version 6).
fn tell(headers: &mut header::HeaderMap, standing: &Standing) {
    let reset_s = standing.wait_ms.unwrap_or(0).div_ceil(1000);
    let values =
        [("ratelimit-limit", standing.limit), ("ratelimit-remaining", standing.left), ("ratelimit-reset", reset_s)];
    for (name, value) in values {
        headers.insert(header::HeaderName::from_static(name), header::HeaderValue::from(value));
    }
}

/// The pages, which show nothing by themselves, the reference, and what an orchestrator asks. All else is for those who are known,
/// whatever a router makes of its path.
fn is_for_everybody(path: &str) -> bool {
    matches!(path, "/healthz" | "/startupz" | "/readyz" | openapi::PATH) || ui::is_page(path)
}

/// What a connection that stays open was let in with: whether it still counts is asked again.
pub struct Pass {
    credential: Option<String>,
    caller: Caller,
    scope: Scope,
}

impl Pass {
    /// The pass of a request.
    ///
    /// # Errors
    /// See [`caller`].
    pub fn of(request: &HttpRequest, scope: Scope) -> Result<Self, Problem> {
        Ok(Self { credential: credential(request).map(str::to_owned), caller: caller(request, scope)?, scope })
    }

    /// The caller now.
    ///
    /// # Errors
    /// Its key was revoked, its token has expired.
    pub async fn caller(&self, app: &App) -> Result<Caller, Problem> {
        match &app.identity {
            None => Ok(self.caller.clone()),
            Some(identity) => allowed(identity.caller(self.credential.as_deref()).await?, self.scope),
        }
    }
}

/// The caller, where it may do this.
///
/// # Errors
/// [`Kind::Forbidden`]
pub fn caller(request: &HttpRequest, scope: Scope) -> Result<Caller, Problem> {
    let caller = request.extensions().get::<Caller>().cloned();
    // Nobody comes here without; who does is let in nowhere.
    allowed(caller.ok_or_else(|| Problem::from(Refused::Nothing))?, scope)
}

fn allowed(caller: Caller, scope: Scope) -> Result<Caller, Problem> {
    if caller.may(scope) {
        return Ok(caller);
    }
    let (name, scopes) = (&caller.name, caller.scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>());
    let detail = format!(
        "{name} may not do this: it takes the scope `{}`, and there is {}",
        scope.name(),
        if scopes.is_empty() { "none".to_owned() } else { scopes.join(", ") }
    );
    Err(Problem::new(Kind::Forbidden, detail).with("scope", scope.name()))
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Nothing | Refused::Invalid(_) => Self::new(Kind::Unauthorized, refused.to_string()),
            Refused::Unavailable(reason) => crate::error::ServiceError::Unavailable { reason, retry_after_s: 5 }.into(),
        }
    }
}

/// The key or token that a request brings.
fn credential(request: &HttpRequest) -> Option<&str> {
    let text = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| {
        let (scheme, credential) = value.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim())
    });
    let protocol = || {
        let protocols = text(header::SEC_WEBSOCKET_PROTOCOL)?.split(',').map(str::trim);
        protocols.into_iter().find_map(|protocol| protocol.strip_prefix(BEARER_PROTOCOL))
    };
    bearer.or_else(|| text(header::HeaderName::from_static("x-api-key"))).or_else(protocol)
}

/// Where nobody has to say who it is: a name for the key in the request, from which the key cannot be had, or for the
/// address it comes from.
fn name_of(request: &HttpRequest) -> Arc<str> {
    match (credential(request), request.peer_addr()) {
        (Some(key), _) => format!("key:{}", hex::encode(&Sha256::digest(key.as_bytes())[..8])).into(),
        (None, Some(address)) => format!("{BY_ADDRESS}{}", address.ip()).into(),
        (None, None) => format!("{BY_ADDRESS}unknown").into(),
    }
}

/// Who the caller is, as the service sees it.
async fn me(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, Problem> {
    let caller = request.extensions().get::<Caller>().cloned().ok_or_else(|| Problem::from(Refused::Nothing))?;
    let groups = match &*caller.sight {
        Sight::All => Vec::new(),
        Sight::Groups(groups) => groups.iter().cloned().collect(),
    };
    Ok(HttpResponse::Ok().json(Me {
        identity: app.identity.is_some(),
        name: caller.name.to_string(),
        scopes: (*caller.scopes).clone(),
        groups,
        sees_all: *caller.sight == Sight::All,
    }))
}
