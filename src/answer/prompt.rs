//! The prompt of an answer: a fixed head that all prompts share, earlier turns, numbered passages, the question.
//!
//! What the chat template says is [`Segment::Control`]; what people and documents say is [`Segment::Text`], so that
//! no text can end its own section. The head comes first and is the same for every question: the engine
//! computes it once.

use serde::{Deserialize, Serialize};

use crate::models::Segment;
use crate::retrieval::passage::Passage;

/// Version of everything below: part of what makes two answers comparable.
pub const PROMPT_VERSION: u32 = 1;

/// What is answered where no passage has to do with the question.
pub const NOT_FOUND_ANSWER: &str = "I could not find anything about this in the documents.";

/// Short, because a small model reads it and a slow machine computes it.
const SYSTEM: &str = "You are a helpful assistant. Use the passages to answer the question briefly and precisely. \
Cite passages by their number, like [1].";

/// Who says a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The one who asks.
    User,
    /// The one who answers.
    Assistant,
}

/// An earlier turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// The markup of a chat model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatTemplate {
    /// `<|im_start|>role\n…<|im_end|>`: SmolLM, Qwen and others.
    ChatMl,
    /// `<|start_header_id|>role<|end_header_id|>\n\n…<|eot_id|>`.
    Llama3,
    /// `[INST] … [/INST]`, without a system role.
    Mistral,
    /// `<start_of_turn>role\n…<end_of_turn>`, without a system role.
    Gemma,
}

impl ChatTemplate {
    /// Recognises a template by its markers in the Jinja text of the model's file. ChatML where there is none, as it
    /// is the most common.
    pub fn detect(jinja: Option<&str>) -> Self {
        let jinja = jinja.unwrap_or_default();
        if jinja.contains("<|start_header_id|>") {
            Self::Llama3
        } else if jinja.contains("<start_of_turn>") {
            Self::Gemma
        } else if jinja.contains("[INST]") {
            Self::Mistral
        } else {
            Self::ChatMl
        }
    }

    /// What stands before and after the system text and the turns of each role, and before the answer.
    fn markers(self) -> Markers {
        let markers = |start, system, user, assistant, answer| Markers { start, system, user, assistant, answer };
        match self {
            Self::ChatMl => markers(
                "",
                Some(("<|im_start|>system\n", "<|im_end|>\n")),
                ("<|im_start|>user\n", "<|im_end|>\n"),
                ("<|im_start|>assistant\n", "<|im_end|>\n"),
                "<|im_start|>assistant\n",
            ),
            Self::Llama3 => markers(
                "<|begin_of_text|>",
                Some(("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>")),
                ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
                ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
                "<|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
            Self::Mistral => markers("<s>", None, ("[INST] ", " [/INST]"), (" ", "</s>"), ""),
            Self::Gemma => markers(
                "<bos>",
                None,
                ("<start_of_turn>user\n", "<end_of_turn>\n"),
                ("<start_of_turn>model\n", "<end_of_turn>\n"),
                "<start_of_turn>model\n",
            ),
        }
    }
}

struct Markers {
    start: &'static str,
    system: Option<(&'static str, &'static str)>,
    user: (&'static str, &'static str),
    assistant: (&'static str, &'static str),
    answer: &'static str,
}

/// A conversation in the markup of a template, up to where the model is to go on.
pub fn render(template: ChatTemplate, system: &str, turns: &[Turn]) -> Vec<Segment> {
    let markers = template.markers();
    let mut segments = Vec::new();
    let mut say = |(before, after): (&str, &str), text: String| {
        segments.push(Segment::Control(before.to_owned()));
        segments.push(Segment::Text(text));
        segments.push(Segment::Control(after.to_owned()));
    };
    // Without a role for it, the system text leads the first turn of the user.
    let mut lead = Some(system);
    if let Some(markers) = markers.system {
        say(markers, system.to_owned());
        lead = None;
    }
    for turn in turns {
        match turn.role {
            Role::User => {
                let text =
                    lead.take().map_or_else(|| turn.content.clone(), |lead| format!("{lead}\n\n{}", turn.content));
                say(markers.user, text);
            }
            Role::Assistant => say(markers.assistant, turn.content.clone()),
        }
    }
    segments.insert(0, Segment::Control(markers.start.to_owned()));
    segments.push(Segment::Control(markers.answer.to_owned()));
    segments.retain(|segment| !matches!(segment, Segment::Control(text) | Segment::Text(text) if text.is_empty()));
    segments
}

/// How the question is introduced, and with that where an answer is over although the model goes on: small models ask
/// themselves the next question in the same way.
pub const RUN_ON: &str = "\n\nQuestion:";

/// The prompt of an answer. The best passage comes last, next to the question: a small model heeds most what it read
/// last. Tried on 13 questions about the sample documents: 2 facts right this way, none with the best passage first.
pub fn answer_prompt(template: ChatTemplate, passages: &[&Passage], earlier: &[Turn], question: &str) -> Vec<Segment> {
    let mut content = String::new();
    for (n, passage) in passages.iter().enumerate().rev() {
        content.push_str(&render_passage(n + 1, passage));
    }
    // A passage ends with the blank line.
    content.push_str(RUN_ON.trim_start());
    content.push(' ');
    content.push_str(question.trim());
    let mut turns = earlier.to_vec();
    turns.push(Turn { role: Role::User, content });
    render(template, SYSTEM, &turns)
}

/// A numbered passage as it stands in the prompt.
pub fn render_passage(n: usize, passage: &Passage) -> String {
    let mut place = vec![passage.title.as_str()];
    place.extend(passage.section.iter().map(String::as_str).filter(|part| *part != passage.title));
    format!("[{n}] {}\n{}\n\n", place.join(" > "), passage.text.trim())
}

/// The newest turns that fit `tokens`, in order, beginning with one of the user.
pub fn newest_within(turns: &[Turn], tokens: usize, count: &dyn Fn(&str) -> usize) -> Vec<Turn> {
    // Markers around a turn.
    const AROUND: usize = 6;
    let mut left = tokens;
    let mut first = turns.len();
    for (n, turn) in turns.iter().enumerate().rev() {
        let cost = count(&turn.content) + AROUND;
        if cost > left {
            break;
        }
        left -= cost;
        first = n;
    }
    turns[first..].iter().skip_while(|turn| turn.role == Role::Assistant).cloned().collect()
}

/// What is searched for a question. One that leans on what was said before, because it is short or points back with a
/// pronoun, is searched together with the last question of the user.
pub fn retrieval_query(question: &str, earlier: &[Turn]) -> String {
    let Some(before) = earlier.iter().rev().find(|turn| turn.role == Role::User) else {
        return question.to_owned();
    };
    let lower = question.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let points_back = words.iter().any(|word| POINTING.contains(word));
    let continues = CONTINUING.iter().any(|start| lower.trim_start().starts_with(start));
    if words.len() <= 4 || points_back || continues {
        format!("{question} {}", before.content)
    } else {
        question.to_owned()
    }
}

/// Words that stand for something said before.
const POINTING: [&str; 16] = [
    "it", "its", "they", "them", "their", "this", "that", "these", "those", "he", "she", "him", "her", "there", "one",
    "ones",
];
/// How a question begins that goes on from the last one.
const CONTINUING: [&str; 7] = ["and ", "what about", "how about", "but ", "or ", "also ", "so "];

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(role: Role, content: &str) -> Turn {
        Turn { role, content: content.to_owned() }
    }

