//! Why a request was not served, in the terms of the service. No HTTP here: [`crate::web::error`] maps these
//! to status codes.

use crate::actors::door::DoorError;
use crate::actors::ingestor::IngestError;
use crate::actors::retriever::SearchError;
use crate::budgets::rules::Limited;
use crate::models::ModelError;
use crate::models::admission::Refusal;
use crate::stores::StoreError;
use crate::stores::dataref::DatarefError;

/// Why a request was not served.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ServiceError {
    /// A part of the request is not as it must be.
    #[error("{0}")]
    Invalid(String),
    /// The question is longer than its limit.
    #[error("the question has {tokens} tokens, the limit is {limit}; ask it shorter")]
    QuestionTooLong {
        /// Tokens of the question.
        tokens: usize,
        /// `[answer] max_question_tokens`.
        limit: usize,
    },
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The prompt and the least output do not fit the model.
    #[error("the conversation has {tokens} tokens, and with an output of {output} it may have {limit}; shorten it")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of the output that there must be room for.
        output: usize,
        /// Tokens that the model's context holds.
        limit: usize,
    },
    /// No model has this name.
    #[error("there is no model {name:?}; there are {known}")]
    UnknownModel {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// Too much is going on; try again after so many seconds.
    #[error("{reason}")]
    Overloaded {
        /// What is full.
        reason: String,
        /// When to try again, in seconds.
        retry_after_s: u64,
        /// Counts and limits.
        counts: serde_json::Map<String, serde_json::Value>,
    },
    /// The caller, or one of its groups, has used up what it may have.
    #[error("{reason}")]
    OverBudget {
        /// Whose budget, and what is left of it.
        reason: String,
        /// What is limited.
        limited: Limited,
        /// How much there is.
        limit: u64,
        /// How much is left.
        left: u64,
        /// When there is enough of it, in seconds; none where there never will be.
        retry_after_s: Option<u64>,
    },
    /// Nobody took the answer for too long.
    #[error("the answer was ended: its reader took nothing for too long; ask again")]
    Stalled,
    /// The answer's time was up.
    #[error("the answer was ended: its time was up; ask again with more time, or for less")]
    TooLate,
    /// Another replica wrote the answer, and died.
    #[error("the replica that wrote this answer is gone, and another one says it in other words; ask again")]
    Interrupted,
    /// A document that the answer rests on was deleted.
    #[error("a document that this answer rests on was deleted, and the answer with it; ask again")]
    DocumentDeleted,
    /// The service stopped before the answer's end.
    #[error("the service stops before the answer was complete; {}", if *elsewhere {
        "what was said of it can be read again at another replica, and the whole of it asked for there"
    } else {
        "ask again"
    })]
    Stopping {
        /// Another replica has what was said.
        elsewhere: bool,
    },
    /// Only a kept answer would do, and there is none.
    #[error("no answer to this question is kept, and only a kept one would do (Cache-Control: only-if-cached)")]
    NotCached,
    /// A part of the service cannot work now; try again after so many seconds.
    #[error("{reason}")]
    Unavailable {
        /// Which part, and why.
        reason: String,
        /// When to try again, in seconds.
        retry_after_s: u64,
    },
    /// What the caller wants to see is not yet visible.
    #[error("operation {wanted} is not visible yet: the index shows operations up to {reached}")]
    NotYetVisible {
        /// The `min_seq` asked for.
        wanted: u64,
        /// What the index shows.
        reached: u64,
    },
    /// The disk is full.
    #[error("{0}")]
    StorageFull(String),
    /// The service failed; the log says more.
    #[error("{0}")]
    Internal(String),
}

impl ServiceError {
    fn from_door<E: std::fmt::Display + Into<Self>>(error: DoorError<E>) -> Self {
        match error {
            full @ DoorError::Full { .. } => {
                Self::Overloaded { reason: full.to_string(), retry_after_s: 2, counts: Default::default() }
            }
            down @ DoorError::Down { .. } => Self::Unavailable { reason: down.to_string(), retry_after_s: 5 },
            panicked @ DoorError::Panicked { .. } => Self::Internal(panicked.to_string()),
            DoorError::Failed(error) => error.into(),
        }
    }
}

impl<E: std::fmt::Display + Into<ServiceError>> From<DoorError<E>> for ServiceError {
    fn from(error: DoorError<E>) -> Self {
        Self::from_door(error)
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(reason) => Self::StorageFull(reason),
            StoreError::Unavailable(reason) => Self::Unavailable { reason, retry_after_s: 2 },
            StoreError::Damaged(reason) | StoreError::Locked(reason) | StoreError::Failed(reason) => {
                Self::Internal(reason)
            }
        }
    }
}

impl From<DatarefError> for ServiceError {
    fn from(error: DatarefError) -> Self {
        match error {
            DatarefError::Refused(reason) => Self::Invalid(reason),
            DatarefError::Unavailable(reason) => Self::Unavailable { reason, retry_after_s: 5 },
        }
    }
}

impl From<SearchError> for ServiceError {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::NotEmbedded(_) => Self::Unavailable { reason: error.to_string(), retry_after_s: 2 },
            SearchError::Store(error) => error.into(),
        }
    }
}

impl From<IngestError> for ServiceError {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Backlog { .. } => {
                Self::Overloaded { reason: error.to_string(), retry_after_s: 5, counts: Default::default() }
            }
            IngestError::Store(error) => error.into(),
        }
    }
}

impl From<Refusal> for ServiceError {
    fn from(refusal: Refusal) -> Self {
        let counts = match serde_json::to_value(&refusal) {
            Ok(serde_json::Value::Object(counts)) => counts,
            _ => Default::default(),
        };
        Self::Overloaded { reason: refusal.reason, retry_after_s: refusal.retry_after_s, counts }
    }
}

impl From<ModelError> for ServiceError {
    fn from(error: ModelError) -> Self {
        match &error {
            ModelError::ContextTooSmall { .. } => Self::Invalid(error.to_string()),
            ModelError::Stopped | ModelError::Load(_) => {
                Self::Unavailable { reason: error.to_string(), retry_after_s: 5 }
            }
            ModelError::Upstream { retry_after_s, .. } => {
                Self::Unavailable { reason: error.to_string(), retry_after_s: *retry_after_s }
            }
            ModelError::Refused(_) => Self::Invalid(error.to_string()),
            ModelError::Engine(_) => Self::Internal(error.to_string()),
        }
    }
}
