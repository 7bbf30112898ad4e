//! An address of the HTTP interface: the handler of each method, and beside it what the reference says of it. The server
//! is made of the same list as `/openapi.json` ([`super::addresses`]), so neither has what the other lacks.

use std::collections::BTreeMap;

use actix_web::http::{Method, header};
use actix_web::{FromRequest, Handler, HttpRequest, Responder, Route, web};
use serde_json::Value;
use utoipa::openapi::content::Content;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{AllOfBuilder, KnownFormat, ObjectBuilder, Ref, Schema, SchemaFormat, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{RefOr, Required, path::Operation};
use utoipa::{IntoParams, ToSchema};

use super::auth::in_its_form;
use super::error::{Kind, Problem, ProblemDocument};
use super::openai::{self, OpenAiError};
use crate::identity::Scope;

/// Schemas by name, on their way into the reference.
pub type Schemas = Vec<(String, RefOr<Schema>)>;

/// See the module.
pub struct Address {
    pattern: &'static str,
    routes: Vec<(Method, Route)>,
    entries: Vec<(HttpMethod, Entry)>,
}

impl Address {
    /// An address without any method yet, as the router reads it: `/v1/documents/{id:.*}`.
    pub fn at(pattern: &'static str) -> Self {
        Self { pattern, routes: Vec::new(), entries: Vec::new() }
    }

    /// Answers `GET`.
    pub fn get<H: Handler<A>, A: FromRequest + 'static>(self, handler: H, entry: Entry) -> Self
    where
        H::Output: Responder + 'static,
    {
        self.on(Method::GET, HttpMethod::Get, web::to(handler), entry)
    }

    /// Answers `POST`.
    pub fn post<H: Handler<A>, A: FromRequest + 'static>(self, handler: H, entry: Entry) -> Self
    where
        H::Output: Responder + 'static,
    {
        self.on(Method::POST, HttpMethod::Post, web::to(handler), entry)
    }

    /// Answers `PUT`.
    pub fn put<H: Handler<A>, A: FromRequest + 'static>(self, handler: H, entry: Entry) -> Self
    where
        H::Output: Responder + 'static,
    {
        self.on(Method::PUT, HttpMethod::Put, web::to(handler), entry)
    }

    /// Answers `DELETE`.
    pub fn delete<H: Handler<A>, A: FromRequest + 'static>(self, handler: H, entry: Entry) -> Self
    where
        H::Output: Responder + 'static,
    {
        self.on(Method::DELETE, HttpMethod::Delete, web::to(handler), entry)
    }

    /// Answers `GET` with a page or a file of one, of which the reference for programs says nothing.
    pub fn page<H: Handler<A>, A: FromRequest + 'static>(mut self, handler: H) -> Self
    where
        H::Output: Responder + 'static,
    {
        self.routes.push((Method::GET, web::to(handler)));
        self
    }

    fn on(mut self, method: Method, named: HttpMethod, route: Route, entry: Entry) -> Self {
        self.routes.push((method, route));
        self.entries.push((named, entry));
        self
    }

    /// Has the server answer here. Other methods are refused with those that there are.
    pub fn serve(self, config: &mut web::ServiceConfig) {
        let allow = self.routes.iter().map(|(method, _)| method.as_str()).collect::<Vec<_>>().join(", ");
        let refuse = move |request: HttpRequest| {
            let detail = format!("{} takes {allow}, and not {}", request.path(), request.method());
            let mut response = in_its_form(request.path(), Problem::new(Kind::MethodNotAllowed, detail));
            if let Ok(allow) = header::HeaderValue::from_str(&allow) {
                response.headers_mut().insert(header::ALLOW, allow);
            }
            std::future::ready(response)
        };
        let resource = web::resource(self.pattern).default_service(web::to(refuse));
        let on = |resource: actix_web::Resource, (method, route): (Method, Route)| resource.route(route.method(method));
        config.service(self.routes.into_iter().fold(resource, on));
    }

    /// What the reference says of it: where it is, and its methods. None for pages.
    pub fn describe(self, schemas: &mut Schemas) -> Option<(String, PathItem)> {
        let path = self.pattern.replace(":.*}", "}");
        let mut item: Option<PathItem> = None;
        for (method, entry) in self.entries {
            let operation = entry.finish(&path, &method, schemas);
            let one = PathItem::new(method, operation);
            match &mut item {
                None => item = Some(one),
                Some(item) => item.merge_operations(one),
            }
        }
        item.map(|item| (path, item))
    }
}

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Everybody,
    /// Who is known, whatever it may do.
    Known,
    Scope(Scope),
}

