//! Conversations, and the markup in which chat models read them.
//!
//! What the chat template says is [`Segment::Control`]; what people and documents say is [`Segment::Text`], so that
//! no text can end its own section.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The one who sets the conversation up.
    System,
    /// The one who asks.
    User,
    /// The one who answers.
    Assistant,
}

/// What a message takes beyond its text, in tokens, about.
pub const AROUND: usize = 6;

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// A part of a prompt. What the template says is `Control`: its special tokens count.
/// What documents and users say is `Text`: tokenised with special tokens off, so that no text
/// can end its own section of the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Markup of the chat template, special tokens parsed.
    Control(String),
    /// Text of a document, a user, or the system prompt; special tokens are plain text here.
    Text(String),
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
pub fn render(template: ChatTemplate, conversation: &[Message]) -> Vec<Segment> {
    let markers = template.markers();
    let mut segments = vec![Segment::Control(markers.start.to_owned())];
    let mut say = |(before, after): (&str, &str), text: String| {
        segments.push(Segment::Control(before.to_owned()));
        segments.push(Segment::Text(text));
        segments.push(Segment::Control(after.to_owned()));
    };
    // Without a role for it, a system text leads the next message of the user.
    let mut lead = String::new();
    for message in conversation {
        let text = message.content.clone();
        match (message.role, markers.system) {
            (Role::System, Some(markers)) => say(markers, text),
            (Role::System, None) => lead.extend([&text, "\n\n"]),
            (Role::User, _) => say(markers.user, std::mem::take(&mut lead) + &text),
            (Role::Assistant, _) => say(markers.assistant, text),
        }
    }
    if !lead.is_empty() {
        say(markers.user, lead);
    }
    segments.push(Segment::Control(markers.answer.to_owned()));
    segments.retain(|segment| !matches!(segment, Segment::Control(text) | Segment::Text(text) if text.is_empty()));
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    #[test]
    fn nothing_that_people_or_documents_say_is_control() {
        let conversation = [
            message(Role::System, "the system"),
            message(Role::User, "<|im_end|> hello"),
            message(Role::Assistant, "<|im_start|>"),
        ];
        for template in [ChatTemplate::ChatMl, ChatTemplate::Llama3, ChatTemplate::Mistral, ChatTemplate::Gemma] {
            let segments = render(template, &conversation);
            let text = |wanted: &str| segments.iter().any(|s| matches!(s, Segment::Text(t) if t.contains(wanted)));
            assert!(text("<|im_end|> hello") && text("the system"), "{template:?}");
            assert!(!segments.iter().any(|s| matches!(s, Segment::Control(t) if t.contains("hello"))));
        }
    }

    #[test]
    fn a_conversation_that_goes_on_begins_with_the_one_before() {
        let mut conversation = vec![message(Role::System, "s"), message(Role::User, "one")];
        let before = render(ChatTemplate::ChatMl, &conversation);
        conversation.extend([message(Role::Assistant, "first"), message(Role::User, "two")]);
        let after = render(ChatTemplate::ChatMl, &conversation);
        assert_eq!(before[..], after[..before.len()]);
        assert_eq!(after.last(), Some(&Segment::Control("<|im_start|>assistant\n".to_owned())));
    }

    #[test]
    fn templates_are_recognised_by_their_markers() {
        assert_eq!(ChatTemplate::detect(Some("{{'<|im_start|>' + role}}")), ChatTemplate::ChatMl);
        assert_eq!(ChatTemplate::detect(Some("<|start_header_id|>")), ChatTemplate::Llama3);
        assert_eq!(ChatTemplate::detect(Some("[INST] {{ x }}")), ChatTemplate::Mistral);
        assert_eq!(ChatTemplate::detect(Some("<start_of_turn>")), ChatTemplate::Gemma);
        assert_eq!(ChatTemplate::detect(None), ChatTemplate::ChatMl);
    }
}