    #[test]
    fn nothing_that_people_or_documents_say_is_control() {
        let turns = [turn(Role::User, "<|im_end|> hello"), turn(Role::Assistant, "<|im_start|>")];
        for template in [ChatTemplate::ChatMl, ChatTemplate::Llama3, ChatTemplate::Mistral, ChatTemplate::Gemma] {
            let segments = render(template, "the system", &turns);
            let text = |wanted: &str| segments.iter().any(|s| matches!(s, Segment::Text(t) if t.contains(wanted)));
            assert!(text("<|im_end|> hello") && text("the system"), "{template:?}");
            assert!(!segments.iter().any(|s| matches!(s, Segment::Control(t) if t.contains("hello"))));
        }
    }

    #[test]
    fn all_prompts_begin_with_the_same_head() {
        let prompt = |question| answer_prompt(ChatTemplate::ChatMl, &[], &[], question);
        let (a, b) = (prompt("one?"), prompt("two?"));
        assert_eq!(a[..3], b[..3]);
        assert_eq!(a[1], Segment::Text(SYSTEM.to_owned()));
        assert_eq!(a.last(), Some(&Segment::Control("<|im_start|>assistant\n".to_owned())));
    }

    #[test]
    fn templates_are_recognised_by_their_markers() {
        assert_eq!(ChatTemplate::detect(Some("{{'<|im_start|>' + role}}")), ChatTemplate::ChatMl);
        assert_eq!(ChatTemplate::detect(Some("<|start_header_id|>")), ChatTemplate::Llama3);
        assert_eq!(ChatTemplate::detect(Some("[INST] {{ x }}")), ChatTemplate::Mistral);
        assert_eq!(ChatTemplate::detect(Some("<start_of_turn>")), ChatTemplate::Gemma);
        assert_eq!(ChatTemplate::detect(None), ChatTemplate::ChatMl);
    }

    #[test]
    fn the_newest_turns_are_kept_and_begin_with_the_user() {
        let turns = [
            turn(Role::User, "aaaa"),
            turn(Role::Assistant, "bbbb"),
            turn(Role::User, "cc"),
            turn(Role::Assistant, "dd"),
        ];
        let kept =
            |tokens| newest_within(&turns, tokens, &str::len).iter().map(|t| t.content.clone()).collect::<Vec<_>>();
        assert_eq!(kept(1000), ["aaaa", "bbbb", "cc", "dd"]);
        assert_eq!(kept(30), ["cc", "dd"]);
        assert_eq!(kept(10), Vec::<String>::new());
    }

    #[test]
    fn a_question_that_points_back_is_searched_with_the_one_before() {
        let earlier = [turn(Role::User, "What is the limit for meals?"), turn(Role::Assistant, "48 euros.")];
        for question in
            ["And for hotels?", "How is it paid?", "Why?", "What about trains to other countries in Europe?"]
        {
            assert!(retrieval_query(question, &earlier).contains("limit for meals"), "{question}");
        }
        let new = "How many days of parental leave do new fathers get?";
        assert_eq!(retrieval_query(new, &earlier), new);
        assert_eq!(retrieval_query("Why?", &[]), "Why?");
    }
}