/// What the reference says of a method of an address.
pub struct Entry {
    operation: OperationBuilder,
    text: String,
    access: Access,
    parameters: Vec<Parameter>,
    body: Option<RequestBodyBuilder>,
    json: bool,
    responses: BTreeMap<u16, ResponseBuilder>,
    refusals: Vec<Kind>,
    schemas: Schemas,
}

impl Entry {
    /// An operation of a group: its name in generated clients, and what it is for in a line.
    pub fn new(tag: &str, id: &str, summary: &str) -> Self {
        Self {
            operation: OperationBuilder::new().tag(tag).operation_id(Some(id)).summary(Some(summary)),
            text: String::new(),
            access: Access::Known,
            parameters: Vec::new(),
            body: None,
            json: false,
            responses: BTreeMap::new(),
            refusals: Vec::new(),
            schemas: Vec::new(),
        }
    }

    /// What there is to know of it, in Markdown.
    pub fn text(mut self, text: &str) -> Self {
        self.text = text.to_owned();
        self
    }

    /// What a caller must be allowed to do.
    pub fn scope(mut self, scope: Scope) -> Self {
        self.access = Access::Scope(scope);
        self
    }

    /// Nobody has to say who it is.
    pub fn for_everybody(mut self) -> Self {
        self.access = Access::Everybody;
        self
    }

