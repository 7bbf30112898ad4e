//! What a question finds, and what the model is given of it.

use std::sync::Arc;

use tracing::Instrument;

use super::Question;
use super::kept::Evidence;
use crate::actors::compute::blocking;
use crate::actors::door::Door;
use crate::actors::retriever::{Found, Mode, Retriever, Search};
use crate::answer::evidence::{self, Asked, Key, Manner};
use crate::answer::log::Source;
use crate::answer::{budget, prompt};
use crate::config::Config;
use crate::error::ServiceError;
use crate::library::Library;
use crate::models::{Generator, Sampling};
use crate::retrieval::passage::{Passage, snippet};
use crate::retrieval::sight::Sight;

/// Longest snippet of a source, in characters.
const SNIPPET_CHARS: usize = 280;
/// The lexical rank down to which a passage found by similarity as well counts as found by both.
const AGREED_RANK: usize = 10;

/// A checked question, with all that decides its answer.
#[derive(Clone)]
pub(super) struct Inquiry {
    pub(super) library: Arc<Library>,
    /// The settings that were in force when it was asked.
    pub(super) config: Arc<Config>,
    pub(super) retriever: Door<Retriever>,
    pub(super) engine: Arc<dyn Generator>,
    pub(super) question: Arc<Question>,
    /// What its asker sees.
    pub(super) sight: Arc<Sight>,
    /// Tokens of the messages that set the conversation up.
    pub(super) setting: usize,
    pub(super) sampling: Sampling,
    pub(super) max_tokens: usize,
    pub(super) stop: Vec<String>,
    /// See [`Asked::setup`].
    pub(super) setup: Key,
}

/// What was found.
pub(super) struct Looked {
    /// None where nothing has to do with the question.
    pub(super) evidence: Option<Evidence>,
    /// The store's commit that was searched.
    pub(super) commit: u64,
    /// Whether all stages of the search took part.
    pub(super) whole: bool,
}

impl Inquiry {
    /// The key of what it finds at a commit.
    pub(super) fn key(&self, commit: u64) -> Key {
        Asked {
            setup: self.setup,
            index: self.library.store.id(),
            commit,
            question: &evidence::normalised(&self.question.question),
            messages: &self.question.messages,
            filter: self.question.filter.as_ref(),
            sight: &self.sight,
            max_tokens: self.max_tokens,
            sampling: &self.sampling,
            stop: &self.stop,
        }
        .key()
    }

    /// Searches, and packs what fits into the prompt.
    pub(super) async fn look(&self) -> Result<Looked, ServiceError> {
        let query = prompt::retrieval_query(&self.question.question, &self.question.messages);
        let search = Search {
            query,
            mode: Mode::Hybrid,
            filter: self.question.filter.clone(),
            sight: Arc::clone(&self.sight),
            limit: self.config.answer.max_passages * 3,
            vector: None,
            settings: self.config.search.clone(),
        };
        // Who was admitted waits for a thread: there are no more of them than may be open.
        let found = self.retriever.ask_patiently(search).await?;
        let (commit, whole, relevant) = (found.commit, found.degraded.is_empty(), self.relevant(&found));
        let evidence = match relevant {
            true => {
                let inquiry = self.clone();
                blocking(move || inquiry.pack(found.passages)).instrument(tracing::debug_span!("pack")).await
            }
            false => None,
        };
        Ok(Looked { evidence, commit, whole })
    }

    /// Whether anything found has to do with the question. Without the vector stage nothing can tell. A passage that
    /// both stages rank high needs less similarity: they err in different ways.
    fn relevant(&self, found: &Found) -> bool {
        let config = &self.config.search;
        let agreed = |passage: &Passage| {
            passage.scores.lexical.is_some_and(|stage| stage.rank <= AGREED_RANK)
                && passage.scores.vector.is_some_and(|stage| stage.score >= config.min_similarity_agreed)
        };
        !found.passages.is_empty()
            && (found.best_similarity.is_none_or(|best| best >= config.min_similarity)
                || found.passages.iter().any(agreed))
    }

    /// Packs what fits into the prompt: passages, and of the conversation the newest messages; `None` where no passage
    /// fits.
    fn pack(&self, passages: Vec<Passage>) -> Option<Evidence> {
        let (engine, config) = (&*self.engine, &self.config.answer);
        let Question { question, messages, .. } = &*self.question;
        let count = |text: &str| engine.count_tokens(text);
        let costs: Vec<usize> =
            passages.iter().enumerate().map(|(n, passage)| count(&prompt::render_passage(n + 1, passage))).collect();
        let bare = engine.prompt(&prompt::conversation(&[], &[], question)).len();
        let room = engine.context().saturating_sub(bare + self.setting + self.max_tokens);
        let packed = budget::pack(&passages, &costs, room.min(config.evidence_tokens), config.max_passages);
        let chosen: Vec<&Passage> = packed.iter().map(|&n| &passages[n]).collect();
        if chosen.is_empty() {
            return None;
        }
        let used: usize = packed.iter().map(|&n| costs[n]).sum();
        let history = config.history_tokens.saturating_sub(self.setting);
        let left = room.saturating_sub(used + 16).min(history);
        let earlier = prompt::newest_within(messages, left, &count);
        let manner = Manner {
            setup: self.setup,
            earlier: &earlier,
            sampling: &self.sampling,
            max_tokens: self.max_tokens,
            stop: &self.stop,
        };
        let (answer, near) = evidence::answer_keys(question, &chosen, &manner);
        let prompt = engine.prompt(&prompt::conversation(&chosen, &earlier, question));
        let sources = self.sources(&chosen);
        let texts = chosen.iter().map(|passage| passage.text.clone()).collect();
        Some(Evidence { sources, texts, prompt, answer, near })
    }

    /// Passages as the sources of an answer.
    fn sources(&self, passages: &[&Passage]) -> Vec<Source> {
        passages
            .iter()
            .zip(1..)
            .map(|(passage, n)| Source {
                n,
                document_id: passage.document_id.clone(),
                title: passage.title.clone(),
                section: passage.section.clone(),
                page: passage.page,
                url: passage.url.clone(),
                snippet: snippet(&passage.text, &self.question.question, SNIPPET_CHARS),
                score: passage.scores.fused,
                revision: passage.revision,
                start: passage.start,
                end: passage.end,
            })
            .collect()
    }
}
