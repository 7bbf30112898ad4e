//! What becomes of a question, a conversation and passages: the query, the prompt, its markup, the cache's keys, snippets.
//!
//! Input: the question, the conversation as JSON, the passages as JSON, and numbers (tokens for the evidence and for the
//! conversation, passages at most, characters of a snippet), between separators.
#![no_main]

use answerd_fuzz::answer::budget::pack;
use answerd_fuzz::answer::evidence::{Key, Manner, answer_keys, gist, normalised};
use answerd_fuzz::answer::prompt::{conversation, newest_within, render_passage, retrieval_query};
use answerd_fuzz::harness::{texts, words};
use answerd_fuzz::models::chat::{AROUND, ChatTemplate, Message, Role, render};
use answerd_fuzz::models::{Sampling, Segment};
use answerd_fuzz::retrieval::passage::{Passage, snippet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut parts = texts(input);
    let question = parts.next().unwrap_or_default();
    let earlier: Vec<Message> = parts.next().and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    let passages: Vec<Passage> = parts.next().and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    let numbers = parts.next().unwrap_or_default();
    let mut numbers = numbers.split_whitespace().map(|number| number.parse().unwrap_or(100));
    let mut number = || numbers.next().unwrap_or(100);

    let costs: Vec<usize> = passages.iter().map(|passage| words(&render_passage(1, passage))).collect();
    let (available, most) = (number(), number());
    let chosen = pack(&passages, &costs, available, most);
    assert!(chosen.len() <= most && chosen.windows(2).all(|two| two[0] < two[1]), "{chosen:?}");
    assert!(chosen.iter().map(|&n| costs[n]).sum::<usize>() <= available, "{chosen:?} of {costs:?} in {available}");
    let chosen: Vec<&Passage> = chosen.iter().map(|&n| &passages[n]).collect();

    let tokens = number();
    let kept = newest_within(&earlier, tokens, &words);
    let is_said = |message: &&Message| message.role != Role::System;
    let said: Vec<&Message> = kept.iter().filter(is_said).collect();
    assert!(said.first().is_none_or(|first| first.role == Role::User), "it begins with {said:?}");
    assert!(said.iter().map(|message| words(&message.content) + AROUND).sum::<usize>() <= tokens);
    let all: Vec<&Message> = earlier.iter().filter(is_said).collect();
    assert!(all.ends_with(&said), "not the newest");
    assert_eq!(kept.len() - said.len(), earlier.len() - all.len(), "what sets it up is kept");

    let whole = conversation(&chosen, &kept, &question);
    assert!(whole.last().is_some_and(|last| last.role == Role::User && last.content.ends_with(question.trim())));
    for template in [ChatTemplate::ChatMl, ChatTemplate::Llama3, ChatTemplate::Mistral, ChatTemplate::Gemma] {
        check_markup(template, &whole);
    }
    ChatTemplate::detect(Some(&question));

    assert!(retrieval_query(&question, &earlier).starts_with(&*question));
    let plain = normalised(&question);
    assert_eq!(normalised(&plain), plain, "of {question:?}");
    assert_eq!(gist(&plain), gist(&question), "of {question:?}");
    let sampling = Sampling::default();
    let setup = Key::of("setup", &1);
    let manner = Manner { setup, earlier: &kept, sampling: &sampling, max_tokens: tokens, stop: &[] };
    assert_eq!(answer_keys(&plain, &chosen, &manner), answer_keys(&question, &chosen, &manner));

    let most = number().clamp(1, 10_000);
    for passage in &passages {
        let shown = snippet(&passage.text, &question, most);
        assert!(shown.chars().count() <= most + 4, "{} characters of {most}: {shown}", shown.chars().count());
    }
});

/// Nothing that anybody says is control.
fn check_markup(template: ChatTemplate, conversation: &[Message]) {
    let control = |messages: &[Message]| {
        let control = render(template, messages).into_iter().filter_map(|segment| match segment {
            Segment::Control(text) => Some(text),
            Segment::Text(_) => None,
        });
        control.collect::<Vec<_>>()
    };
    let silent: Vec<Message> =
        conversation.iter().map(|message| Message { role: message.role, content: "x".to_owned() }).collect();
    assert_eq!(control(conversation), control(&silent), "{template:?}");
}