    /// A part of the address, a text.
    pub fn path(self, name: &str, text: &str, example: &str) -> Self {
        let schema = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1));
        self.parameter(name, ParameterIn::Path, true, text, schema.into(), example.into())
    }

    /// A part of the address, a number from 0.
    pub fn number(self, name: &str, text: &str, example: u64) -> Self {
        let schema = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(0));
        self.parameter(name, ParameterIn::Path, true, text, schema.into(), example.into())
    }

    /// A header of the request that may be left out.
    pub fn header(self, name: &str, text: &str, example: &str) -> Self {
        let schema = ObjectBuilder::new().schema_type(Type::String);
        self.parameter(name, ParameterIn::Header, false, text, schema.into(), example.into())
    }

    fn parameter(
        mut self,
        name: &str,
        place: ParameterIn,
        required: bool,
        text: &str,
        schema: Schema,
        example: Value,
    ) -> Self {
        let required = if required { Required::True } else { Required::False };
        let parameter = ParameterBuilder::new().name(name).parameter_in(place).required(required);
        self.parameters.push(parameter.description(Some(text)).schema(Some(schema)).example(Some(example)).build());
        self
    }

    /// The query string: what `P` has.
    pub fn query<P: IntoParams>(mut self) -> Self {
        let mut parameters = P::into_params(|| Some(ParameterIn::Query));
        for parameter in &mut parameters {
            // One that may be left out is never null: no query string can say that.
            if let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
                && let SchemaType::Array(types) = &mut schema.schema_type
            {
                types.retain(|one| *one != Type::Null);
            }
        }
        self.parameters.extend(parameters);
        self.refuses(&[Kind::InvalidRequest])
    }

    /// The body, as JSON.
    pub fn body<T: ToSchema>(mut self, text: &str, example: Value) -> Self {
        self.json = true;
        let schema = self.schema::<T>();
        self.body_as("application/json", text, schema, Some(example))
            .refuses(&[Kind::InvalidJson, Kind::UnsupportedMediaType])
    }

    /// The body in one of several forms.
    pub fn body_as(
        mut self,
        media_type: &str,
        text: &str,
        schema: impl Into<RefOr<Schema>>,
        example: Option<Value>,
    ) -> Self {
        let body = self.body.unwrap_or_else(|| RequestBodyBuilder::new().required(Some(Required::True)));
        let content = Content::builder().schema(Some(schema)).example(example).build();
        self.body = Some(body.description(Some(text)).content(media_type, content));
        self
    }

    /// A response, as JSON.
    pub fn answers<T: ToSchema>(mut self, status: u16, text: &str, example: Value) -> Self {
        let content = Content::builder().schema(Some(self.schema::<T>())).example(Some(example)).build();
        self.responds(status, text, |response| response.content("application/json", content))
    }

    /// A response in another form.
    pub fn answers_as(self, status: u16, text: &str, media_type: &str, example: &str) -> Self {
        let schema = ObjectBuilder::new().schema_type(Type::String);
        let content = Content::builder().schema(Some(schema)).example(Some(example.into())).build();
        self.responds(status, text, |response| response.content(media_type, content))
    }

    /// A response that is a stream of server-sent events, each of them an `E`.
    ///
    /// OpenAPI 3.1 has no word for the items of a stream (3.2 has `itemSchema`): `x-item-schema` says it.
    pub fn streams<E: ToSchema>(mut self, status: u16, text: &str, example: &str) -> Self {
        let item = Ref::from_schema_name(self.name::<E>());
        let extensions = Extensions::builder().add("x-item-schema", serde_json::json!(item)).build();
        let content = Content::builder().example(Some(example.into())).extensions(Some(extensions)).build();
        self.responds(status, text, |response| response.content("text/event-stream", content))
    }

    /// A response without a body.
    pub fn nothing(self, status: u16, text: &str) -> Self {
        self.responds(status, text, |response| response)
    }

    /// A header of a response that is described already.
    pub fn tells(self, status: u16, name: &str, text: &str) -> Self {
        let header = said(text);
        self.responds(status, "", |response| response.header(name, header))
    }

    fn responds(mut self, status: u16, text: &str, with: impl FnOnce(ResponseBuilder) -> ResponseBuilder) -> Self {
        let known = self.responses.remove(&status);
        let response = known.unwrap_or_else(|| ResponseBuilder::new().description(text));
        self.responses.insert(status, with(response));
        self
    }

    /// The problems that it has beside those of every address.
    pub fn refuses(mut self, kinds: &[Kind]) -> Self {
        self.refusals.extend(kinds);
        self
    }

    /// What either side sends over the WebSocket that is opened here. OpenAPI has no word for it: `x-frames` says it.
    pub fn frames<Sent: ToSchema, Got: ToSchema>(mut self) -> Self {
        let frames = serde_json::json!({ "client": self.schema::<Sent>(), "service": self.schema::<Got>() });
        self.operation = self.operation.extensions(Some(Extensions::builder().add("x-frames", frames).build()));
        self
    }

    /// Adds a schema to the reference; gives what names it.
    pub fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        Ref::from_schema_name(self.name::<T>()).into()
    }

    fn name<T: ToSchema>(&mut self) -> String {
        T::schemas(&mut self.schemas);
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::name().into_owned()
    }

    /// The whole, with the problems that every address has.
    fn finish(mut self, path: &str, method: &HttpMethod, schemas: &mut Schemas) -> Operation {
        let body: Option<RequestBody> = self.body.take().map(RequestBodyBuilder::build);
        if body.is_some() {
            self.refusals.extend([Kind::TooLarge, Kind::BodyTimeout]);
        }
        let known = self.access != Access::Everybody;
        self.refusals.extend([Kind::HeadTooLarge, Kind::OtherSite]);
        if known {
            self.refusals.extend([Kind::Unauthorized, Kind::Unavailable, Kind::Internal]);
        }
        let scopes: Vec<&str> = match self.access {
            Access::Everybody | Access::Known => Vec::new(),
            Access::Scope(scope) => {
                self.refusals.push(Kind::Forbidden);
                self.text.push_str(&format!("\n\nScope: `{}`", scope.name()));
                vec![scope.name()]
            }
        };
        // What begins something counts, as in `auth::identify`.
        let counts = known && !matches!(method, HttpMethod::Get) && !path.starts_with("/admin/");
        if counts {
            self.refusals.push(Kind::OverBudget);
        }
        let securities = match known {
            true => SCHEMES.iter().map(|scheme| SecurityRequirement::new(*scheme, scopes.clone())).collect(),
            false => Vec::new(),
        };
        for (status, kinds) in by_status(&self.refusals, path) {
            let response = refusal(status, &kinds, path, &mut self.schemas);
            self.responses.entry(status).or_insert(response);
        }
        let operation = self.responses.into_iter().fold(self.operation, |operation, (status, response)| {
            operation.response(status.to_string(), response.build())
        });
        schemas.extend(self.schemas);
        operation
            .description(Some(self.text.trim()).filter(|text| !text.is_empty()))
            .parameters(Some(self.parameters))
            .request_body(body)
            .securities(Some(securities))
            .build()
    }
}

