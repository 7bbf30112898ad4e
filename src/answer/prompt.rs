//! The conversation a model is given to answer: a fixed head that all prompts share, earlier turns, numbered passages, the question.
//!
//! The head comes first and is the same for every question: the engine computes it once.

use crate::models::chat::{AROUND, Message, Role};
use crate::retrieval::passage::Passage;

/// Version of everything below: part of what makes two answers comparable.
pub const PROMPT_VERSION: u32 = 1;

/// What is answered where no passage has to do with the question.
pub const NOT_FOUND_ANSWER: &str = "I could not find anything about this in the documents.";

/// Short, because a small model reads it and a slow machine computes it.
const SYSTEM: &str = "You are a helpful assistant. Use the passages to answer the question briefly and precisely. \
Cite passages by their number, like [1].";

/// How the question is introduced, and with that where an answer is over although the model goes on: small models ask
/// themselves the next question in the same way.
pub const RUN_ON: &str = "\n\nQuestion:";

/// The prompt of an answer. The best passage comes last, next to the question: a small model heeds most what it read
/// last. Tried on 13 questions about the sample documents: 2 facts right this way, none with the best passage first.
pub fn conversation(passages: &[&Passage], earlier: &[Message], question: &str) -> Vec<Message> {
    let mut content = String::new();
    for (n, passage) in passages.iter().enumerate().rev() {
        content.push_str(&render_passage(n + 1, passage));
    }
    // A passage ends with the blank line.
    content.push_str(RUN_ON.trim_start());
    content.push(' ');
    content.push_str(question.trim());
    let head = Message { role: Role::System, content: SYSTEM.to_owned() };
    let question = Message { role: Role::User, content };
    std::iter::once(head).chain(earlier.iter().cloned()).chain([question]).collect()
}

/// A numbered passage as it stands in the prompt.
pub fn render_passage(n: usize, passage: &Passage) -> String {
    let mut place = vec![passage.title.as_str()];
    place.extend(passage.section.iter().map(String::as_str).filter(|part| *part != passage.title));
    format!("[{n}] {}\n{}\n\n", place.join(" > "), passage.text.trim())
}

/// Those that set the conversation up, and the newest of the others that fit `tokens`, beginning with one of the user; in
/// order.
pub fn newest_within(messages: &[Message], tokens: usize, count: &dyn Fn(&str) -> usize) -> Vec<Message> {
    let cost = |message: &Message| count(&message.content) + AROUND;
    let (setting, said): (Vec<&Message>, Vec<&Message>) =
        messages.iter().partition(|message| message.role == Role::System);
    let mut left = tokens;
    let mut first = said.len();
    for (n, message) in said.iter().enumerate().rev() {
        let cost = cost(message);
        if cost > left {
            break;
        }
        left -= cost;
        first = n;
    }
    let said = said[first..].iter().skip_while(|message| message.role == Role::Assistant);
    setting.iter().chain(said).map(|message| (*message).clone()).collect()
}

/// What is searched for a question. One that leans on what was said before, because it is short or points back with a
/// pronoun, is searched together with the user's question before it, and so on back to one that stands by itself.
pub fn retrieval_query(question: &str, earlier: &[Message]) -> String {
    let before = earlier.iter().rev().filter(|turn| turn.role == Role::User).map(|turn| turn.content.as_str());
    let mut query = vec![question];
    for before in before.take(LEANED_ON) {
        if !leans(query[query.len() - 1]) {
            break;
        }
        query.push(before);
    }
    query.join(" ")
}

/// Whether a question says little without what was said before it.
fn leans(question: &str) -> bool {
    let lower = question.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let points_back = words.iter().any(|word| POINTING.contains(word));
    let continues = CONTINUING.iter().any(|start| lower.trim_start().starts_with(start));
    words.len() <= 4 || points_back || continues
}

/// The most questions before one that it can lean on.
const LEANED_ON: usize = 3;
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

    fn turn(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    #[test]
    fn all_conversations_begin_with_the_same_head() {
        let (a, b) = (conversation(&[], &[], "one?"), conversation(&[], &[], "two?"));
        assert_eq!(a[0], b[0]);
        assert_eq!((a[0].role, a[0].content.as_str()), (Role::System, SYSTEM));
        assert!(b[1].content.ends_with("two?"));
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
        let mut turns = turns.to_vec();
        turns.insert(0, turn(Role::System, "s"));
        assert_eq!(newest_within(&turns, 30, &str::len)[0].content, "s");
    }

    #[test]
    fn a_question_that_points_back_is_searched_with_the_one_before() {
        let earlier = [turn(Role::User, "What is the limit for meals?"), turn(Role::Assistant, "48 euros.")];
        for question in
            ["And for hotels?", "How is it paid?", "Why?", "What about trains to other countries in Europe?"]
        {
            assert!(retrieval_query(question, &earlier).contains("limit for meals"), "{question}");
        }
        let earlier = [earlier.as_slice(), &[turn(Role::User, "And for hotels?")]].concat();
        let query = retrieval_query("And abroad?", &earlier);
        assert!(query.starts_with("And abroad?") && query.contains("hotels") && query.contains("limit for meals"));
        let new = "How many days of parental leave do new fathers get?";
        assert_eq!(retrieval_query(new, &earlier), new);
        assert_eq!(retrieval_query("Why?", &[]), "Why?");
    }
}