/// The ways in which a caller says who it is; [`super::openapi`] describes them.
pub const SCHEMES: [&str; 2] = ["bearer", "api_key"];

/// Kinds by the status that they have at this path.
fn by_status(kinds: &[Kind], path: &str) -> BTreeMap<u16, Vec<Kind>> {
    let mut by_status: BTreeMap<u16, Vec<Kind>> = BTreeMap::new();
    for kind in kinds {
        let status = if openai::speaks(path) { openai::status(kind.status()) } else { kind.status() };
        let same = by_status.entry(status.as_u16()).or_default();
        if !same.contains(kind) {
            same.push(*kind);
        }
    }
    by_status
}

/// A response that refuses, for one of these reasons.
fn refusal(status: u16, kinds: &[Kind], path: &str, schemas: &mut Schemas) -> ResponseBuilder {
    let reasons: Vec<String> = kinds.iter().map(|kind| format!("`{}`: {}", kind.name(), kind.title())).collect();
    let response = ResponseBuilder::new().description(reasons.join("\n\n"));
    let response = if openai::speaks(path) {
        OpenAiError::schemas(schemas);
        schemas.push((OpenAiError::name().into_owned(), <OpenAiError as utoipa::PartialSchema>::schema()));
        let schema = Ref::from_schema_name(OpenAiError::name());
        response.content("application/json", Content::new(Some(schema)))
    } else {
        ProblemDocument::schemas(schemas);
        schemas.push((ProblemDocument::name().into_owned(), <ProblemDocument as utoipa::PartialSchema>::schema()));
        let types =
            ObjectBuilder::new().schema_type(Type::String).enum_values(Some(kinds.iter().map(|kind| kind.urn())));
        let schema = AllOfBuilder::new()
            .item(Ref::from_schema_name(ProblemDocument::name()))
            .item(ObjectBuilder::new().property("type", types));
        response.content("application/problem+json", Content::new(Some(Schema::AllOf(schema.build()))))
    };
    match status {
        401 => response.header("WWW-Authenticate", said("That a bearer token is wanted (RFC 6750).")),
        429 | 503 => response.header("Retry-After", said("After so many seconds it may be tried again.")),
        _ => response,
    }
}

/// A header of a response.
fn said(text: &str) -> Header {
    let schema = ObjectBuilder::new().schema_type(Type::String);
    HeaderBuilder::new().schema(Schema::from(schema)).description(Some(text)).build()
}
